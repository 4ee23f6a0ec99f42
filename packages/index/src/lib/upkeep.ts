/**
 * When an open index makes checkpoints, and when it only writes its list of tables anew: after so much log, beside commits, one at
 * a time. What fails is tried again later; the log has everything.
 */
import { checkpoint, type CheckpointHost, listTables } from './checkpoint.ts'
import type { Settings } from './settings.ts'

/** The list of tables is written again when there is so many times its length of log after it … */
const LIST_FACTOR = 2
/** … by whoever closes the index, and with so many times as much while it is open. */
const LIST_RUNNING = 8

export interface KeptIndex extends CheckpointHost {
  readonly settings: Settings
  readonly isClosing: boolean
}

export class Upkeep {
  readonly #index: KeptIndex
  /** So many bytes of log since the last checkpoint are due for the next. */
  #checkpointAt: number
  #running: Promise<void> | undefined

  constructor(index: KeptIndex) {
    this.#index = index
    this.#checkpointAt = index.settings.checkpointBytes
  }

  /** The log has grown. */
  afterCommit(): void {
    if (this.#index.known.logBytes > this.#checkpointAt) this.#checkpointSoon()
    else if (this.isListOverdue(LIST_RUNNING) && this.#running === undefined && !this.#index.isClosing) void this.list()
  }

  /** What is being written is there, or has failed. */
  async ended(): Promise<void> {
    await this.#running?.catch(() => {})
  }

  async checkpoint(): Promise<void> {
    const { log, snapshots, known, settings } = this.#index
    while (this.#running !== undefined) await this.#running.catch(() => {})
    this.#running = checkpoint(this.#index).then((done) => {
      if (done) {
        known.logBytes = 0
        known.generation = snapshots.list.generation
        known.listedAt = log.tail
        this.#checkpointAt = settings.checkpointBytes
      }
    })
    try {
      await this.#running
    } finally {
      this.#running = undefined
    }
  }

  #checkpointSoon(): void {
    if (this.#running !== undefined || this.#index.isClosing) return
    // If it fails it is tried again after as much log again.
    this.#checkpointAt = this.#index.known.logBytes + this.#index.settings.checkpointBytes
    this.checkpoint().catch((error: unknown) => {
      // Closing ends it; the log still has everything.
      if (this.#index.isClosing) return
      this.#index.settings.onEvent({ kind: 'checkpoint-failed', message: String(error) })
    })
  }

  /** Whether so much was appended since the list of tables was written that opening the index had better not read it. */
  isListOverdue(times: number): boolean {
    const { log, snapshots, known, settings } = this.#index
    if (snapshots.list.length === 0 || settings.readOnly) return false
    const bytes = log.bytesBetween(known.listedAt, log.tail)
    return bytes >= times * Math.max(log.listAfterBytes, LIST_FACTOR * snapshots.list.length)
  }

  async list(): Promise<void> {
    while (this.#running !== undefined) await this.#running.catch(() => {})
    // Done or not: another process may be at it, or something is damaged.
    this.#index.known.listedAt = this.#index.log.tail
    this.#running = listTables(this.#index).then(() => {})
    try {
      await this.#running
    } catch (error) {
      this.#index.settings.onEvent({ kind: 'list-failed', message: String(error) })
    } finally {
      this.#running = undefined
    }
  }
}
