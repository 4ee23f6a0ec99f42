/** The box: what a store opens. Ties together writing, naming, reading, purge, scan and check. */
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
  type BoxMailbox,
  type BoxMessage,
  type BoxNaming,
  type BoxRef,
  type BoxScanned,
  mustBeComplete,
  type PurgeReport,
} from '@mailstead/box'
import { type Fs, FsError, type FsFile, type FsLock } from '@mailstead/fs'
import { FileCache, type OpenFile, openFile } from '../files.ts'
import { POST_BYTES } from '../format.ts'
import { Pace } from '../pace.ts'
import { damaged, type Place } from '../read.ts'
import { maybeMoved, readInline, readMessage, readMessageSync } from '../read-message.ts'
import { scannedTier, SecondTier } from '../second-tier.ts'
import { altmoveBox } from './altmove.ts'
import { Batch, type BatchHost } from './batch.ts'
import { checkBox } from './check.ts'
import { identify, identityOf, listMailbox } from './directory.ts'
import { DirectorySync } from './directory-sync.ts'
import { finishMailbox, type NamesContext } from './finish.ts'
import { Leftovers, notNow } from './leftovers.ts'
import { Namer } from './naming.ts'
import type { SdboxSettings } from './options.ts'
import { purgeBox } from './purge.ts'
import { isAlt, primariesOf, type Row, RowTable } from './row.ts'
import { scanBox } from './scan.ts'
import { lockSlot, readTodo, takeSlot, todoKey } from './slots.ts'
import { fileIn, hasAlt, type Root, rootOf, secondOf, secondsOf } from './tiers.ts'
import { Writer } from './writer.ts'

/** Purges that are tried until what has the names of a removed mailbox is gone. */
const VACATE_PURGES = 2

/** How the message at a place is read; takes over one use of the file. */
type Reading = (open: OpenFile, place: Place) => Promise<BoxMessage>

export class SdboxBox implements Box, BatchHost {
  readonly name = 'sdbox'
  readonly options: SdboxSettings
  readonly writer: Writer
  readonly table: string
  readonly naming?: BoxNaming
  readonly openSync?: (ref: BoxRef) => BoxMessage | undefined
  readonly #fs: Fs
  readonly #directory: string
  readonly #host: BoxHost
  readonly #rows: RowTable
  readonly #second: SecondTier
  readonly #files: FileCache
  readonly #context: NamesContext
  readonly #namer: Namer
  readonly #leftovers: Leftovers
  /** Of open files, as people know them. */
  readonly #names = new WeakMap<FsFile, string>()
  readonly #batches = new Set<Batch>()
  readonly #reading: Reading = (open, place) => readMessage(open, place, this.#host.attachments)
  #slot: { readonly slot: number; readonly lock: FsLock } | undefined
  #taking: Promise<number> | undefined
  #purging: Promise<PurgeReport> | undefined
  /** Purges and altmoves, one after the other. */
  #moving: Promise<unknown> = Promise.resolve()
  /** Ends an altmove that is under way when the box is closed. */
  readonly #stop = new AbortController()
  #closing: Promise<void> | undefined

  constructor(fs: Fs, directory: string, host: BoxHost, options: SdboxSettings) {
    this.options = options
    this.table = host.table.id
    this.#fs = fs
    this.#directory = directory
    this.#host = host
    this.#rows = new RowTable(host.table)
    this.#files = new FileCache(async (ref) => this.#openPrimary(ref), options.openFiles)
    this.#second = new SecondTier(options.alt, {
      host,
      fs,
      directory,
      format: 'sdbox',
      requires: [],
      hasRows: async () => hasAlt(await this.#rows.loaded()),
    })
    this.#context = { fs, directory, host, rows: this.#rows, second: this.#second }
    const syncs = new DirectorySync(fs)
    const slot = async (): Promise<number> => this.#takeSlot()
    this.#leftovers = new Leftovers(this.#context)
    this.writer = new Writer(fs, directory, syncs, options, async () => {
      const taken = await slot()
      await this.#leftovers.note(taken)
      return taken
    })
    this.#namer = new Namer(this.#context, syncs, this.writer, slot)
    if (host.mailboxes !== undefined)
      this.naming = {
        begin: async (tx, mailboxes) => this.#namer.begin(tx, mailboxes),
        vacate: async (guid) => this.#vacate(guid),
      }
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
    const before = await this.#rows.find(ref)
    try {
      if (before !== undefined) return await this.#openRow(before)
    } catch (error) {
      if (!maybeMoved(error)) throw error
    }
    // Another process may have given it another home, or taken it away, since: only what is still so in the newest state is true.
    await this.#host.refresh()
    const row = await this.#rows.find(ref)
    if (row === undefined) throw new BoxError('BOX_NOT_FOUND', `no message ${ref}`, { ref })
    this.#files.drop(ref)
    return this.#openRow(row)
  }

  async #openRow(row: Row, reading: Reading = this.#reading): Promise<BoxMessage> {
    if (row.length < POST_BYTES) throw damaged(placeOf(row, row.id, 0), 'the row holds no message')
    let open: OpenFile
    try {
      open = await this.#files.open(row.ref)
    } catch (error) {
      if (!(error instanceof FsError && error.code === 'FS_NOT_FOUND')) throw error
      throw damaged(placeOf(row, primariesOf(row)[0]!, 0), 'its file is missing', error)
    }
    try {
      return await this.#read(open, row, reading)
    } catch (error) {
      if (!maybeMoved(error)) throw error
      this.#files.drop(row.ref)
      const other = await this.#openOther(row, this.#nameOf(open), reading)
      if (other !== undefined) return other
      throw error
    }
  }

  /** A file of somebody else's may have the name that this message should have; then it kept another. */
  async #openOther(row: Row, not: string, reading: Reading): Promise<BoxMessage | undefined> {
    for (const { root, name } of await this.#candidates(row)) {
      if (fileIn(root, name) === not) continue
      try {
        const open = await openFile(row.ref, await this.#openAt(root, name))
        open.cached = false
        open.users++
        return await this.#read(open, row, reading)
      } catch (error) {
        if (!maybeMoved(error)) throw error
      }
    }
    return undefined
  }

  /** Every place where it may be that can be reached now, the likeliest first. */
  async #candidates(row: Row): Promise<readonly { readonly root: Root; readonly name: string }[]> {
    const near = { alt: false, fs: this.#fs, directory: this.#directory }
    const here = [...new Set(primariesOf(row))].map((name) => ({ root: near, name }))
    const far = rootOf(await secondOf(this.#second))
    const there = far === undefined ? [] : secondsOf(row).map((name) => ({ root: far, name }))
    return isAlt(row) ? [...there, ...here] : [...here, ...there]
  }

  /** Takes over one use of `open`. */
  async #read(open: OpenFile, row: Row, reading: Reading): Promise<BoxMessage> {
    let kept = false
    try {
      const offset = open.lineBytes >= 0 ? open.lineBytes : (await open.file.stat()).size - row.length
      const place = placeOf(row, this.#nameOf(open), offset)
      if (offset < 0) throw damaged(place, 'its file is too short')
      kept = true
      return await reading(open, place)
    } finally {
      if (!kept) open.release()
    }
  }

  #openSync(ref: BoxRef): BoxMessage | undefined {
    this.#mustBeOpen()
    const rows = this.#rows.newest
    const at = rows.view.rowOf(ref)
    if (at < 0) return undefined
    const open = this.#files.get(ref)
    if (open === undefined) return undefined
    if (open.lineBytes < 0) {
      open.release()
      return undefined
    }
    try {
      return readMessageSync(open, placeOf(rows.at(at), this.#nameOf(open), open.lineBytes))
    } catch (error) {
      if (maybeMoved(error)) return undefined
      throw error
    }
  }

  #nameOf({ file }: OpenFile): string {
    return this.#names.get(file) ?? file.path
  }

  async #openAt(root: Root, name: string): Promise<FsFile> {
    const file = await root.fs.open(`${root.directory}/${name}`, 'read')
    this.#names.set(file, fileIn(root, name))
    return file
  }

  /** Where its row says that it is, and then where else it may be. What is in a tier that is away is not missing. */
  async #openPrimary(ref: BoxRef): Promise<FsFile> {
    const row = await this.#rows.find(ref)
    if (row === undefined) throw new BoxError('BOX_NOT_FOUND', `no message ${ref}`, { ref })
    const near = { alt: false, fs: this.#fs, directory: this.#directory }
    let missing: unknown
    const tried = async (root: Root, names: readonly string[]): Promise<FsFile | undefined> => {
      for (const name of names)
        try {
          return await this.#openAt(root, name)
        } catch (error) {
          if (!(error instanceof FsError && error.code === 'FS_NOT_FOUND')) throw error
          missing ??= error
        }
      return undefined
    }
    let away: FsError | undefined
    if (isAlt(row))
      try {
        const fs = await this.#second.reach()
        const found = await tried({ alt: true, fs, directory: this.#second.path }, secondsOf(row))
        if (found !== undefined) return found
      } catch (error) {
        if (!(error instanceof FsError)) throw error
        away = error
      }
    // An empty `x.<uid>` is all that the first tier has of one that was expunged in the second.
    const names = primariesOf(row).filter((name) => !(isAlt(row) && name.includes('/x.')))
    const here = await tried(near, names)
    if (here !== undefined) return here
    if (away !== undefined) throw away
    const far = await secondOf(this.#second)
    // What is in a tier that is away, or what is mounted in its place, says nothing of the message.
    if (far instanceof FsError) throw far
    if (far !== undefined && !isAlt(row)) {
      const there = await tried(far, secondsOf(row))
      if (there !== undefined) return there
    }
    throw missing
  }

  async #vacate(guid: string): Promise<boolean> {
    this.#mustBeOpen()
    const { fs, directory } = this.#context
    if ((await fs.stat(directory)) === undefined) return true
    // That it was removed is said in its directory first: by us, or by whoever takes the place of one who died.
    await this.#takeSlot()
    await this.#namer.drain()
    // A purge that is under way may have been there already.
    for (let purges = 0; ; purges++) {
      const { named, expunged } = await listMailbox(fs, directory, guid)
      const far = await secondOf(this.#second)
      const there = await listMailbox(rootOf(far)?.fs ?? fs, rootOf(far)?.directory ?? directory, guid)
      if (!(far instanceof FsError) && named.size + expunged.size + there.named.size === 0) return true
      if (purges === VACATE_PURGES || this.#host.isIncomplete === true) return false
      await this.purge()
    }
  }

  /** Whoever asks while one is under way has its report. */
  async purge(budget: BoxBudget = {}): Promise<PurgeReport> {
    this.#mustBeOpen()
    this.#purging ??= this.#inTurn(async () => this.#purge(new Pace(budget, this.options))).finally(() => {
      this.#purging = undefined
    })
    return this.#purging
  }

  async altmove(refs: Uint32Array, options: AltmoveOptions): Promise<AltmoveReport> {
    this.#mustBeOpen()
    const { signal } = this.#stop
    const both = options.signal === undefined ? signal : AbortSignal.any([options.signal, signal])
    return this.#inTurn(async () => {
      await this.#host.refresh()
      mustBeComplete(this.#host)
      await this.#takeSlot()
      await this.#namer.drain()
      const drop = (ref: BoxRef): void => this.#files.drop(ref)
      return altmoveBox({ ...this.#context, clock: this.options, drop }, refs, { ...options, signal: both })
    })
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#moving.then(work)
    this.#moving = run.catch(() => {})
    return run
  }

  async #purge(pace: Pace): Promise<PurgeReport> {
    await this.#host.refresh()
    mustBeComplete(this.#host)
    if ((await this.#fs.stat(this.#directory)) === undefined)
      return { files: 0, messages: 0, bytesReclaimed: 0, skipped: 0 }
    await this.#takeSlot()
    await this.#namer.drain()
    await this.#namer.finish()
    await this.#leftovers.settleOthers(this.#slot!.slot)
    const drop = (ref: BoxRef): void => this.#files.drop(ref)
    const openInline = (row: Row): Promise<BoxMessage> => this.#openRow(row, readInline)
    return purgeBox({ ...this.#context, made: this.writer.made, openInline, drop, pace })
  }

  scan(): AsyncIterable<readonly BoxScanned[]> {
    this.#mustBeOpen()
    return this.#scan()
  }

  async *#scan(): AsyncGenerator<readonly BoxScanned[]> {
    // First, since what is away must not look like what is not there.
    const far = await secondOf(this.#second)
    if (far instanceof FsError) throw far
    const foreign = await this.#second.foreign()
    if (foreign !== undefined) yield scannedTier(foreign)
    yield* scanBox({ alt: false, fs: this.#fs, directory: this.#directory }, far, await this.#rows.loaded())
    // What was unmounted meanwhile was not seen.
    if (far !== undefined) await this.#second.verify()
  }

  async rebuilt(mailboxes: readonly BoxMailbox[]): Promise<void> {
    this.#mustBeOpen()
    for (const mailbox of mailboxes) {
      const { guid } = mailbox
      const identity = await identityOf(this.#fs, this.#directory, guid)
      // What lies in the directory of one that was removed is expunged, until it was seen to.
      if (identity === undefined && (await listMailbox(this.#fs, this.#directory, guid)).empty) continue
      if (typeof identity === 'object' && identity.removed) continue
      await identify(this.#fs, this.#directory, mailbox, false)
    }
  }

  async unavailable(): Promise<Error | undefined> {
    this.#mustBeOpen()
    return this.#second.unavailable()
  }

  /** Names say what was expunged; only the second tier is noted. */
  async journal(): Promise<void> {
    this.#mustBeOpen()
    await this.#second.note()
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
    await this.#taking?.catch(() => {})
    await this.#namer.drain()
    // What could not be done stays noted: whoever takes the slot next does it.
    const { noted, unfinished } = this.#namer
    const slot = this.#slot
    if (slot !== undefined)
      await this.#forget(
        slot.slot,
        [...noted].filter((guid) => !unfinished.has(guid)),
      ).catch(() => {})
    if (slot !== undefined) await this.#leftovers.finish(slot.slot).catch(() => {})
    this.#slot = undefined
    await slot?.lock[Symbol.asyncDispose]()
    this.#files.dropAll()
    await this.#second[Symbol.asyncDispose]()
  }

  /** Takes a lock for the life of this box, the first time, and finishes what those left who died holding one. */
  async #takeSlot(): Promise<number> {
    if (this.#slot !== undefined) return this.#slot.slot
    this.#taking ??= this.#findSlot().finally(() => {
      this.#taking = undefined
    })
    return this.#taking
  }

  async #findSlot(): Promise<number> {
    await this.#fs.makeDirectory(this.#directory)
    const taken = await takeSlot(this.#fs, this.#directory)
    this.#slot = taken
    // What cannot be finished now stays noted, and is no reason to take no mail.
    await this.#finishDead(taken.slot).catch(() => {})
    await this.#leftovers.settle(taken.slot).catch(notNow)
    return taken.slot
  }

  async #finishDead(own: number): Promise<void> {
    await this.#host.refresh()
    for (const [slot, guids] of readTodo(this.#host)) {
      await using lock = slot === own ? undefined : await lockSlot(this.#fs, this.#directory, slot)
      if (slot === own || lock !== undefined) await this.#finish(slot, guids)
    }
  }

  async #finish(slot: number, guids: readonly string[]): Promise<void> {
    const done: string[] = []
    const tier = guids.length === 0 ? undefined : await secondOf(this.#second)
    for (const guid of guids)
      try {
        if ((await finishMailbox(this.#context, guid, tier)) === 'done') done.push(guid)
        else if (slot === this.#slot?.slot) this.#namer.unfinished.add(guid)
      } catch (error) {
        if (!(error instanceof FsError)) throw error
        if (slot === this.#slot?.slot) this.#namer.unfinished.add(guid)
      }
    await this.#forget(slot, done)
  }

  async #forget(slot: number, guids: readonly string[]): Promise<void> {
    const keys = guids
      .map((guid) => todoKey(slot, guid))
      .filter((key) => this.#host.table.view.values?.has(key) === true)
    if (keys.length === 0) return
    await this.#host.transact((tx) => {
      for (const key of keys) tx.setValue?.(this.table, key, undefined)
    })
  }

  #mustBeOpen(): void {
    if (this.#closing !== undefined) throw new BoxError('BOX_CLOSED', 'the box is closed')
  }
}

function placeOf({ ref, length, sum, flags }: Row, name: string, offset: number): Place {
  return { ref, name, alt: false, flags, file: 0, offset, length, sum }
}
