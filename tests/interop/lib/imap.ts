/**
 * A small, strict IMAP client for tests: commands may be pipelined, literals are exact, every response is kept as its bytes.
 *
 * INVARIANTS
 *   1. Responses are cut at CRLF and at announced literals, nowhere else. No character set is ever assumed.
 *   2. An untagged response belongs to the oldest command that is not finished; with none, it goes to `unsolicited`.
 *   3. A server that closes the connection rejects every command that is not finished; nothing waits for ever.
 */
import { connect, type Socket } from 'node:net'
import { bytesOf, listOf, parseValues, type Value } from './values.ts'

export interface Untagged {
  /** The whole response without its final CRLF, literals included. */
  readonly raw: Buffer
  /** The number in front, as in `* 12 FETCH`. */
  readonly number: number | undefined
  /** FETCH, SEARCH, OK and so on, in capitals. */
  readonly type: string
  /** Everything after the type. Throws for what is not made of values (as the text of OK). */
  values(): readonly Value[]
}

export interface Reply {
  readonly status: 'OK' | 'NO' | 'BAD'
  /** The text after the status, response code included. */
  readonly text: string
  readonly untagged: readonly Untagged[]
}

/** Text goes out as it is, bytes as a literal. */
export type CommandPart = string | Buffer

interface Pending {
  readonly tag: string
  readonly untagged: Untagged[]
  readonly resolve: (reply: Reply) => void
  readonly reject: (error: Error) => void
}

export class ImapError extends Error {
  override readonly name = 'ImapError'
}

export interface ImapOptions {
  readonly host?: string
  /** The local address to come from. (default: the kernel chooses) */
  readonly localAddress?: string
}

export class ImapClient {
  readonly socket: Socket
  readonly unsolicited: Untagged[] = []
  /** From the last CAPABILITY that was seen. */
  capabilities: ReadonlySet<string> = new Set()
  /** The text of the server's BYE, if it said one. */
  bye: string | undefined
  readonly #pending: Pending[] = []
  readonly #goAheads: { resolve: () => void; reject: (error: Error) => void }[] = []
  #watchers: (() => void)[] = []
  #chunks: Buffer[] = []
  #have = 0
  #need = 1
  #next = 1
  #closed: Error | undefined

  static async connect(port: number, options: ImapOptions = {}): Promise<ImapClient> {
    const socket = connect({
      port,
      host: options.host ?? '127.0.0.1',
      noDelay: true,
      ...(options.localAddress === undefined ? {} : { localAddress: options.localAddress }),
    })
    const client = new ImapClient(socket)
    await client.greeting()
    return client
  }

  /** Connects, logs in and asks for the capabilities. */
  static async login(port: number, user: string, password: string, options: ImapOptions = {}): Promise<ImapClient> {
    const client = await ImapClient.connect(port, options)
    await client.ok(`LOGIN ${quote(user)} ${quote(password)}`)
    await client.ok('CAPABILITY')
    return client
  }

  constructor(socket: Socket) {
    this.socket = socket
    socket.on('data', (chunk: Buffer) => this.#data(chunk))
    socket.on('error', (error) => this.#close(error))
    socket.on('close', () => this.#close(new ImapError(`the server closed the connection (${this.bye ?? 'no BYE'})`)))
  }

  get closed(): boolean {
    return this.#closed !== undefined
  }

  async greeting(): Promise<Untagged> {
    await this.until(() => this.unsolicited.length > 0)
    return this.unsolicited.shift()!
  }

  /** Resolves once `done` is true; asked after every response. Rejects when the connection closes first. */
  async until(done: () => boolean): Promise<void> {
    while (!done()) {
      if (this.#closed !== undefined) throw this.#closed
      await new Promise<void>((resolve) => this.#watchers.push(resolve))
    }
  }

  /** Sends a command and resolves with its tagged reply, whatever it is. */
  async command(...parts: readonly CommandPart[]): Promise<Reply> {
    if (this.#closed !== undefined) throw this.#closed
    const tag = `t${this.#next++}`
    const { promise, resolve, reject } = Promise.withResolvers<Reply>()
    this.#pending.push({ tag, untagged: [], resolve, reject })
    promise.catch(() => undefined)
    const nonSync = this.capabilities.has('LITERAL+')
    let text = `${tag} `
    for (const part of parts) {
      if (typeof part === 'string') {
        text += part
        continue
      }
      this.socket.write(`${text}{${part.length}${nonSync ? '+' : ''}}\r\n`, 'latin1')
      text = ''
      if (!nonSync) {
        const answered = await Promise.race([
          this.#goAhead().then(() => 'go' as const),
          promise.then(() => 'done' as const),
        ])
        if (answered === 'done') return promise
      }
      this.socket.write(part)
    }
    this.socket.write(`${text}\r\n`, 'latin1')
    return promise
  }

  /** As `command`, but throws unless the answer is OK. */
  async ok(...parts: readonly CommandPart[]): Promise<Reply> {
    const reply = await this.command(...parts)
    if (reply.status !== 'OK') {
      const shown = parts.map((part) => (typeof part === 'string' ? part : `{${part.length}}`)).join('')
      throw new ImapError(`${shown.slice(0, 200)}: ${reply.status} ${reply.text}`)
    }
    return reply
  }

  /** Appends one message; the UID if the server says it. */
  async append(mailbox: string, bytes: Buffer, options: AppendOptions = {}): Promise<number | undefined> {
    const reply = await this.ok(`APPEND ${quote(mailbox)} ${appendPrefix(options)}`, bytes)
    return appendUid(reply)
  }

  /** FETCH or UID FETCH; one map of items for each message, by the name of the item in capitals. */
  async fetch(set: string, items: string, uid = true): Promise<readonly Fetched[]> {
    const reply = await this.ok(`${uid ? 'UID ' : ''}FETCH ${set} ${items}`)
    return reply.untagged.filter(({ type }) => type === 'FETCH').map(fetched)
  }

  /** Sends bytes as they are; for what no client would send. */
  write(bytes: string | Buffer): void {
    this.socket.write(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes)
  }

  /** A pending command under a tag of the caller's, whose bytes the caller writes himself. */
  async expect(tag: string): Promise<Reply> {
    const { promise, resolve, reject } = Promise.withResolvers<Reply>()
    this.#pending.push({ tag, untagged: [], resolve, reject })
    return promise
  }

  async logout(): Promise<void> {
    await this.command('LOGOUT').catch(() => undefined)
    this.socket.destroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.destroy()
    await Promise.resolve()
  }

  /** Waits for a continuation request. */
  async #goAhead(): Promise<void> {
    await new Promise<void>((resolve, reject) => this.#goAheads.push({ resolve, reject }))
  }

  /** For IDLE and AUTHENTICATE: the next continuation request. */
  async continuation(): Promise<void> {
    await this.#goAhead()
  }

  #data(chunk: Buffer): void {
    this.#chunks.push(chunk)
    this.#have += chunk.length
    if (this.#have < this.#need) return
    const buffer = this.#chunks.length === 1 ? chunk : Buffer.concat(this.#chunks, this.#have)
    let at = 0
    for (;;) {
      const end = this.#responseEnd(buffer, at)
      if (end < 0) break
      this.#response(buffer.subarray(at, end))
      at = end + 2
    }
    const rest = buffer.subarray(at)
    this.#chunks = rest.length === 0 ? [] : [rest]
    this.#have = rest.length
    const watchers = this.#watchers
    this.#watchers = []
    for (const wake of watchers) wake()
  }

  /** Offset of the CRLF that ends the response at `at`, or -1 (then `#need` says how much to wait for). */
  #responseEnd(buffer: Buffer, at: number): number {
    let from = at
    for (;;) {
      const crlf = buffer.indexOf('\r\n', from)
      if (crlf < 0) {
        this.#need = buffer.length - at + 1
        return -1
      }
      const size = literalSize(buffer, from, crlf)
      if (size < 0) return crlf
      from = crlf + 2 + size
      if (from > buffer.length) {
        this.#need = from - at + 2
        return -1
      }
    }
  }

  #response(raw: Buffer): void {
    if (raw[0] === 0x2b) {
      this.#goAheads.shift()?.resolve()
      return
    }
    const space = raw.indexOf(' ')
    const tag = raw.toString('latin1', 0, space)
    if (tag === '*') {
      const untagged = readUntagged(raw)
      if (untagged.type === 'BYE') this.bye = raw.toString('latin1', 6)
      if (untagged.type === 'CAPABILITY') this.#capabilities(raw.toString('latin1', 13))
      const owner = this.#pending[0]
      if (owner === undefined) this.unsolicited.push(untagged)
      else owner.untagged.push(untagged)
      return
    }
    const index = this.#pending.findIndex((pending) => pending.tag === tag)
    const [pending] = index < 0 ? [] : this.#pending.splice(index, 1)
    if (pending === undefined) throw new ImapError(`a reply to no command: ${raw.toString('latin1').slice(0, 200)}`)
    const rest = raw.toString('latin1', space + 1)
    const status = rest.slice(0, rest.indexOf(' ')).toUpperCase()
    if (status !== 'OK' && status !== 'NO' && status !== 'BAD') {
      pending.reject(new ImapError(`not a reply: ${rest}`))
      return
    }
    const text = rest.slice(status.length + 1)
    const listed = /\[CAPABILITY ([^\]]*)\]/i.exec(text)
    if (listed !== null) this.#capabilities(listed[1]!)
    pending.resolve({ status, text, untagged: pending.untagged })
  }

  #capabilities(list: string): void {
    this.capabilities = new Set(list.trim().toUpperCase().split(' '))
  }

  #close(error: Error): void {
    this.#closed ??= error
    for (const pending of this.#pending.splice(0)) pending.reject(this.#closed)
    for (const waiting of this.#goAheads.splice(0)) waiting.reject(this.#closed)
    const watchers = this.#watchers
    this.#watchers = []
    for (const wake of watchers) wake()
  }
}

export interface AppendOptions {
  /** With backslashes: `['\\Seen']`. */
  readonly flags?: readonly string[]
  /** Seconds since the epoch. */
  readonly internalDate?: number
}

export function appendPrefix({ flags, internalDate }: AppendOptions): string {
  const date = internalDate === undefined ? '' : `"${imapDate(internalDate)}" `
  return `${flags === undefined ? '' : `(${flags.join(' ')}) `}${date}`
}

/** `date-time` of RFC 3501, in UTC. */
export function imapDate(seconds: number): string {
  const date = new Date(seconds * 1000)
  const month = date.toLocaleString('en-US', { month: 'short', timeZone: 'UTC' })
  return `${String(date.getUTCDate()).padStart(2)}-${month}-${date.getUTCFullYear()} ${date.toISOString().slice(11, 19)} +0000`
}

/** The last UID of an APPENDUID, if there is one. */
export function appendUid(reply: Reply): number | undefined {
  const match = /\[APPENDUID \d+ (?:[\d:,]*[:,])?(\d+)\]/i.exec(reply.text)
  return match === null ? undefined : Number(match[1])
}

export function quote(text: string): string {
  return `"${text.replace(/[\\"]/g, '\\$&')}"`
}

export type Fetched = ReadonlyMap<string, Value> & { readonly sequence?: number }

/** The items of a FETCH response, by name in capitals. */
export function fetched(response: Untagged): Fetched {
  const items = listOf(response.values()[0])
  const map = new Map<string, Value>()
  for (let at = 0; at + 1 < items.length; at += 2) map.set(String(items[at]).toUpperCase(), items[at + 1]!)
  return Object.assign(map, { sequence: response.number ?? 0 })
}

/** The bytes of the first item whose name begins so. */
export function sectionOf(items: Fetched, prefix: string): Buffer {
  for (const [name, value] of items) if (name.startsWith(prefix)) return bytesOf(value)
  throw new ImapError(`no ${prefix} in ${[...items.keys()].join(' ')}`)
}

function readUntagged(raw: Buffer): Untagged {
  const head = /^\* (?:(\d+) )?([^ ]*)/.exec(raw.toString('latin1', 0, Math.min(raw.length, 80)))
  const number = head?.[1]
  const type = (head?.[2] ?? '').toUpperCase()
  const start = head?.[0].length ?? raw.length
  return {
    raw,
    number: number === undefined ? undefined : Number(number),
    type,
    values: () => parseValues(raw, start),
  }
}

/** The untagged responses in a whole recorded stream. */
export function splitResponses(stream: Buffer): readonly Untagged[] {
  const responses: Untagged[] = []
  let at = 0
  let from = 0
  for (;;) {
    const crlf = stream.indexOf('\r\n', from)
    if (crlf < 0) return responses
    const size = literalSize(stream, from, crlf)
    if (size >= 0) {
      from = crlf + 2 + size
      continue
    }
    if (stream[at] === 0x2a) responses.push(readUntagged(stream.subarray(at, crlf)))
    at = crlf + 2
    from = at
  }
}

/** Size of the literal announced at the end of the line, or -1. */
function literalSize(buffer: Buffer, from: number, crlf: number): number {
  if (buffer[crlf - 1] !== 0x7d) return -1
  let size = 0
  let unit = 1
  let at = crlf - 2
  for (; at > from; at--) {
    const digit = buffer[at]! - 0x30
    if (digit < 0 || digit > 9) break
    size += digit * unit
    unit *= 10
  }
  return buffer[at] === 0x7b && unit > 1 ? size : -1
}
