/**
 * A proxy on loopback that records what a server sends to a client. For a client that rewrites a message before it lets go
 * of it (fetchmail): what it was given is read here, from the wire, and hashed.
 */
import { connect, createServer, type Server as TcpServer, type Socket } from 'node:net'
import { bytesOf, type Value } from './values.ts'
import { fetched, splitResponses } from './imap.ts'

export class Tap {
  readonly port: number
  readonly #server: TcpServer
  readonly #streams: Buffer[][] = []

  static async open(target: number): Promise<Tap> {
    const streams: Buffer[][] = []
    const server = createServer((client: Socket) => {
      const chunks: Buffer[] = []
      streams.push(chunks)
      const upstream = connect({ port: target, host: '127.0.0.1', noDelay: true })
      upstream.on('data', (chunk: Buffer) => chunks.push(chunk))
      upstream.pipe(client)
      client.pipe(upstream)
      client.on('error', () => upstream.destroy())
      upstream.on('error', () => client.destroy())
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const address = server.address()
    if (address === null || typeof address === 'string') throw new Error('no address')
    return new Tap(server, address.port, streams)
  }

  constructor(server: TcpServer, port: number, streams: Buffer[][]) {
    this.#server = server
    this.port = port
    this.#streams = streams
  }

  /** Whole messages that were sent, by sequence number: BODY[] or RFC822, or header and text put together. */
  messages(): Map<number, Buffer> {
    const whole = new Map<number, Buffer>()
    const headers = new Map<number, Buffer>()
    const texts = new Map<number, Buffer>()
    for (const { number, name, value } of this.#fetched()) {
      if (name === 'BODY[]' || name === 'RFC822') whole.set(number, bytesOf(value))
      if (name === 'BODY[HEADER]' || name === 'RFC822.HEADER') headers.set(number, bytesOf(value))
      if (name === 'BODY[TEXT]' || name === 'RFC822.TEXT') texts.set(number, bytesOf(value))
    }
    for (const [number, header] of headers) {
      const text = texts.get(number)
      if (text !== undefined && !whole.has(number)) whole.set(number, Buffer.concat([header, text]))
    }
    return whole
  }

  /** How often a whole message was sent. */
  bodies(): number {
    let count = 0
    for (const { name } of this.#fetched()) if (name === 'BODY[]' || name === 'RFC822') count++
    return count
  }

  *#fetched(): Generator<{ readonly number: number; readonly name: string; readonly value: Value }> {
    for (const chunks of this.#streams)
      for (const response of splitResponses(Buffer.concat(chunks))) {
        if (response.type !== 'FETCH') continue
        for (const [name, value] of fetched(response)) yield { number: response.number ?? 0, name, value }
      }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve())
    })
  }
}
