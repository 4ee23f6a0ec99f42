/** The box: what a store opens. Ties together appending, reading, purge, scan and check. */
import {
  type AltmoveOptions,
  type AltmoveReport,
  type AttachmentStore,
  type Box,
  type BoxBatch,
  type BoxBudget,
  BoxError,
  type BoxFinding,
  type BoxHost,
  type BoxMessage,
  type BoxRef,
  type BoxScanned,
  type PurgeReport,
} from '@mailstead/box'
import { type Fs, FsError } from '@mailstead/fs'
import { altmoveBox } from './altmove.ts'
import { readPlace } from './altmove-copy.ts'
import { AltTier, Tier } from './altmove-tier.ts'
import type { Appender } from './append.ts'
import { Batch, type BatchHost } from './batch.ts'
import { checkBox } from './check.ts'
import { POST_BYTES } from './format.ts'
import type { MdboxSettings } from './options.ts'
import { Journal } from './journal.ts'
import { settleLeftovers } from './leftovers.ts'
import { PLACE_COLUMNS, PlaceTable } from './place.ts'
import { type PurgeContext, purgeBox } from './purge.ts'
import { damaged, type Place, wholeMessage } from './read.ts'
import { atOnce, maybeMoved, readMessage, readMessageSync, WHOLE_RECORD_MAX } from './read-message.ts'
import { ReadAhead } from './read-ahead.ts'
import { journalDamage, listFiles, scanBox } from './scan.ts'
import { scannedTier } from './second-tier.ts'
import { Slot } from './slot.ts'

export class MdboxBox implements Box, BatchHost {
  readonly name = 'mdbox'
  readonly options: MdboxSettings
  readonly appender: Appender
  readonly table: string
  readonly openSync?: (ref: BoxRef) => BoxMessage | undefined
  readonly #host: BoxHost
  readonly #places: PlaceTable
  readonly #slot: Slot
  readonly #primary: Tier
  readonly #alt: AltTier
  readonly #context: PurgeContext
  readonly #journal: Journal
  readonly #batches = new Set<Batch>()
  /** For synchronous reads, which are over before the next begins. */
  readonly #place: Place = { ref: 0, alt: false, flags: 0, file: 0, offset: 0, length: 0, sum: 0 }
  readonly #ahead = new ReadAhead()
  #purging: Promise<PurgeReport> | undefined
  /** Purges and altmoves, one after the other. */
  #moving: Promise<unknown> = Promise.resolve()
  /** Ends what is under way when the box is closed. */
  readonly #stop = new AbortController()
  #closing: Promise<void> | undefined

  constructor(fs: Fs, directory: string, host: BoxHost, options: MdboxSettings) {
    this.options = options
    this.table = host.table.id
    this.#host = host
    this.#places = new PlaceTable(host.table)
    this.#slot = new Slot(fs, directory, host, this.#places, async (slot, written) =>
      settleLeftovers(this.#context, slot, written, () => this.#files()),
    )
    const tiers = { host, places: this.#places, slot: this.#slot, settings: options }
    this.#primary = new Tier(false, fs, directory, tiers)
    this.#alt = new AltTier(options.alt, { fs, directory }, tiers)
    this.#journal = new Journal(fs, directory)
    this.#context = { ...tiers, primary: this.#primary, alt: this.#alt, journal: this.#journal }
    this.appender = this.#primary.appender
    if (fs.supports.syncRead) this.openSync = (ref) => this.#openSync(ref)
  }

  get closed(): boolean {
    return this.#closing !== undefined
  }

  get attachments(): AttachmentStore | undefined {
    return this.#host.attachments
  }

  begin(): BoxBatch {
    this.#mustBeOpen()
    const batch = new Batch(this)
    this.#batches.add(batch)
    return batch
  }

  forget(batch: Batch): void {
    this.#batches.delete(batch)
  }

  async open(ref: BoxRef): Promise<BoxMessage> {
    this.#mustBeOpen()
    let place = await this.#find(ref)
    try {
      if (place !== undefined) return await this.#openAt(place)
    } catch (error) {
      if (!maybeMoved(error)) throw error
    }
    // Another process may have moved it since: only what is still so in the newest state is true.
    await this.#host.refresh()
    place = await this.#find(ref)
    if (place === undefined) throw new BoxError('BOX_NOT_FOUND', `no message ${ref}`, { ref })
    this.#drop(place)
    try {
      return await this.#openAt(place)
    } catch (error) {
      if (!maybeMoved(error)) throw error
      // What is in a tier that is away, or what is mounted in its place, says nothing of the message.
      if (place.alt) await this.#alt.verify()
      if (!(error instanceof FsError)) throw error
      return this.#openElsewhere(place, error)
    }
  }

  /** Its file is missing where the row has it: somebody else (Dovecot has an altmove too) may have moved it to the other tier. */
  async #openElsewhere(place: Place, missing: FsError): Promise<BoxMessage> {
    if (await this.#alt.isKnown())
      try {
        // Undefined: nothing there is this box's.
        const other = place.alt ? this.#primary : await this.#alt.present()
        if (other !== undefined) return await this.#openAt(place, other)
      } catch (error) {
        if (!maybeMoved(error)) throw error
        if (!place.alt) await this.#alt.verify()
      }
    throw damaged(place, 'its file is missing', missing)
  }

  #drop({ alt, file }: Place): void {
    const tier = alt ? this.#alt.reached : this.#primary
    tier?.files.drop(file)
  }

  #openSync(ref: BoxRef): BoxMessage | undefined {
    this.#mustBeOpen()
    const place = this.#place
    const places = this.#places.newest
    const row = places.view.rowOf(ref)
    if (row < 0) return undefined
    readPlace(places, row, place)
    checkPlace(place)
    const open = (place.alt ? this.#alt.reached : this.#primary)?.files.get(place.file)
    if (open === undefined) return undefined
    let kept = false
    try {
      if (place.length <= WHOLE_RECORD_MAX && !place.alt && open.file.readSync !== undefined) {
        const ahead = this.#ahead.record(open.file, place)
        if (ahead !== undefined) {
          try {
            return atOnce(wholeMessage(ahead, ahead.length, place, open.headerBytes, this.#ahead.lender))
          } catch {
            // Read before it was all there, perhaps: what the file says now is what counts.
            this.#ahead.drop()
          }
        }
      }
      kept = true
      return readMessageSync(open, place)
    } catch (error) {
      if (maybeMoved(error)) return undefined
      throw error
    } finally {
      if (!kept) open.release()
    }
  }

  async #find(ref: BoxRef): Promise<Place | undefined> {
    const places = this.#places.newest
    const row = places.view.rowOf(ref)
    if (row < 0) return undefined
    await places.view.load?.(PLACE_COLUMNS, row, row + 1)
    const place: Place = { ref: 0, alt: false, flags: 0, file: 0, offset: 0, length: 0, sum: 0 }
    readPlace(places, row, place)
    checkPlace(place)
    return place
  }

  async #openAt(place: Place, from?: Tier): Promise<BoxMessage> {
    const tier = from ?? (place.alt ? await this.#alt.reach() : this.#primary)
    return readMessage(await tier.files.open(place.file), place, this.#host.attachments)
  }

  /** Whoever asks while one is under way has its report. */
  async purge(budget: BoxBudget = {}): Promise<PurgeReport> {
    this.#mustBeOpen()
    this.#purging ??= this.#inTurn(async () => {
      await this.#writeJournal()
      return purgeBox(this.#context, this.#until(budget))
    }).finally(() => {
      this.#purging = undefined
    })
    return this.#purging
  }

  async altmove(refs: Uint32Array, options: AltmoveOptions): Promise<AltmoveReport> {
    this.#mustBeOpen()
    return this.#inTurn(async () => {
      await this.#writeJournal()
      return altmoveBox(this.#context, refs, this.#until(options))
    })
  }

  /** Also until the box is closed. */
  #until<T extends BoxBudget>(budget: T): T {
    const { signal } = this.#stop
    return { ...budget, signal: budget.signal === undefined ? signal : AbortSignal.any([budget.signal, signal]) }
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#moving.then(work)
    this.#moving = run.catch(() => {})
    return run
  }

  async *scan(): AsyncGenerator<readonly BoxScanned[]> {
    this.#mustBeOpen()
    // First, since what is away must not look like what is not there.
    const alt = await this.#alt.present()
    const foreign = await this.#alt.foreign()
    if (foreign !== undefined) yield scannedTier(foreign)
    const journal = await this.#journal.read()
    if (journal.damage.length > 0) yield journalDamage(journal)
    const { dead } = journal
    yield* scanBox(this.#primary.fs, this.#primary.directory, { dead })
    if (alt === undefined) return
    yield* scanBox(alt.fs, alt.directory, { dead, alt: true })
    // What was unmounted meanwhile was not seen.
    await this.#alt.verify()
  }

  async journal(): Promise<void> {
    this.#mustBeOpen()
    await this.#writeJournal()
  }

  async #writeJournal(): Promise<void> {
    await this.#host.refresh()
    await this.#alt.note()
    if (this.#host.isIncomplete === true) return
    // What the dead left behind is known before what it is a copy of may be forgotten.
    await this.#slot.settleOthers()
    await this.#journal.write(this.#places, () => this.#files())
  }

  /** Numbers of all message files; undefined while the second tier is away. */
  async #files(): Promise<ReadonlySet<number> | undefined> {
    const files = new Set(await listFiles(this.#primary.fs, this.#primary.directory))
    try {
      const alt = await this.#alt.present()
      if (alt !== undefined) for (const id of await listFiles(alt.fs, alt.directory)) files.add(id)
    } catch (error) {
      if (error instanceof FsError) return undefined
      throw error
    }
    return files
  }

  async unavailable(): Promise<Error | undefined> {
    this.#mustBeOpen()
    return this.#alt.unavailable()
  }

  check(): AsyncIterable<readonly BoxFinding[]> {
    this.#mustBeOpen()
    return checkBox(this.#context)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close()
    await this.#closing
  }

  async #close(): Promise<void> {
    this.#stop.abort()
    await this.#moving
    for (const batch of this.#batches) await batch[Symbol.asyncDispose]()
    await this.#primary.appender.dispose()
    await this.#alt.reached?.appender.dispose()
    await this.#slot.finish()
    await this.#primary[Symbol.asyncDispose]()
    await this.#alt[Symbol.asyncDispose]()
    await this.#slot[Symbol.asyncDispose]()
  }

  #mustBeOpen(): void {
    if (this.#closing !== undefined) throw new BoxError('BOX_CLOSED', 'the box is closed')
  }
}

function checkPlace(place: Place): void {
  if (place.length < POST_BYTES || place.length > Number.MAX_SAFE_INTEGER)
    throw damaged(place, 'the row holds no place')
}
