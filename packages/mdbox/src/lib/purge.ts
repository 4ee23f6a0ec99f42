/**
 * Giving back the space of dead messages.
 *
 * HOW      Files that are dead to a share worth the work are emptied one by one, those of which most is dead first:
 *          their live records are copied raw, and verified, to the current file of their tier and flushed; one
 *          transaction then moves the rows and drops those without uses (decided under the lock); only when that is
 *          durable is the file removed. A file is touched only by the process that has its slot's lock, with nothing
 *          pinned in it: so no record in it can be waiting for its row, and nobody appends to it. Those who copy take
 *          turns, file by file (`lockMoves`).
 *
 * A crash leaves: before the transaction, copies that no row names, in the current file; after it, a file that no row
 * names, whose number the transaction wrote down (CONDEMNED) so that the next purge removes it. A file that no row
 * names and nobody wrote down is left alone: with a lost or older index it may be the only copy. Unless all it holds is
 * a message that was never finished.
 *
 * A file with a damaged message is left as it is. A second tier that is away is left as it is, and what is condemned
 * in it stays condemned.
 *
 * MEMORY   a number for each row that is in a file worth purging, an object for each file, and what is in the file at
 *          hand.
 */
import {
  type AttachmentDrop,
  BOX_USES_COLUMN,
  type BoxBudget,
  BoxError,
  type BoxHost,
  type BoxPurgeTransaction,
  mustBeComplete,
  type PurgeReport,
} from '@mailstead/box'
import { FsError, type FsLock } from '@mailstead/fs'
import type { AltTier, Tier, TierContext } from './altmove-tier.ts'
import { Moves, openPlaces } from './altmove-copy.ts'
import { HEADER_BYTES, LINE_MAX, readFileLine } from './format.ts'
import { type Journal, put } from './journal.ts'
import type { Dead } from './journal-format.ts'
import { Pace } from './pace.ts'
import { CONDEMNED, FLAG_ALT, FLAG_ATTACHED, type Places, readCondemned, writeCondemned } from './place.ts'
import { isConflict, readInline, segmentsOf } from './read-message.ts'
import { listFiles } from './scan.ts'
import { lockSlot, slotOf } from './slot.ts'
import { findHeader } from './walk.ts'
import { Window } from './window.ts'

/** must not change: on disk */
const MOVES_LOCK = 'purge.lock'
/** Files removed between two flushes of the directory. */
const CONDEMNED_MAX = 16

export interface PurgeContext extends TierContext {
  readonly primary: Tier
  readonly alt: AltTier
  readonly journal: Journal
}

/** Of one file, by the table. */
interface Content {
  readonly tier: Tier
  readonly id: number
  readonly size: number
  liveBytes: number
  live: number
  unused: number
}

/** Files, by tier and number. */
type Contents = ReadonlyMap<Tier, Map<number, Content>>

/** `only`: of one tier, these files. */
export async function purgeBox(
  context: PurgeContext,
  budget: BoxBudget,
  only?: { readonly tier: Tier; readonly ids: ReadonlySet<number> },
): Promise<PurgeReport> {
  const { host, primary, settings } = context
  await host.refresh()
  mustBeComplete(host)
  const pace = new Pace(budget, settings)
  let unavailable: unknown
  let alt: Tier | undefined
  try {
    alt = await context.alt.present()
  } catch (error) {
    if (!(error instanceof FsError)) throw error
    unavailable = error
  }
  const tiers = alt === undefined ? [primary] : [primary, alt]
  const report = { files: 0, messages: 0, bytesReclaimed: 0, skipped: 0 }
  const left = { files: 0, bytes: 0 }
  const result = (): PurgeReport => ({
    ...report,
    ...(left.files > 0 ? { left } : {}),
    ...(unavailable === undefined ? {} : { unavailable }),
  })
  const before = await sizesOf(tiers)
  if ([...before.values()].every((files) => files.size === 0)) return result()
  await context.slot.take()
  await using locks = new SlotLocks(primary, context.slot.number!)
  // Listed again: what others made before we had a slot is there now.
  const sizes = await sizesOf(tiers)
  await host.refresh()
  const condemned = readCondemned(host)
  const settled: Map<Tier, Map<number, Content>> = new Map(tiers.map((tier) => [tier, new Map()]))
  for (const [tier, files] of await survey(context, sizes))
    for (const content of files.values()) {
      const { id } = content
      if (pace.signal?.aborted === true) break
      if (only !== undefined && !(only.tier === tier && only.ids.has(id))) continue
      const isOurs = condemned.has(id) || tier.appender.isMade(id)
      if (!isWorthIt(content, settings.purgeShare, isOurs) && !(isOrphan(content) && (await isUnfinished(content))))
        continue
      if (await locks.has(slotOf(id))) {
        await tier.appender.takeSlot()
        await tier.appender.retire(id)
        if (tier.appender.isSettled(id)) {
          const stat = await tier.fs.stat(`${tier.directory}/m.${id}`)
          if (stat !== undefined) settled.get(tier)!.set(id, empty(tier, id, stat.size))
          continue
        }
      }
      report.skipped++
    }
  // Nothing more comes to these files, and what came has its row by now: from here on the plan holds.
  await host.refresh()
  const plan = await survey(context, settled)
  const rows = await rowsByFile(context, plan)
  const removals = new Removals(context)
  for (const { content, refs } of rows) {
    const { tier, id, size, liveBytes } = content
    if (pace.isOver || !pace.allows(liveBytes)) {
      left.files++
      left.bytes += size - liveBytes
      continue
    }
    const dropped = await emptyFile(context, content, refs, removals, pace)
    if (dropped === undefined) {
      report.skipped++
      continue
    }
    await removals.remove(tier, id)
    report.files++
    report.messages += dropped
    report.bytesReclaimed += size - liveBytes
  }
  const missing = [...condemned].filter((id) => !tiers.some((tier) => sizes.get(tier)!.has(id)))
  if (missing.length > 0 && unavailable === undefined && (alt !== undefined || !(await context.alt.isKnown())))
    try {
      if (alt !== undefined) await context.alt.verify()
      // What is condemned and nowhere any more was removed by somebody who could not say so.
      for (const id of missing) removals.gone.add(id)
    } catch (error) {
      if (!(error instanceof FsError)) throw error
      unavailable = error
    }
  await removals.finish()
  return result()
}

async function sizesOf(tiers: readonly Tier[]): Promise<Map<Tier, Map<number, Content>>> {
  const sizes = new Map<Tier, Map<number, Content>>()
  for (const tier of tiers) {
    const files = new Map<number, Content>()
    for (const id of await listFiles(tier.fs, tier.directory)) {
      const stat = await tier.fs.stat(`${tier.directory}/m.${id}`)
      if (stat !== undefined) files.set(id, empty(tier, id, stat.size))
    }
    sizes.set(tier, files)
  }
  return sizes
}

function empty(tier: Tier, id: number, size: number): Content {
  return { tier, id, size, liveBytes: 0, live: 0, unused: 0 }
}

/** The locks of slots that are not ours, taken as they are needed, given back at the end. */
class SlotLocks implements AsyncDisposable {
  readonly #tier: Tier
  readonly #own: number
  readonly #locks = new Map<number, FsLock | undefined>()

  constructor(tier: Tier, own: number) {
    this.#tier = tier
    this.#own = own
  }
  async has(slot: number): Promise<boolean> {
    if (slot === this.#own) return true
    if (!this.#locks.has(slot)) this.#locks.set(slot, await lockSlot(this.#tier.fs, this.#tier.directory, slot))
    return this.#locks.get(slot) !== undefined
  }
  async [Symbol.asyncDispose](): Promise<void> {
    for (const lock of this.#locks.values()) await lock?.[Symbol.asyncDispose]()
    this.#locks.clear()
  }
}

/** Finds the tier that a row is in among those at hand. */
function tierOf(contents: Contents, { flags }: Places, row: number): Map<number, Content> | undefined {
  const alt = (flags.number(row) & FLAG_ALT) !== 0
  for (const [tier, files] of contents) if (tier.alt === alt) return files
  return undefined
}

/** Counts what is in each file. */
async function survey({ places: table }: PurgeContext, contents: Contents): Promise<Contents> {
  const places = await table.loaded()
  const { view, file, length } = places
  const uses = await usesOf(places)
  for (let row = 0; row < view.count; row++) {
    const content = tierOf(contents, places, row)?.get(file.number(row))
    if (content === undefined) continue
    if (uses.number(row) === 0) content.unused++
    else {
      content.live++
      content.liveBytes += length.number(row)
    }
  }
  return contents
}

async function usesOf({ view }: Places): Promise<{ number(row: number): number }> {
  await view.load?.([BOX_USES_COLUMN])
  const uses = view.extension(BOX_USES_COLUMN)
  if (uses === undefined) throw new TypeError(`the box's table has no column "${BOX_USES_COLUMN}"`)
  return uses
}

/** References of the rows of each file, the file of which most is dead first. */
async function rowsByFile(
  { places: table }: PurgeContext,
  contents: Contents,
): Promise<{ readonly content: Content; readonly refs: Uint32Array }[]> {
  const places = await table.loaded()
  const { view, file } = places
  const found = new Map<Content, { content: Content; refs: Uint32Array; end: number }>()
  for (const files of contents.values())
    for (const content of files.values())
      found.set(content, { content, refs: new Uint32Array(content.live + content.unused), end: 0 })
  for (let row = 0; row < view.count; row++) {
    const content = tierOf(contents, places, row)?.get(file.number(row))
    if (content === undefined) continue
    const entry = found.get(content)!
    if (entry.end < entry.refs.length) entry.refs[entry.end++] = view.uid(row)
  }
  return [...found.values()].sort((a, b) => deadShare(b.content) - deadShare(a.content))
}

function deadShare({ size, liveBytes }: Content): number {
  return size === 0 ? 1 : (size - liveBytes) / size
}

function isWorthIt({ size, liveBytes, live, unused }: Content, share: number, isOurs: boolean): boolean {
  if (live === 0) return unused > 0 || isOurs
  const dead = size - liveBytes
  // A file that is all alive has nothing but its first line besides.
  return dead > LINE_ALLOWANCE && dead >= share * size
}
const LINE_ALLOWANCE = 64

function isOrphan({ live, unused }: Content): boolean {
  return live === 0 && unused === 0
}

/**
 * Whether a file holds nothing but a message that was never finished, as a process leaves it that dies while it spools
 * one. Such a message was never flushed, so no row ever named it, whatever became of the index.
 */
async function isUnfinished({ tier, id }: Content): Promise<boolean> {
  await using file = await tier.fs.open(`${tier.directory}/m.${id}`, 'read')
  const { size } = await file.stat()
  const window = new Window(file, size)
  const first = await window.bytes(0, Math.min(LINE_MAX, size))
  const start = readFileLine(first)?.length ?? 0
  const header = first.subarray(start, start + HEADER_BYTES)
  if (header.some((byte) => byte !== 0)) return false
  return (await window.run(findHeader(start, size))) < 0
}

/**
 * Moves what is alive out of a file and drops the rest. Resolves to how many were dropped; undefined: the file must
 * stay.
 */
async function emptyFile(
  context: PurgeContext,
  { tier, id }: Content,
  refs: Uint32Array,
  removals: Removals,
  pace: Pace,
): Promise<number | undefined> {
  const { host, places: table } = context
  await using lock = await lockMoves(context, pace.signal)
  if (lock === undefined) return undefined
  const places = await table.loaded()
  const uses = await usesOf(places)
  const isHere = ({ view, file, flags }: Places, ref: number): number => {
    const row = view.rowOf(ref)
    const here = row >= 0 && file.number(row) === id && ((flags.number(row) & FLAG_ALT) !== 0) === tier.alt
    return here ? row : -1
  }
  const unused: number[] = []
  const live: number[] = []
  for (const ref of refs) {
    const row = isHere(places, ref)
    if (row < 0) continue
    if (uses.number(row) === 0) unused.push(ref)
    else live.push(row)
  }
  const attached = unused.filter((ref) => (places.flags.number(places.view.rowOf(ref)) & FLAG_ATTACHED) !== 0)
  // What they hold elsewhere could not be given back.
  if (attached.length > 0 && host.attachments === undefined) return undefined
  live.sort((a, b) => places.offset.number(a) - places.offset.number(b))
  await using moves = new Moves(tier, context, pace)
  try {
    for (const place of openPlaces(places, live)) await moves.copy(tier, place)
    await moves.flush()
  } catch (error) {
    if (error instanceof BoxError && (error.code === 'BOX_DAMAGED' || error.code === 'BOX_CORRUPT')) return undefined
    if (!(tier.alt && error instanceof FsError && error.code === 'FS_NOT_FOUND')) throw error
    await context.alt.verify()
    return undefined
  }
  // The index forgets their places now; whoever finds the bytes there without it is to know that they are nobody's.
  await context.journal.add(deadOf(places, [...unused, ...moves.refs]))
  // What was created since it was looked at last may be on a bare mount point.
  if (tier.alt) await context.alt.verify()
  const drop = await dropOf(context, tier, attached)
  try {
    await host.transact((tx) => {
      moves.apply(tx)
      if (unused.length > 0) tx.dropUnused(host.table.id, unused, { all: drop !== undefined })
      drop?.record(tx)
      removals.condemn(tx, [id])
    })
  } catch (error) {
    if (drop === undefined || !isConflict(error)) throw error
    // In use again, and with it what it holds elsewhere: another time.
    await takeBack(context)
    return undefined
  }
  const now = await table.loaded()
  if (!unused.some((ref) => isHere(now, ref) >= 0)) return unused.length
  // A message that got a use again meanwhile is still there, and so is its place.
  await takeBack(context)
  return undefined
}

/**
 * For as long as messages are copied and their rows follow: else two processes copy the same at the same time, and
 * one of the copies is nobody's. Undefined if the signal came first.
 */
export async function lockMoves(
  { host, primary }: PurgeContext,
  signal: AbortSignal | undefined,
): Promise<FsLock | undefined> {
  const lock = await primary.fs.lock(`${primary.directory}/${MOVES_LOCK}`)
  try {
    await lock.acquire(signal === undefined ? {} : { signal })
    await host.refresh()
    return lock
  } catch (error) {
    await lock[Symbol.asyncDispose]()
    if (signal?.aborted === true) return undefined
    throw error
  }
}

/** What was noted as dead, and is somebody's after all, must not look dead to whoever has no index. */
async function takeBack({ host, places, journal }: PurgeContext): Promise<void> {
  await host.refresh()
  await journal.write(places)
}

/** Prepares giving back what messages of one tier hold elsewhere; undefined if they hold nothing. */
async function dropOf(
  { host, places: table }: PurgeContext,
  tier: Tier,
  refs: readonly number[],
): Promise<AttachmentDrop | undefined> {
  if (refs.length === 0 || host.attachments === undefined) return undefined
  const places = await table.loaded()
  const rows = refs.map((ref) => places.view.rowOf(ref)).filter((row) => row >= 0)
  const segments = await segmentsOf(openPlaces(places, rows), async (place) =>
    readInline(await tier.files.open(place.file), { ...place }),
  )
  return host.attachments.drop(segments)
}

export function deadOf({ view, file, offset, sum }: Places, refs: readonly number[]): Dead {
  const dead: Dead = new Map()
  for (const ref of refs) {
    const row = view.rowOf(ref)
    put(dead, file.number(row), offset.number(row), sum.number(row))
  }
  return dead
}

/** Removes files that the last transaction emptied, and keeps account of those that are to be. */
class Removals {
  readonly #context: PurgeContext
  /** Removed since the directory was flushed. */
  readonly #removed: { readonly tier: Tier; readonly id: number }[] = []
  /** Removed for good, and still written down. */
  readonly gone = new Set<number>()

  constructor(context: PurgeContext) {
    this.#context = context
  }

  /** Writes down that these are to be removed, those still to be, and no more those that are. */
  condemn(tx: BoxPurgeTransaction, ids: readonly number[]): void {
    condemn(this.#context.host, tx, [...this.#removed.map(({ id }) => id), ...ids], this.gone)
  }

  async remove(tier: Tier, id: number): Promise<void> {
    tier.files.drop(id)
    try {
      await tier.fs.remove(`${tier.directory}/m.${id}`)
    } catch (error) {
      if (!(error instanceof FsError && error.code === 'FS_NOT_FOUND')) throw error
    }
    this.#removed.push({ tier, id })
    if (this.#removed.length >= CONDEMNED_MAX) await this.#flush()
  }

  async finish(): Promise<void> {
    await this.#flush()
    if (this.gone.size > 0) await this.#context.host.transact((tx) => this.condemn(tx, []))
  }

  async #flush(): Promise<void> {
    for (const tier of new Set(this.#removed.map((removed) => removed.tier))) {
      // Nothing is found, and so nothing removed, in a tier that was unmounted meanwhile.
      if (tier.alt) await this.#context.alt.verify()
      await tier.fs.syncDirectory(tier.directory)
    }
    for (const { id } of this.#removed) this.gone.add(id)
    this.#removed.length = 0
  }
}

/**
 * Adds to the files that are to be removed, and takes from them those that are. What earlier purges left stays there.
 */
export function condemn(
  host: BoxHost,
  tx: BoxPurgeTransaction,
  ids: Iterable<number>,
  gone: ReadonlySet<number> = new Set(),
): void {
  const all = readCondemned(host)
  for (const id of gone) all.delete(id)
  for (const id of ids) all.add(id)
  tx.setValue?.(host.table.id, CONDEMNED, writeCondemned(all))
}
