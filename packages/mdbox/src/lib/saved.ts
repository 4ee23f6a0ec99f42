/** A message that was saved, until a transaction gives it its row. */
import {
  type AttachmentMessage,
  type AttachmentTransaction,
  BoxError,
  type BoxPending,
  type BoxSaved,
} from '@mailstead/box'
import { writeFailed } from './append.ts'
import { sumOf } from './format.ts'
import type { Arrived } from './intake.ts'
import { FLAG_ATTACHED, FLAG_CANONICAL } from './place.ts'

/** What it needs of its box. */
export interface SavedHost {
  readonly table: string
  readonly closed: boolean
}

export abstract class SavedMessage implements BoxSaved {
  readonly physicalSize: number
  readonly size: number
  /** `durable` once it is flushed, `gone` when its batch is over or could not be flushed. */
  state: 'waiting' | 'durable' | 'gone' = 'waiting'
  readonly #host: SavedHost
  readonly #sum: number
  readonly #attachments: AttachmentMessage | undefined

  constructor(host: SavedHost, { physicalSize, size, frame, attachments }: Arrived) {
    this.#host = host
    this.physicalSize = physicalSize
    this.size = size
    this.#sum = sumOf(frame)
    this.#attachments = attachments
  }

  /** Where the format has it, as columns of its row. */
  protected abstract where(): Readonly<Record<string, Uint8Array | number>>

  get canonical(): boolean {
    return this.size === this.physicalSize
  }

  place(tx: AttachmentTransaction): BoxPending {
    if (this.#host.closed) throw new BoxError('BOX_CLOSED', 'the box is closed')
    if (this.state !== 'durable')
      throw new TypeError(this.state === 'gone' ? 'the batch is over: its messages are gone' : 'flush the batch first')
    const flags = (this.canonical ? FLAG_CANONICAL : 0) | (this.#attachments === undefined ? 0 : FLAG_ATTACHED)
    this.#record(tx)
    return tx.append(this.#host.table, { columns: { ...this.where(), sum: this.#sum, flags } })
  }
  /** What was relied upon may have been swept meanwhile: the caller took too long, and has to save again. */
  #record(tx: AttachmentTransaction): void {
    try {
      this.#attachments?.record(tx)
    } catch (error) {
      throw writeFailed(error)
    }
  }
}
