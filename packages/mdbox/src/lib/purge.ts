/**
 * Giving back the space of dead messages.
 *
 * HOW      Files that are dead to a share worth the work are emptied one by one: their live records are copied raw, and
 *          verified, to the current file and flushed; one transaction then moves the rows and drops those without uses
 *          (decided under the lock); only when that is durable is the file removed.
 *          A file is touched only by the process that has its slot's lock, with nothing pinned in it: so no record in
 *          it can be waiting for its row, and nobody appends to it.
 *
 * A crash leaves: before the transaction, copies that no row names, in the current file; after it, a file that no row
 * names, whose number the transaction wrote down (CONDEMNED) so that the next purge removes it. A file that no row
 * names and nobody wrote down is left alone: with a lost or older index it may be the only copy. Unless all it holds is
 * a message that was never finished.
 *
 * A file with a damaged message is left as it is.
 */
import {
  BOX_USES_COLUMN,
  BoxError,
  type BoxHost,
  type BoxPurgeTransaction,
  type BoxRef,
  type PurgeReport,
} from '@mailstead/box'
import { type Fs, FsError, type FsLock } from '@mailstead/fs'
import { type Appender, lockSlot, type Pending, slotOf } from './append.ts'
import type { FileCache, OpenFile } from './files.ts'
import { HEADER_BYTES, LINE_MAX, readFileLine } from './format.ts'
import { type MdboxOptions, SMALL_MAX } from './options.ts'
import type { Places, PlaceTable } from './place.ts'
import { damaged, type Place, wholeMessage } from './read.ts'
import { listFiles } from './scan.ts'
import { findHeader, verifyRecord } from './walk.ts'
import { Window } from './window.ts'

/** Table-level value: numbers (4 bytes, little-endian) of files that a transaction emptied and that are to be removed. must not change: on disk */
export const CONDEMNED = 'condemned'
/** Files removed between two flushes of the directory. */
const CONDEMNED_MAX = 16
/** Bytes copied in one group. */
const COPY_GROUP: number = 4 * 1024 * 1024
const COPY_PIECE: number = 256 * 1024

export interface PurgeContext {
  readonly fs: Fs
  readonly directory: string
  readonly host: BoxHost
  readonly places: PlaceTable
  readonly appender: Appender
  readonly files: FileCache
  readonly options: Required<MdboxOptions>
  /** Aborted: no further file is begun. */
  readonly signal: AbortSignal | undefined
}

/** What is in one file, by the table. */
interface Content {
  readonly id: number
  readonly size: number
  liveBytes: number
  readonly live: Place[]
  readonly unused: BoxRef[]
}

export async function purgeBox(context: PurgeContext): Promise<PurgeReport> {
  const { fs, directory, host, places, appender, options, signal } = context
  const report = { files: 0, messages: 0, bytesReclaimed: 0, skipped: 0 }
  if ((await listFiles(fs, directory)).length === 0) return report
  await appender.takeSlot()
  await using locks = new SlotLocks(fs, directory, appender.slot!)
  const sizes = new Map<number, number>()
  for (const id of await listFiles(fs, directory)) {
    const stat = await fs.stat(`${directory}/m.${id}`)
    if (stat !== undefined) sizes.set(id, stat.size)
  }
  await host.refresh()
  const condemned = readCondemned(host)
  const isOurs = (id: number): boolean => condemned.has(id) || appender.isMade(id)
  const settled = new Map<number, number>()
  for (const content of (await survey(places, sizes)).values()) {
    const { id } = content
    if (signal?.aborted === true) break
    if (!isWorthIt(content, options.purgeShare, isOurs) && !(isOrphan(content) && (await isUnfinished(context, id))))
      continue
    if (await locks.has(slotOf(id))) {
      await appender.retire(id)
      if (appender.isSettled(id)) {
        const stat = await fs.stat(`${directory}/m.${id}`)
        if (stat !== undefined) settled.set(id, stat.size)
        continue
      }
    }
    report.skipped++
  }
  // Nothing more comes to these files, and what came has its row by now: from here on the plan holds.
  await host.refresh()
  /** Files removed since the directory was last flushed, and those removed for good. */
  const removed: number[] = []
  const gone = new Set<number>()
  const flush = async (): Promise<void> => {
    await fs.syncDirectory(directory)
    for (const id of removed) gone.add(id)
    removed.length = 0
  }
  for (const content of (await survey(places, settled)).values()) {
    if (signal?.aborted === true) break
    const emptied = await empty(context, content, removed, gone)
    if (!emptied) {
      report.skipped++
      continue
    }
    await remove(context, content.id)
    removed.push(content.id)
    if (removed.length === CONDEMNED_MAX) await flush()
    report.files++
    report.messages += content.unused.length
    report.bytesReclaimed += content.size - content.liveBytes
  }
  if (removed.length > 0) await flush()
  if (gone.size > 0) await host.transact((tx) => condemn(context, tx, [], gone))
  return report
}

/** The locks of slots that are not ours, taken as they are needed, given back at the end. */
class SlotLocks implements AsyncDisposable {
  readonly #fs: Fs
  readonly #directory: string
  readonly #own: number
  readonly #locks = new Map<number, FsLock | undefined>()

  constructor(fs: Fs, directory: string, own: number) {
    this.#fs = fs
    this.#directory = directory
    this.#own = own
  }
  async has(slot: number): Promise<boolean> {
    if (slot === this.#own) return true
    if (!this.#locks.has(slot)) this.#locks.set(slot, await lockSlot(this.#fs, this.#directory, slot))
    return this.#locks.get(slot) !== undefined
  }
  async [Symbol.asyncDispose](): Promise<void> {
    for (const lock of this.#locks.values()) await lock?.[Symbol.asyncDispose]()
    this.#locks.clear()
  }
}

async function survey(table: PlaceTable, sizes: ReadonlyMap<number, number>): Promise<Map<number, Content>> {
  const contents = new Map<number, Content>()
  for (const [id, size] of sizes) contents.set(id, { id, size, liveBytes: 0, live: [], unused: [] })
  const places: Places = await table.loaded()
  const { view, file, offset, length, sum } = places
  await view.load?.([BOX_USES_COLUMN])
  const uses = view.extension(BOX_USES_COLUMN)
  if (uses === undefined) throw new TypeError(`the box's table has no column "${BOX_USES_COLUMN}"`)
  for (let row = 0; row < view.count; row++) {
    const content = contents.get(file.number(row))
    if (content === undefined) continue
    const ref = view.uid(row)
    if (uses.number(row) === 0) content.unused.push(ref)
    else {
      content.liveBytes += length.number(row)
      content.live.push({
        ref,
        file: content.id,
        offset: offset.number(row),
        length: length.number(row),
        sum: sum.number(row),
      })
    }
  }
  for (const { live } of contents.values()) live.sort((a, b) => a.offset - b.offset)
  return contents
}

function isWorthIt({ id, size, liveBytes, live, unused }: Content, share: number, isOurs: (id: number) => boolean) {
  if (live.length === 0) return unused.length > 0 || isOurs(id)
  const dead = size - liveBytes
  // A file that is all alive has nothing but its first line besides.
  return dead > LINE_ALLOWANCE && dead >= share * size
}
const LINE_ALLOWANCE = 64

function isOrphan({ live, unused }: Content): boolean {
  return live.length === 0 && unused.length === 0
}

/**
 * Whether a file holds nothing but a message that was never finished, as a process leaves it that dies while it spools
 * one. Such a message was never flushed, so no row ever named it, whatever became of the index.
 */
async function isUnfinished({ fs, directory }: PurgeContext, id: number): Promise<boolean> {
  await using file = await fs.open(`${directory}/m.${id}`, 'read')
  const { size } = await file.stat()
  const window = new Window(file, size)
  const first = await window.bytes(0, Math.min(LINE_MAX, size))
  const start = readFileLine(first)?.length ?? 0
  const header = first.subarray(start, start + HEADER_BYTES)
  if (header.some((byte) => byte !== 0)) return false
  return (await window.run(findHeader(start, size))) < 0
}

/** Moves what is alive out of a file and drops the rest. False: the file must stay. */
async function empty(
  context: PurgeContext,
  content: Content,
  removed: readonly number[],
  gone: ReadonlySet<number>,
): Promise<boolean> {
  const { host, places, appender, files } = context
  const pins: number[] = []
  try {
    const moved: { readonly ref: BoxRef; readonly file: number; readonly offset: number }[] = []
    if (content.live.length > 0) {
      let open: OpenFile
      try {
        open = await files.open(content.id)
        try {
          await copyAll(context, open, content.live, moved, pins)
        } finally {
          open.release()
        }
      } catch (error) {
        if (error instanceof BoxError && (error.code === 'BOX_DAMAGED' || error.code === 'BOX_CORRUPT')) return false
        throw error
      }
    }
    const table = host.table.id
    await host.transact((tx) => {
      for (const { ref, file, offset } of moved) {
        tx.setColumn(table, 'file', ref, file)
        tx.setColumn(table, 'offset', ref, offset)
      }
      if (content.unused.length > 0) tx.dropUnused(table, content.unused)
      condemn(context, tx, [...removed, content.id], gone)
    })
  } finally {
    for (const id of pins) appender.unpin(id)
  }
  // A message that got a use again meanwhile is still there, and so is its place.
  const { view, file } = await places.loaded()
  return content.unused.every((ref) => {
    const row = view.rowOf(ref)
    return row < 0 || file.number(row) !== content.id
  })
}

async function copyAll(
  { appender }: PurgeContext,
  open: OpenFile,
  live: readonly Place[],
  moved: { ref: BoxRef; file: number; offset: number }[],
  pins: number[],
): Promise<void> {
  let group: Pending[] = []
  let refs: BoxRef[] = []
  let bytes = 0
  const flush = async (): Promise<void> => {
    if (group.length === 0) return
    pins.push(await appender.append(group, bytes))
    for (const [i, { file, offset }] of group.entries()) moved.push({ ref: refs[i]!, file, offset })
    group = []
    refs = []
    bytes = 0
  }
  for (const place of live) {
    if (place.length > SMALL_MAX) {
      await copyLarge(appender, open, place, moved, pins)
      continue
    }
    const record = Buffer.allocUnsafeSlow(place.length)
    wholeMessage(record, await open.file.read(record, place.offset), place, open.headerBytes)
    group.push({ parts: [record], length: record.length, file: 0, offset: 0 })
    refs.push(place.ref)
    bytes += record.length
    if (bytes >= COPY_GROUP) await flush()
  }
  await flush()
}

async function copyLarge(
  appender: Appender,
  open: OpenFile,
  place: Place,
  moved: { ref: BoxRef; file: number; offset: number }[],
  pins: number[],
): Promise<void> {
  const { offset, length } = place
  const window = new Window(open.file, length)
  const found = await window.run(verifyRecord(offset, offset + length, open.headerBytes))
  if (found.damage !== undefined || found.length !== length || found.sum !== place.sum)
    throw damaged(place, found.damage ?? 'this is not the message of the row')
  const spool = await appender.takeSpool()
  appender.pin(spool.id)
  pins.push(spool.id)
  try {
    const at = await spool.begin([])
    for (let done = 0; done < length; done += COPY_PIECE)
      await spool.append([await window.bytes(offset + done, Math.min(COPY_PIECE, length - done))])
    spool.complete()
    await spool.sync()
    moved.push({ ref: place.ref, file: spool.id, offset: at })
  } finally {
    await spool.rollback()
    appender.giveSpool(spool)
  }
}

async function remove({ fs, directory, files }: PurgeContext, id: number): Promise<void> {
  files.drop(id)
  try {
    await fs.remove(`${directory}/m.${id}`)
  } catch (error) {
    if (!(error instanceof FsError && error.code === 'FS_NOT_FOUND')) throw error
  }
}

function readCondemned({ table }: BoxHost): Set<number> {
  const value = table.view.values?.get(CONDEMNED)
  const ids = new Set<number>()
  if (value === undefined) return ids
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength)
  for (let at = 0; at + 4 <= value.length; at += 4) ids.add(view.getUint32(at, true))
  return ids
}

/** Adds to the files that are to be removed, and takes from them those that are. What earlier purges left stays there. */
function condemn(
  { host }: PurgeContext,
  tx: BoxPurgeTransaction,
  ids: readonly number[],
  gone: ReadonlySet<number>,
): void {
  const all = readCondemned(host)
  for (const id of ids) all.add(id)
  for (const id of gone) all.delete(id)
  tx.setValue?.(host.table.id, CONDEMNED, all.size === 0 ? undefined : writeCondemned([...all]))
}

function writeCondemned(ids: readonly number[]): Uint8Array {
  const value = new Uint8Array(4 * ids.length)
  const view = new DataView(value.buffer)
  for (const [i, id] of ids.entries()) view.setUint32(4 * i, id, true)
  return value
}
