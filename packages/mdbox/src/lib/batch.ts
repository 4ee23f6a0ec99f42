/** Messages on their way in: small ones to the current file in one write, those written as they come to spools. */
import {
  type AttachmentBatch,
  type AttachmentStore,
  type BoxBatch,
  BoxError,
  type BoxMetadata,
  type BoxSaved,
} from '@mailstead/box'
import { type Appender, type Pending, pendingRecord, type Spool, writeFailed } from './append.ts'
import { HEADER_BYTES } from './format.ts'
import { type Arrived, Intake, type IntakeHost, type Sink } from './intake.ts'
import { type MdboxSettings, SMALL_MAX, SPOOLS_OPEN_MAX } from './options.ts'
import { SavedMessage } from './saved.ts'

/** What a batch needs of its box. */
export interface BatchHost {
  readonly appender: Appender
  readonly table: string
  readonly options: MdboxSettings
  readonly closed: boolean
  readonly attachments: AttachmentStore | undefined
  forget(batch: Batch): void
}

class Saved extends SavedMessage {
  readonly record: Pending

  constructor(host: BatchHost, arrived: Arrived, record: Pending) {
    super(host, arrived)
    this.record = record
  }

  protected where(): Record<string, number> {
    const { file, offset, length } = this.record
    return { file, offset, length }
  }
}

export class Batch implements BoxBatch, IntakeHost<Saved> {
  readonly options: MdboxSettings
  readonly wholeMax: number
  readonly attachments: AttachmentBatch | undefined
  readonly attachmentMin: number
  readonly #host: BatchHost
  readonly #intake = new Intake(this)
  readonly #pinned: number[] = []
  #small: Saved[] = []
  #large: Saved[] = []
  #durable: Saved[] = []
  #spools: Spool[] = []
  /** Spools that a `save` is writing to just now. */
  readonly #busy = new Set<Spool>()
  #flushing: Promise<void> | undefined
  #over = false

  constructor(host: BatchHost) {
    this.#host = host
    this.options = host.options
    this.attachmentMin = host.attachments?.messageMinBytes ?? Infinity
    this.attachments = this.attachmentMin === Infinity ? undefined : host.attachments?.begin()
    const { compression, rotateBytes } = host.options
    // Compressing much at once would keep everybody waiting.
    this.wholeMax = compression === 'off' ? Math.max(SMALL_MAX, rotateBytes) : SMALL_MAX
  }

  save(source: Uint8Array | AsyncIterable<Uint8Array>, metadata: BoxMetadata): Promise<BoxSaved> {
    return this.#intake.save(source, metadata)
  }

  keep(arrived: Arrived): Saved {
    const { frame, body, storedSize } = arrived
    const saved = new Saved(this.#host, arrived, pendingRecord(frame, body, storedSize))
    this.#small.push(saved)
    return saved
  }

  async sink(): Promise<Sink<Saved>> {
    const spool = await this.#takeSpool()
    const end = async (): Promise<void> => {
      this.#busy.delete(spool)
      if (this.#over) await this.#giveBack(spool)
    }
    let offset: number
    try {
      offset = await spool.begin([new Uint8Array(HEADER_BYTES)])
    } catch (error) {
      await spool.abort()
      await end()
      throw error
    }
    return {
      append: (parts) => spool.append(parts),
      finish: async (arrived) => {
        const length = await spool.finish(arrived.frame)
        const saved = new Saved(this.#host, arrived, { parts: [], length, file: spool.id, offset })
        this.#large.push(saved)
        return saved
      },
      abort: () => spool.abort(),
      end,
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
    for (const list of [this.#small, this.#large, this.#durable]) for (const saved of list) saved.state = 'gone'
    this.#small = []
    this.#large = []
    this.#durable = []
    // A save that is still running finds its batch over, and gives its spool back itself.
    for (const spool of this.#spools) if (!this.#busy.has(spool)) await this.#giveBack(spool)
    this.#spools = []
    for (const id of this.#pinned) this.#host.appender.unpin(id)
    this.#pinned.length = 0
    await this.attachments?.[Symbol.asyncDispose]()
  }

  mustBeOpen(): void {
    if (this.#host.closed) throw new BoxError('BOX_CLOSED', 'the box is closed')
    if (this.#over) throw new BoxError('BOX_CLOSED', 'the batch is over')
  }

  async #takeSpool(): Promise<Spool> {
    const { appender, options } = this.#host
    let spool = this.#spools.find(
      (one) => !this.#busy.has(one) && !one.broken && !one.parked && one.end < options.rotateBytes,
    )
    if (spool === undefined) {
      await this.#park()
      spool = await appender.takeSpool()
      appender.pin(spool.id)
      this.#spools.push(spool)
    }
    this.#busy.add(spool)
    return spool
  }

  /** Those that are busy are as many as there are saves under way. */
  async #park(): Promise<void> {
    const full = this.#spools.filter((one) => !one.parked && !one.broken && !this.#busy.has(one))
    for (const spool of full.slice(0, Math.max(0, full.length + 1 - SPOOLS_OPEN_MAX))) {
      this.#busy.add(spool)
      try {
        await spool.park()
      } catch (error) {
        throw writeFailed(error)
      } finally {
        this.#busy.delete(spool)
        if (this.#over) await this.#giveBack(spool)
      }
    }
    this.mustBeOpen()
  }

  async #giveBack(spool: Spool): Promise<void> {
    await spool.rollback()
    this.#host.appender.giveSpool(spool)
    this.#host.appender.unpin(spool.id)
  }

  async #flush(): Promise<void> {
    const small = this.#small
    const large = this.#large
    const bytes = this.#intake.release()
    this.#small = []
    this.#large = []
    // Those that another `save` is writing to just now, too.
    const files = new Set(large.map(({ record }) => record.file))
    const spools = this.#spools.filter(({ id }) => files.has(id))
    const { appender } = this.#host
    const outcomes = await Promise.allSettled([
      small.length === 0
        ? undefined
        : appender.append(
            small.map(({ record }) => record),
            bytes,
          ),
      ...spools.map((spool) => spool.sync()),
      this.attachments?.flush(),
    ])
    if (outcomes[0]?.status === 'fulfilled' && outcomes[0].value !== undefined) this.#pinned.push(outcomes[0].value)
    const failed = outcomes.find((outcome) => outcome.status === 'rejected')
    const state = failed === undefined ? 'durable' : 'gone'
    for (const list of [small, large])
      for (const saved of list) {
        saved.state = state
        if (state === 'durable') this.#durable.push(saved)
      }
    if (failed !== undefined) throw writeFailed(failed.reason)
  }
}
