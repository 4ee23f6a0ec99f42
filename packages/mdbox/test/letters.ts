/**
 * A store of attachments for tests: runs of lower-case letters are kept elsewhere, each in a file of its own. What is in use is
 * noted in the values of the box's table.
 */
import type {
  AttachmentBatch,
  AttachmentDrop,
  AttachmentFault,
  AttachmentInline,
  AttachmentMessage,
  AttachmentReader,
  AttachmentStore,
  AttachmentTransaction,
  BoxHost,
} from '@mailstead/box'
import { type Fs, FsError } from '@mailstead/fs'

/** Shorter runs stay. */
export const RUN_MIN = 100

interface Part {
  readonly start: number
  readonly end: number
  readonly key: string
}

export class Letters implements AttachmentStore {
  readonly name = 'letters'
  readonly messageMinBytes: number = RUN_MIN
  readonly #fs: Fs
  readonly #host: BoxHost
  #next = 1
  /** Called when messages are about to go. */
  onDrop: (() => void) | undefined

  constructor(fs: Fs, host: BoxHost) {
    this.#fs = fs
    this.#host = host
  }

  /** Keys of the parts that messages have, by the table. */
  get used(): string[] {
    return [...(this.#host.table.view.values?.keys() ?? [])].filter((key) => key.startsWith('part.')).sort()
  }

  begin(): AttachmentBatch {
    const written: Promise<unknown>[] = []
    const write = (bytes: Uint8Array): string => {
      const key = `part.${this.#next++}`
      written.push(this.#fs.writeFile(`elsewhere/${key}`, bytes))
      return key
    }
    return {
      message: (keep) => new Message(this.#host.table.id, keep, write),
      flush: async () => {
        await Promise.all(written)
      },
      [Symbol.asyncDispose]: async () => {
        await Promise.allSettled(written)
      },
    }
  }

  open(segments: Uint8Array, inline: AttachmentInline): Promise<AttachmentReader> {
    return Promise.resolve(new Reader(this.#fs, partsOf(segments), inline))
  }

  drop(messages: readonly Uint8Array[]): Promise<AttachmentDrop> {
    this.onDrop?.()
    const keys = messages.flatMap(partsOf).map(({ key }) => key)
    return Promise.resolve({
      record: (tx: AttachmentTransaction) => {
        for (const key of keys) {
          tx.expectValue(this.#host.table.id, key, Uint8Array.of(1))
          tx.setValue(this.#host.table.id, key, undefined)
        }
      },
    })
  }

  sweep(): Promise<never> {
    return Promise.reject(new Error('not in these tests'))
  }
  check(): never {
    throw new Error('not in these tests')
  }
  stats(): Promise<never> {
    throw new Error('not in these tests')
  }
  repair(): Promise<never> {
    return Promise.reject(new Error('not in these tests'))
  }
  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve()
  }
}

class Message implements AttachmentMessage {
  readonly #table: string
  readonly #keep: (bytes: Uint8Array) => void | Promise<void>
  readonly #write: (bytes: Uint8Array) => string
  readonly #parts: Part[] = []
  #run: number[] = []
  #at = 0

  constructor(table: string, keep: (bytes: Uint8Array) => void | Promise<void>, write: (bytes: Uint8Array) => string) {
    this.#table = table
    this.#keep = keep
    this.#write = write
  }

  async write(bytes: Uint8Array): Promise<void> {
    const kept = Buffer.alloc(bytes.length + this.#run.length)
    let end = 0
    for (const byte of bytes) {
      this.#at++
      if (byte >= 0x61 && byte <= 0x7a) {
        this.#run.push(byte)
        continue
      }
      end = this.#over(kept, end, this.#at - 1)
      kept[end++] = byte
    }
    await this.#keep(kept.subarray(0, end))
    // Nobody may still look at it.
    kept.fill(0)
  }

  async end(): Promise<Uint8Array | undefined> {
    const kept = Buffer.alloc(this.#run.length)
    await this.#keep(kept.subarray(0, this.#over(kept, 0, this.#at)))
    if (this.#parts.length === 0) return undefined
    return Buffer.from(JSON.stringify(this.#parts))
  }

  record(tx: AttachmentTransaction): void {
    for (const { key } of this.#parts) tx.setValue(this.#table, key, Uint8Array.of(1))
  }

  /** The run ends before the byte at `at`. Returns the end of what is kept. */
  #over(kept: Buffer, end: number, at: number): number {
    const run = Uint8Array.from(this.#run)
    this.#run = []
    if (run.length >= RUN_MIN) this.#parts.push({ start: at - run.length, end: at, key: this.#write(run) })
    else kept.set(run, end)
    return run.length >= RUN_MIN ? end : end + run.length
  }
}

class Reader implements AttachmentReader {
  readonly size: number
  readonly parts: readonly Part[]
  readonly #fs: Fs
  readonly #inline: AttachmentInline

  constructor(fs: Fs, parts: readonly Part[], inline: AttachmentInline) {
    this.#fs = fs
    this.parts = parts
    this.#inline = inline
    this.size = parts.reduce((sum, { start, end }) => sum + end - start, inline.size)
  }

  async read(into: Uint8Array, position: number): Promise<number> {
    const end = Math.min(this.size, position + into.length)
    let before = 0
    for (let at = position; at < end; ) {
      const part = this.parts.find((one) => one.end > at)
      before = this.parts.filter((one) => one.end <= at).reduce((sum, one) => sum + one.end - one.start, 0)
      const stop = Math.min(end, part === undefined ? end : at < part.start ? part.start : part.end)
      const target = into.subarray(at - position, stop - position)
      if (part !== undefined && at >= part.start)
        target.set((await this.#bytes(part)).subarray(at - part.start, stop - part.start))
      else await this.#inline.read(target, at - before)
      at = stop
    }
    return Math.max(0, end - position)
  }

  async #bytes({ key, start, end }: Part): Promise<Uint8Array> {
    const fail = (attachment: AttachmentFault, cause?: unknown): Error =>
      Object.assign(new Error(`${key} is ${attachment}`, { cause }), { attachment, start, end })
    let bytes: Uint8Array
    try {
      bytes = await this.#fs.readFile(`elsewhere/${key}`)
    } catch (error) {
      if (!(error instanceof FsError)) throw error
      throw fail(error.code === 'FS_NOT_FOUND' ? 'absent' : 'unavailable', error)
    }
    if (bytes.length !== end - start) throw fail('damaged')
    return bytes
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve()
  }
}

function partsOf(segments: Uint8Array): Part[] {
  return JSON.parse(Buffer.from(segments).toString()) as Part[]
}
