/**
 * What a connection writes: replies and FETCH data go into one 64 KiB chunk, and from there to the socket.
 *
 * INVARIANTS
 *   1. A connection has a chunk only from its first byte until the flush at the end of the turn of the event loop, so idle
 *      connections have none. Chunks come from one pool for all connections.
 *   2. A chunk goes back to the pool when the kernel has its bytes: at once where they were copied out (small
 *      replies), otherwise when the write is done. Only sockets of the kernel take part; other streams may keep what they are given.
 *   3. Order is kept: what was written into the chunk goes before bytes that are handed over by reference.
 *   4. Nothing is allocated per message; one closure per 64 KiB.
 */
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { DATE_TIME_BYTES, writeDateTime } from './date.ts'
import { writeFlags } from './replies.ts'
import type { CacheSource, FetchWriter, SelectedMailbox } from './session.ts'

export const CHUNK_BYTES: number = 64 * 1024
/** Replies up to this size are copied out of the chunk, which then serves the next connection of the same turn. */
const SMALL_BYTES = 2048
/** Bytes handed over are not copied from this size on. */
const DIRECT_BYTES = 8192
/** `pending` makes callers wait while the socket holds more than this. */
const CONGESTED_BYTES: number = 256 * 1024
/** … and lets other connections have a turn after this much. */
const TURN_BYTES: number = 1024 * 1024
/** Chunks kept for reuse. */
const POOL_CHUNKS = 64

const pool: Buffer[] = []
const takeChunk = (): Buffer => pool.pop() ?? Buffer.allocUnsafeSlow(CHUNK_BYTES)
const giveBack = (chunk: Buffer): void => {
  if (pool.length < POOL_CHUNKS) pool.push(chunk)
}

const dirty: Output[] = []
let scheduled = false
function flushAll(): void {
  scheduled = false
  const list = dirty.splice(0)
  for (const output of list) output.turnEnds()
}

/** The client is gone: nobody reads what is written. */
export class ConnectionGone extends Error {
  override readonly name = 'ConnectionGone'
}

/** A rejection that nobody awaits is no error of the process. */
export function unheard(promise: Promise<void>): Promise<void> {
  promise.catch(() => undefined)
  return promise
}

const STAR_SPACE = ascii('* ')
const FETCH_OPEN = ascii(' FETCH (')
const UID = ascii('UID ')
const FLAGS = ascii('FLAGS ')
const MODSEQ = ascii('MODSEQ (')
const INTERNALDATE = ascii('INTERNALDATE ')
const RFC822_SIZE = ascii('RFC822.SIZE ')
const NIL = ascii('NIL')

const SPACE = 0x20
const CLOSE = 0x29
const CR = 13
const LF = 10

function ascii(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, 'latin1'))
}

export class Output implements FetchWriter {
  #socket: Duplex
  #pooled: boolean
  #chunk: Buffer | undefined = undefined
  #used = 0
  #dirty = false
  /** Somebody reads into the chunk: it must not go. */
  #reserved = false
  #turnBytes = 0
  #gone = false
  #waiting: PromiseWithResolvers<void> | undefined = undefined
  /** Inside `begin` … `end`, and whether an item was written. */
  #open = false
  #first = true
  #literalLeft = 0
  /** Counts writes that the kernel took: progress, for the timeout. */
  progress = 0

  constructor(socket: Duplex) {
    this.#socket = socket
    this.#pooled = socket instanceof Socket
  }

  /** STARTTLS. */
  useSocket(socket: Duplex): void {
    this.flush()
    this.#socket = socket
    this.#pooled = socket instanceof Socket
  }

  /** Bytes that the client has not taken yet. */
  get unsentBytes(): number {
    return this.#used + this.#socket.writableLength
  }

  get gone(): boolean {
    return this.#gone
  }

  /** Nobody listens any more. Waiters are told; what is written is dropped. */
  fail(): void {
    if (this.#gone) return
    this.#gone = true
    if (this.#chunk !== undefined && !this.#reserved) this.#drop()
    const waiting = this.#waiting
    this.#waiting = undefined
    waiting?.reject(new ConnectionGone('the client is gone'))
  }

  #drop(): void {
    giveBack(this.#chunk!)
    this.#chunk = undefined
    this.#used = 0
  }

  /** Makes room for `count` bytes, at most `CHUNK_BYTES`. */
  #room(count: number): Buffer {
    let chunk = this.#chunk
    if (chunk !== undefined && this.#used + count > CHUNK_BYTES) {
      this.flush()
      chunk = this.#chunk
    }
    if (chunk === undefined) {
      chunk = takeChunk()
      this.#chunk = chunk
      this.#used = 0
      this.#flushLater()
    }
    return chunk
  }

  #flushLater(): void {
    if (this.#dirty) return
    this.#dirty = true
    dirty.push(this)
    if (scheduled) return
    scheduled = true
    setImmediate(flushAll)
  }

  /** Sends what was written. */
  flush(): void {
    const chunk = this.#chunk
    if (chunk === undefined || this.#reserved) return
    const used = this.#used
    this.#used = 0
    this.#chunk = undefined
    this.#turnBytes += used
    if (this.#gone || used === 0) {
      giveBack(chunk)
      return
    }
    if (used <= SMALL_BYTES) {
      this.#write(Buffer.from(chunk.subarray(0, used)))
      giveBack(chunk)
    } else {
      this.#socket.write(used === CHUNK_BYTES ? chunk : chunk.subarray(0, used), () => {
        if (this.#pooled) giveBack(chunk)
        this.#written()
      })
    }
  }

  turnEnds(): void {
    this.#dirty = false
    this.flush()
  }

  #written(): void {
    this.progress++
    if (this.#waiting !== undefined && this.#socket.writableLength <= CONGESTED_BYTES / 2) {
      const waiting = this.#waiting
      this.#waiting = undefined
      waiting.resolve()
    }
  }

  pending(): Promise<void> | undefined {
    if (this.#gone) return unheard(Promise.reject(new ConnectionGone('the client is gone')))
    if (this.#socket.writableLength > CONGESTED_BYTES) {
      this.#turnBytes = 0
      if (this.#waiting === undefined) {
        this.#waiting = Promise.withResolvers<void>()
        void unheard(this.#waiting.promise)
      }
      return this.#waiting.promise
    }
    if (this.#turnBytes > TURN_BYTES) {
      this.#turnBytes = 0
      return new Promise((resolve) => setImmediate(resolve))
    }
    return undefined
  }

  // Replies

  /** Characters up to U+00FF, one byte each. */
  text(text: string): void {
    if (text.length > CHUNK_BYTES) {
      this.#copy(Buffer.from(text, 'latin1'))
      return
    }
    const chunk = this.#room(text.length)
    this.#used += chunk.write(text, this.#used, 'latin1')
  }

  /** Wire bytes, copied. */
  raw(bytes: Uint8Array): void {
    this.#copy(bytes)
  }

  number(value: number): void {
    this.#room(20)
    this.#number(value)
  }

  /** One space. */
  gap(): void {
    this.#room(1)[this.#used++] = SPACE
  }

  // FETCH

  keywordsGrew(mailbox: Pick<SelectedMailbox, 'keywords' | 'keywordsCanGrow' | 'permanentFlags' | 'readOnly'>): void {
    writeFlags(this, mailbox)
  }

  begin(sequence: number): void {
    if (this.#open) throw new Error('the FETCH reply before was not ended')
    this.#room(48)
    this.#short(STAR_SPACE)
    this.#number(sequence)
    this.#short(FETCH_OPEN)
    this.#open = true
    this.#first = true
  }

  uid(uid: number): void {
    this.#item(32)
    this.#short(UID)
    this.#number(uid)
  }

  flags(formatted: Uint8Array): void {
    this.#item(16)
    this.#short(FLAGS)
    this.#copy(formatted)
  }

  modSeq(modSeq: number): void {
    const chunk = this.#item(48)
    this.#short(MODSEQ)
    this.#number(modSeq)
    chunk[this.#used++] = CLOSE
  }

  internalDate(ms: number): void {
    const chunk = this.#item(16 + DATE_TIME_BYTES)
    this.#short(INTERNALDATE)
    this.#used = writeDateTime(chunk, this.#used, ms)
  }

  size(bytes: number): void {
    this.#item(40)
    this.#short(RFC822_SIZE)
    this.#number(bytes)
  }

  item(label: Uint8Array, value: Uint8Array): void {
    this.#label(label)
    this.#copy(value)
  }

  itemFrom(label: Uint8Array, source: CacheSource, row: number): boolean {
    // Into the chunk, without a copy between; the label is written once the value is known to be there.
    let chunk = this.#room(label.length + 2)
    const gap = this.#first ? 0 : 1
    let at = this.#used + gap + label.length + 1
    let length = source.copy(row, chunk, at)
    if (length === -1) return false
    if (length < -1) {
      const size = -2 - length
      if (gap + label.length + 1 + size > CHUNK_BYTES) {
        const whole = Buffer.allocUnsafeSlow(size)
        if (source.copy(row, whole, 0) !== size) return false
        this.#label(label)
        this.#hand(whole)
        return true
      }
      this.flush()
      chunk = this.#room(CHUNK_BYTES)
      at = this.#used + gap + label.length + 1
      length = source.copy(row, chunk, at)
      if (length < 0) return false
    }
    this.#label(label)
    this.#used += length
    return true
  }

  nil(label: Uint8Array): void {
    this.#label(label)
    this.#room(3)
    this.#short(NIL)
  }

  literal(label: Uint8Array, value: Uint8Array): void {
    this.literalStart(label, value.length)
    this.bytes(value)
  }

  literalStart(label: Uint8Array, size: number): void {
    this.#label(label)
    const chunk = this.#room(24)
    chunk[this.#used++] = 0x7b
    this.#number(size)
    chunk[this.#used++] = 0x7d
    chunk[this.#used++] = CR
    chunk[this.#used++] = LF
    this.#literalLeft = size
  }

  bytes(chunk: Uint8Array): void {
    this.#count(chunk.length)
    this.#copy(chunk)
  }

  give(chunk: Uint8Array): void {
    this.#count(chunk.length)
    this.#hand(chunk)
  }

  space(atLeast: number): Uint8Array {
    if (this.#literalLeft === 0) throw new Error('no literal was started')
    const chunk = this.#room(Math.min(atLeast, CHUNK_BYTES))
    this.#reserved = true
    return chunk.subarray(this.#used, Math.min(CHUNK_BYTES, this.#used + this.#literalLeft))
  }

  advance(bytes: number): void {
    if (!this.#reserved || this.#used + bytes > CHUNK_BYTES) throw new Error('more bytes than the space had')
    this.#reserved = false
    this.#count(bytes)
    this.#used += bytes
    if (this.#gone) this.#drop()
    else this.#flushLater()
  }

  end(): void {
    if (this.#literalLeft !== 0) throw new Error(`${this.#literalLeft} bytes of a literal are missing`)
    const chunk = this.#room(3)
    chunk[this.#used++] = CLOSE
    chunk[this.#used++] = CR
    chunk[this.#used++] = LF
    this.#open = false
  }

  /**
   * After a session failed: ends a FETCH reply that it left open. False if that cannot be done (bytes of a literal are
   * missing, or nothing was said): the connection cannot go on.
   */
  repair(): boolean {
    this.#reserved = false
    if (!this.#open) return true
    if (this.#literalLeft !== 0 || this.#first) return false
    this.end()
    return true
  }

  #count(bytes: number): void {
    if (bytes > this.#literalLeft) throw new Error('more bytes than the literal has')
    this.#literalLeft -= bytes
  }

  /** Room for `count` bytes after the space before an item. */
  #item(count: number): Buffer {
    if (this.#literalLeft !== 0) throw new Error(`${this.#literalLeft} bytes of a literal are missing`)
    const chunk = this.#room(count + 1)
    if (this.#first) this.#first = false
    else chunk[this.#used++] = SPACE
    return chunk
  }

  #label(label: Uint8Array): void {
    this.#item(Math.min(label.length + 1, CHUNK_BYTES - 1))
    this.#copy(label)
    this.#room(1)[this.#used++] = SPACE
  }

  /** Bytes up to 16: a loop is faster than a call. Room was made. */
  #short(bytes: Uint8Array): void {
    const chunk = this.#chunk!
    let at = this.#used
    for (let i = 0; i < bytes.length; i++) chunk[at++] = bytes[i]!
    this.#used = at
  }

  /** Room was made. */
  #number(value: number): void {
    const chunk = this.#chunk!
    if (value < 10) {
      chunk[this.#used++] = 0x30 + value
      return
    }
    let digits = 1
    for (let bound = 10; bound <= value; bound *= 10) digits++
    const end = this.#used + digits
    let at = end
    let rest = value
    while (rest > 0xffff_ffff) {
      const next = Math.floor(rest / 10)
      chunk[--at] = 0x30 + (rest - next * 10)
      rest = next
    }
    do {
      const next = Math.floor(rest / 10)
      chunk[--at] = 0x30 + (rest - next * 10)
      rest = next
    } while (at > this.#used)
    this.#used = end
  }

  #copy(bytes: Uint8Array): void {
    const { length } = bytes
    if (length <= 24) {
      const chunk = this.#room(length)
      let at = this.#used
      for (let i = 0; i < length; i++) chunk[at++] = bytes[i]!
      this.#used = at
      return
    }
    if (this.#chunk !== undefined && this.#used + length <= CHUNK_BYTES) {
      this.#chunk.set(bytes, this.#used)
      this.#used += length
      return
    }
    let from = 0
    while (from < length) {
      let chunk = this.#room(1)
      if (this.#used === CHUNK_BYTES) {
        this.flush()
        chunk = this.#room(1)
      }
      const count = Math.min(length - from, CHUNK_BYTES - this.#used)
      chunk.set(from === 0 && count === length ? bytes : bytes.subarray(from, from + count), this.#used)
      this.#used += count
      from += count
    }
  }

  /** Bytes that are ours from now on: by reference where that is cheaper than a copy. */
  #hand(bytes: Uint8Array): void {
    if (bytes.length < DIRECT_BYTES) {
      this.#copy(bytes)
      return
    }
    this.flush()
    this.#turnBytes += bytes.length
    if (!this.#gone) this.#write(bytes)
  }

  #write(bytes: Uint8Array): void {
    // Nobody waits for small replies of a connection that is not congested.
    if (bytes.length <= SMALL_BYTES && this.#waiting === undefined && this.#socket.writableLength === 0) {
      this.progress++
      this.#socket.write(bytes)
    } else this.#socket.write(bytes, () => this.#written())
  }
}
