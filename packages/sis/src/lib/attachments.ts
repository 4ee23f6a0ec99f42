/**
 * The attachments of a store of mail: extraction on the way in, weaving on the way out, blobs between, references in the
 * store's own table and frames. `attachments` is what an application hands a store; it is an `AttachmentFormat` of @mailstead/box, which
 * this package does not import.
 */
import type { Fs } from '@mailstead/fs'
import type { BlobBatch } from './blob-batch.ts'
import { blobBudget, type BlobBudget, BlobStore, type BlobStoreOptions, isAway } from './blob-store.ts'
import { check, type CheckOptions, repair, type RepairOptions, type SisFinding } from './check.ts'
import type { BlobSaved } from './contract.ts'
import { SisError } from './error.ts'
import { type ExtractOptions, Extraction, MIN_SIZE_DEFAULT } from './extract.ts'
import { BLOB_COLUMNS, type ReferenceHost, type ReferenceTransaction, VALUE_SALVAGED } from './references.ts'
import { segmentRefs } from './segments.ts'
import { type SisStats, stats } from './stats.ts'
import { type SweepOptions, type SweepReport, sweep } from './sweep.ts'
import { weave, type Woven, type WovenInline } from './weave.ts'

export interface AttachmentsOptions extends BlobStoreOptions, ExtractOptions {
  /** As of `ExtractOptions`; or Infinity, to take nothing out any more and read what is there. */
  readonly minSize?: number
  /**
   * Open although the directory is away. Parts that lie there are `unavailable` until it is back, messages that would put some there are
   * refused, and where a store has blobs and the directory has nothing of ours, `create` makes nothing. False: opening fails, as for
   * `openSis`. (default true)
   */
  readonly mayBeAway?: boolean
  /** Memory of `blobBudget` that several formats share, in the place of `memoryBytes`. (default: one for each format) */
  readonly budget?: BlobBudget
}

/** Satisfies `AttachmentFormat`. */
export interface SisAttachments {
  readonly name: string
  readonly columns: readonly { readonly name: string; readonly bytes: number }[]
  /** Why what stores keep here cannot be reached; undefined if it can. */
  unavailable?(): Promise<Error | undefined>
  open(host: ReferenceHost): Promise<SisAttachmentStore>
}

/** Segments of messages, in pages. */
export type Messages = AsyncIterable<readonly Uint8Array[]>

/** Satisfies `AttachmentSweepOptions`. */
export interface AttachmentsSweepOptions extends Omit<SweepOptions, 'references'> {
  /** Of all messages on disk, whatever the table says: `SweepOptions.references`. */
  readonly messages?: () => Messages
}

/** Satisfies `AttachmentMessage`. */
export interface SisMessage {
  write(bytes: Uint8Array): void | Promise<void>
  end(): Promise<Uint8Array | undefined>
  record(tx: ReferenceTransaction): void
}
/** Satisfies `AttachmentBatch`. */
export interface SisBatch extends AsyncDisposable {
  message(keep: (bytes: Uint8Array) => void | Promise<void>): SisMessage
  flush(): Promise<void>
}
/** Satisfies `AttachmentStore`. */
export interface SisAttachmentStore extends AsyncDisposable {
  readonly name: string
  readonly messageMinBytes: number
  begin(): SisBatch
  open(segments: Uint8Array, inline: WovenInline): Promise<Woven>
  drop(messages: readonly Uint8Array[]): Promise<{ record(tx: ReferenceTransaction): void }>
  sweep(options?: AttachmentsSweepOptions): Promise<SweepReport>
  check(messages?: Messages, options?: Omit<CheckOptions, 'references'>): AsyncIterable<readonly SisFinding[]>
  repair(messages: Messages, options?: RepairOptions): Promise<readonly SisFinding[]>
  stats(): Promise<SisStats>
}

/**
 * Attachments kept in the directory `path`, of one store or, `shared`, of several. Stores that are given the same object share
 * `memoryBytes`.
 */
export function attachments(fs: Fs, path: string, options: AttachmentsOptions = {}): SisAttachments {
  const { mayBeAway = true } = options
  const inner = { ...options, patient: mayBeAway, budget: options.budget ?? blobBudget(options.memoryBytes) }
  return {
    name: 'sis',
    columns: BLOB_COLUMNS,
    unavailable: async () => (options.key === undefined ? isAway(fs, path) : undefined),
    open: async (host) => new Attachments(await BlobStore.open(fs, path, host, inner), options),
  }
}

class Attachments implements SisAttachmentStore {
  readonly name = 'sis'
  readonly messageMinBytes: number
  readonly #blobs: BlobStore
  readonly #options: ExtractOptions

  constructor(blobs: BlobStore, options: ExtractOptions) {
    this.#blobs = blobs
    this.#options = options
    // A part that is large enough is not all of a message.
    this.messageMinBytes = options.minSize ?? MIN_SIZE_DEFAULT
  }

  begin(): SisBatch {
    return new Batch(this.#blobs.begin(), this.#options)
  }

  async open(segments: Uint8Array, inline: WovenInline): Promise<Woven> {
    try {
      return weave(segments, inline, this.#blobs)
    } catch (error) {
      if (!(error instanceof SisError)) throw error
      // The whole message is what cannot be put together.
      throw Object.assign(error, { attachment: 'damaged' as const, start: 0, end: 0 })
    }
  }

  drop(messages: readonly Uint8Array[]): Promise<{ record(tx: ReferenceTransaction): void }> {
    return this.#blobs.drop(messages.flatMap((segments) => refsOf(segments)))
  }

  async sweep({ messages, ...options }: AttachmentsSweepOptions = {}): Promise<SweepReport> {
    await this.#blobs.host.refresh()
    if (this.#blobs.host.table.view.values?.has(VALUE_SALVAGED) === true)
      throw new SisError('SIS_CORRUPT', 'rows were lost: nothing is swept before a repair')
    await this.#blobs.mustBeHere()
    if (messages === undefined) return sweep(this.#blobs, options)
    return sweep(this.#blobs, { ...options, references: () => referencesOf(messages()) })
  }

  check(messages?: Messages, options: Omit<CheckOptions, 'references'> = {}): AsyncIterable<readonly SisFinding[]> {
    return check(this.#blobs, messages === undefined ? options : { ...options, references: referencesOf(messages) })
  }

  async repair(messages: Messages, options?: RepairOptions): Promise<readonly SisFinding[]> {
    await this.#blobs.mustBeHere()
    // What they hold that cannot be read, of a newer version perhaps, must not be taken for nothing.
    let unread = 0
    const references = referencesOf(messages, () => unread++)
    return repair(this.#blobs, references, { incomplete: () => options?.incomplete === true || unread > 0 })
  }

  stats(): Promise<SisStats> {
    return stats(this.#blobs)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#blobs[Symbol.asyncDispose]()
  }
}

class Batch implements SisBatch {
  readonly #blobs: BlobBatch
  readonly #options: ExtractOptions
  readonly #unended = new Set<Extraction>()

  constructor(blobs: BlobBatch, options: ExtractOptions) {
    this.#blobs = blobs
    this.#options = options
  }

  message(keep: (bytes: Uint8Array) => void | Promise<void>): SisMessage {
    if (this.#options.minSize === Infinity)
      return { write: keep, end: () => Promise.resolve(undefined), record: () => {} }
    const extraction = new Extraction({ blobs: this.#blobs, keep }, this.#options)
    this.#unended.add(extraction)
    let saved: readonly BlobSaved[] = []
    return {
      write: (bytes) => extraction.write(bytes),
      end: async () => {
        const extracted = await extraction.end()
        this.#unended.delete(extraction)
        saved = extracted.blobs
        return extracted.segments
      },
      record: (tx) => {
        if (saved.length === 0) return
        this.#blobs.record(
          tx,
          saved.map(({ ref }) => ref),
        )
      },
    }
  }

  flush(): Promise<void> {
    return this.#blobs.flush()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const extraction of this.#unended) await extraction.abort()
    this.#unended.clear()
    await this.#blobs[Symbol.asyncDispose]()
  }
}

/** What segments that cannot be read hold is not known: nothing. */
function refsOf(segments: Uint8Array, onUnread?: () => void): readonly Uint8Array[] {
  try {
    return segmentRefs(segments)
  } catch (error) {
    if (!(error instanceof SisError && error.code === 'SIS_CORRUPT')) throw error
    onUnread?.()
    return []
  }
}

async function* referencesOf(messages: Messages, onUnread?: () => void): AsyncGenerator<readonly Uint8Array[]> {
  for await (const page of messages) yield page.flatMap((segments) => refsOf(segments, onUnread))
}
