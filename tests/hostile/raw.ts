/** A connection without a protocol: sends any bytes, says what came back and whether it is still open. */
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** After this long without taking a byte the server is taken to refuse more. */
const STALL_MS = 10_000

export class Raw {
  readonly socket: Socket
  closed = false
  #text = ''
  #wake: (() => void) | undefined

  static async open(port: number): Promise<Raw> {
    const raw = new Raw(connect({ port, host: '127.0.0.1', noDelay: true }))
    await raw.until(/\r\n/)
    return raw
  }

  constructor(socket: Socket) {
    this.socket = socket
    socket.on('data', (chunk: Buffer) => {
      this.#text = (this.#text + chunk.toString('latin1')).slice(-200_000)
      this.#wake?.()
    })
    socket.on('error', () => this.#end())
    socket.on('close', () => this.#end())
  }

  get text(): string {
    return this.#text
  }

  forget(): void {
    this.#text = ''
  }

  write(bytes: string | Buffer): void {
    if (!this.socket.destroyed) this.socket.write(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes)
  }

  /** Writes as fast as the server takes it; stops when the server closes. Returns the bytes that were handed over. */
  async pour(chunk: Buffer, times: number): Promise<number> {
    let poured = 0
    for (let at = 0; at < times && !this.closed; at++) {
      poured += chunk.length
      if (!this.socket.write(chunk)) {
        await this.#drained()
        if (this.socket.writableNeedDrain && !this.closed) return poured
      }
    }
    return poured
  }

  /** Resolves with everything received once it matches or the connection is closed; throws after the time is up. */
  async until(pattern: RegExp, ms = 15_000): Promise<string> {
    const deadline = Date.now() + ms
    while (!pattern.test(this.#text) && !this.closed) {
      const left = deadline - Date.now()
      if (left <= 0) throw new Error(`no answer within ${ms} ms; so far: ${this.#text.slice(-500)}`)
      await Promise.race([
        new Promise<void>((resolve) => {
          this.#wake = resolve
        }),
        sleep(Math.min(left, 200), undefined, { ref: false }),
      ])
    }
    return this.#text
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.destroy()
    await Promise.resolve()
  }

  /** Resolves when the server takes more, the connection ends, or nothing happens for long. */
  async #drained(): Promise<void> {
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer)
        this.socket.off('drain', done)
        this.socket.off('close', done)
        resolve()
      }
      const timer = setTimeout(done, STALL_MS)
      this.socket.once('drain', done)
      this.socket.once('close', done)
    })
  }

  #end(): void {
    this.closed = true
    this.#wake?.()
  }
}
