/**
 * Messages on their way in. Each has a file of its own, flushed by itself; the names of all that are flushed together need one
 * flush more.
 */
import {
  type AttachmentBatch,
  type AttachmentStore,
  type BoxBatch,
  BoxError,
  type BoxMetadata,
  type BoxSaved,
} from '@mailstead/box'
import { type Arrived, Intake, type IntakeHost, type Sink } from '../intake.ts'
import { SMALL_MAX } from '../options.ts'
import { SavedMessage } from '../saved.ts'
import type { SdboxSettings } from './options.ts'
import { inParallel } from './parallel.ts'
import { type Writer, writeFailed, type WrittenFile } from './writer.ts'

const NO_MAILBOX = new Uint8Array(16)

/** What a batch needs of its box. */
export interface BatchHost {
  readonly writer: Writer
  readonly table: string
  readonly options: SdboxSettings
  readonly closed: boolean
  readonly attachments: AttachmentStore | undefined
  forget(batch: Batch): void
}

class Saved extends SavedMessage {
  readonly #mailbox: Uint8Array
  readonly #recordBytes: number
  id = ''

  constructor(host: BatchHost, arrived: Arrived) {
    super(host, arrived)
    this.#mailbox = arrived.metadata.origin?.mailbox ?? NO_MAILBOX
    this.#recordBytes = arrived.frame.length + arrived.storedSize
  }

  protected where(): Record<string, Uint8Array | number> {
    return { length: this.#recordBytes, id: Buffer.from(this.id, 'hex'), mailbox: this.#mailbox }
  }
}

export class Batch implements BoxBatch, IntakeHost<Saved> {
  readonly options: SdboxSettings
  readonly wholeMax: number = SMALL_MAX
  readonly attachments: AttachmentBatch | undefined
  readonly attachmentMin: number
  readonly #host: BatchHost
  readonly #intake = new Intake(this)
  /** Not written yet. */
  #small: { readonly saved: Saved; readonly arrived: Arrived }[] = []
  /** Written, and their names not flushed. */
  #large: { readonly saved: Saved; readonly file: WrittenFile }[] = []
  #durable: Saved[] = []
  #flushing: Promise<void> | undefined
  #over = false

  constructor(host: BatchHost) {
    this.#host = host
    this.options = host.options
    this.attachmentMin = host.attachments?.messageMinBytes ?? Infinity
    this.attachments = this.attachmentMin === Infinity ? undefined : host.attachments?.begin()
  }

  save(source: Uint8Array | AsyncIterable<Uint8Array>, metadata: BoxMetadata): Promise<BoxSaved> {
    return this.#intake.save(source, metadata)
  }

  keep(arrived: Arrived): Saved {
    const saved = new Saved(this.#host, arrived)
    this.#small.push({ saved, arrived })
    return saved
  }

  async sink(): Promise<Sink<Saved>> {
    const file = await this.#host.writer.create()
    try {
      await file.begin()
    } catch (error) {
      await file.abort()
      throw error
    }
    return {
      append: (parts) => file.append(parts),
      finish: async (arrived) => {
        await file.finish(arrived.frame)
        const saved = new Saved(this.#host, arrived)
        saved.id = file.id
        this.mustBeOpen()
        this.#large.push({ saved, file })
        return saved
      },
      abort: () => file.abort(),
    }
  }

  async flush(): Promise<void> {
    this.mustBeOpen()
    await this.#flushing
    this.mustBeOpen()
    this.#flushing = this.#flush()
    try {
      await this.#flushing
    } finally {
      this.#flushing = undefined
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#over) return
    this.#over = true
    this.#host.forget(this)
    await this.#flushing?.catch(() => {})
    for (const { saved } of this.#small) saved.state = 'gone'
    for (const { saved, file } of this.#large) {
      saved.state = 'gone'
      await file.abort()
    }
    const { made } = this.#host.writer
    for (const saved of this.#durable) {
      saved.state = 'gone'
      // Those that have their names are not there any more.
      if (made.has(saved.id)) made.set(saved.id, true)
    }
    this.#small = []
    this.#large = []
    this.#durable = []
    await this.attachments?.[Symbol.asyncDispose]()
  }

  mustBeOpen(): void {
    if (this.#host.closed) throw new BoxError('BOX_CLOSED', 'the box is closed')
    if (this.#over) throw new BoxError('BOX_CLOSED', 'the batch is over')
  }

  async #flush(): Promise<void> {
    const small = this.#small
    const large = this.#large
    this.#small = []
    this.#large = []
    this.#intake.release()
    if (small.length + large.length === 0) return
    const { writer } = this.#host
    const files = large.map(({ file }) => file)
    const blobs = this.attachments?.flush()
    // Its failure is heard of below.
    blobs?.catch(() => {})
    try {
      await inParallel(small, async ({ saved, arrived }) => {
        const file = await writer.create()
        files.push(file)
        await file.write(arrived.frame, arrived.body)
        saved.id = file.id
      })
      await writer.settle()
      await blobs
    } catch (error) {
      for (const { saved } of large) saved.state = 'gone'
      for (const { saved } of small) saved.state = 'gone'
      for (const file of files) await file.abort()
      throw writeFailed(error)
    }
    for (const { saved } of [...small, ...large]) {
      saved.state = 'durable'
      this.#durable.push(saved)
    }
  }
}
