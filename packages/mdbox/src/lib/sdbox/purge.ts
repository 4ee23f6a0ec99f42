/**
 * Giving back the space of messages that no mailbox has.
 *
 * HOW      1. Names that disagree with the log are set right first, mailbox by mailbox: those that are noted (slots.ts), and those
 *             with another number of names than of messages.
 *          2. Whatever was expunged (`x.<UID>`), or lies in the directory of a mailbox that was removed, is listed; then the rows.
 *          3. A message whose home is among that and that other mailboxes still have gets one of those for its home: its name there
 *             is verified, byte for byte, and flushed before a frame says so.
 *          4. The same frames drop the rows without uses (decided under the lock).
 *          5. What no row has for its home any more is removed, and a message's file without name once its home has it.
 *
 * What a budget counts as copied is what is verified: nothing is copied.
 *
 * A crash leaves: before a frame, more names than needed; after it, files that no row names, expunged by their name, or noted
 * (CONDEMNED) if they never had one, which the next purge removes. A file that no row names and nobody wrote down is left
 * alone: with a lost or older index it may be the only copy.
 */
import {
  type AttachmentDrop,
  type AttachmentTransaction,
  BOX_REF_COLUMN,
  BOX_USES_COLUMN,
  type BoxMessage,
  type BoxMailbox,
  type BoxPurgeTransaction,
  type BoxRef,
  type PurgeReport,
} from '@mailstead/box'
import { FsError } from '@mailstead/fs'
import type { Pace } from '../pace.ts'
import { FLAG_ATTACHED } from '../place.ts'
import { isConflict, segmentsOf } from '../read-message.ts'
import { identify, identityOf, listMailbox, listMailboxes, listUnnamed, removeFile } from './directory.ts'
import { finishMailbox, type NamesContext, nameMessage, removeDirectory } from './finish.ts'
import { holdsAt } from './holds.ts'
import { removeLeftovers } from './leftovers.ts'
import { ID_BYTES, UNNAMED } from './names.ts'
import { PURGE_ROWS } from './options.ts'
import { inParallel } from './parallel.ts'
import { hex, isAlt, type Row } from './row.ts'
import { tryLock } from './slots.ts'
import { hasAlt, type Root, rootOf, type Second, secondOf, syncIn } from './tiers.ts'

/** Table-level value: ids of unnamed messages whose rows a transaction dropped, and that are to be removed. must not change: on disk */
export const CONDEMNED = 'condemned'

export interface PurgeContext extends NamesContext {
  /** Messages written by this process: true, once their batch is over. */
  readonly made: Map<string, boolean>
  /** What is in the file of a message; parts of it may lie elsewhere. */
  readonly openInline: (row: Row) => Promise<BoxMessage>
  /** Forgets an open file. */
  readonly drop: (ref: BoxRef) => void
  readonly pace: Pace
}

type Tx = AttachmentTransaction & BoxPurgeTransaction

interface Report {
  files: number
  messages: number
  bytesReclaimed: number
  skipped: number
  left?: NonNullable<PurgeReport['left']>
  unavailable?: unknown
}

export async function purgeBox(context: PurgeContext): Promise<PurgeReport> {
  const { fs, directory, host } = context
  const report: Report = { files: 0, messages: 0, bytesReclaimed: 0, skipped: 0 }
  if ((await fs.stat(directory)) === undefined) return report
  await using lock = await tryLock(fs, `${directory}/purge.lock`)
  if (lock === undefined) return { ...report, skipped: 1 }
  const tier = await secondOf(context.second)
  const far = rootOf(tier)
  if (tier instanceof FsError) report.unavailable = tier
  await finishAll(context, tier)
  const dead = await listDead(context, far)
  const unnamed = await listUnnamed(fs, directory)
  // Those of ours whose batch is over have their row by now, or never will.
  const over = [...context.made].filter(([, isOver]) => isOver).map(([id]) => id)
  await host.refresh()
  const { unused, homeless } = await survey(context, dead, unnamed)
  await removeUnnamed(context, over, unnamed, report)
  await dropUnused(context, far, unused, unnamed, report)
  const leftovers = await removeLeftovers(context)
  report.files += leftovers.files
  report.bytesReclaimed += leftovers.bytes
  if (homeless.length > 0) await rehome(context, tier, homeless, report)
  if (unnamed.size > 0) await tidyUnnamed(context, far, unnamed)
  if (far !== undefined) await tidyTiers(context, far, report)
  await removeExpunged(context, tier, dead, report)
  return report
}

async function finishAll(context: PurgeContext, tier: Second): Promise<void> {
  const far = rootOf(tier)
  const { fs, directory, host, pace } = context
  await host.refresh()
  const { mailboxes } = host
  const noted = new Set<string>()
  for (const key of host.table.view.values?.keys() ?? []) {
    const guid = /^todo\.\d+\.([0-9a-f]{32})$/.exec(key)?.[1]
    if (guid !== undefined) noted.add(guid)
  }
  for (const { count, ...mailbox } of mailboxes?.list() ?? []) {
    if (pace.isOver) return
    const { guid } = mailbox
    const { named, expunged, empty } = await listMailbox(fs, directory, guid)
    // It may have another name by now.
    if (!empty) await identify(fs, directory, mailbox, false)
    let live = named.size
    if (far !== undefined)
      for (const uid of (await listMailbox(far.fs, far.directory, guid)).named)
        if (!named.has(uid) && !expunged.has(uid)) live++
    if (live !== count) await finishMailbox(context, guid, tier)
    noted.delete(guid)
  }
  // What is left of them has no mailbox any more.
  for (const guid of noted) await finishMailbox(context, guid, tier)
}

/** Files that may go, by mailbox: expunged UIDs, and all UIDs of one that was removed. */
interface Dead {
  readonly removed: boolean
  readonly expunged: Set<number>
  readonly named: Set<number>
  /** Those of all of them that have a file in the second tier. */
  readonly there: ReadonlySet<number>
}

async function listDead({ fs, directory }: PurgeContext, far: Root | undefined): Promise<Map<string, Dead>> {
  const dead = new Map<string, Dead>()
  for (const guid of await listMailboxes(fs, directory)) {
    const { named, expunged, hasIdentity } = await listMailbox(fs, directory, guid)
    const identity = hasIdentity ? await identityOf(fs, directory, guid) : undefined
    const removed = typeof identity === 'object' && identity.removed
    if (!removed && expunged.size === 0) continue
    const there = far === undefined ? NOTHING : (await listMailbox(far.fs, far.directory, guid)).named
    const all = removed ? new Set([...named, ...there]) : NOTHING
    dead.set(guid, { removed, expunged, named: all, there })
  }
  return dead
}

const NOTHING: Set<number> = new Set()

function isDead(dead: ReadonlyMap<string, Dead>, mailbox: string, uid: number): boolean {
  const found = dead.get(mailbox)
  return found !== undefined && (found.expunged.has(uid) || found.named.has(uid))
}

async function survey(
  { rows }: PurgeContext,
  dead: ReadonlyMap<string, Dead>,
  unnamed: ReadonlySet<string>,
): Promise<{ readonly unused: readonly Row[]; readonly homeless: Row[] }> {
  const all = await rows.loaded()
  const { view } = all
  await view.load?.([BOX_USES_COLUMN])
  const uses = view.extension(BOX_USES_COLUMN)
  if (uses === undefined) throw new TypeError(`the box's table has no column "${BOX_USES_COLUMN}"`)
  const unused: Row[] = []
  const homeless: Row[] = []
  for (let at = 0; at < view.count; at++) {
    if (uses.number(at) === 0) unused.push(all.at(at))
    else if (dead.size + unnamed.size > 0) {
      const uid = all.uid.number(at)
      // Whoever saved it did not say where its home is, perhaps.
      const isHomeless = uid === 0 ? unnamed.has(hex(all.id.value(at))) : isDead(dead, hex(all.mailbox.value(at)), uid)
      if (isHomeless) homeless.push(all.at(at))
    }
  }
  return { unused, homeless }
}

async function dropUnused(
  context: PurgeContext,
  far: Root | undefined,
  all: readonly Row[],
  unnamed: ReadonlySet<string>,
  report: Report,
): Promise<void> {
  const { fs, directory, host, rows, pace } = context
  // What they hold elsewhere could not be given back without.
  const unused = host.attachments === undefined ? all.filter((row) => !isAttached(row)) : all
  for (let at = 0; at < unused.length; at += PURGE_ROWS) {
    if (pace.isOver) {
      const rest = unused.slice(at)
      report.left = { files: rest.length, bytes: rest.reduce((sum, { length }) => sum + length, 0) }
      break
    }
    const some = unused.slice(at, at + PURGE_ROWS)
    const nameless = some.filter(({ id }) => unnamed.has(id))
    let drop: AttachmentDrop | undefined
    try {
      drop = await dropOf(context, some.filter(isAttached))
    } catch (error) {
      if (!(error instanceof FsError)) throw error
      // What they hold elsewhere cannot be looked up now: another time.
      report.skipped += some.length
      continue
    }
    const change = (tx: Tx): void => {
      tx.dropUnused(
        rows.id,
        some.map(({ ref }) => ref),
        { all: drop !== undefined },
      )
      drop?.record(tx)
      if (nameless.length > 0 || hasCondemned(context))
        condemn(
          context,
          tx,
          nameless.map(({ id }) => id),
        )
    }
    try {
      await host.transact(change)
    } catch (error) {
      if (drop === undefined || !isConflict(error)) throw error
      // One is in use again, and with it what it holds elsewhere: another time.
      report.skipped += some.length
      continue
    }
    const { view } = rows.newest
    // One that got a use again meanwhile is still there.
    const gone = some.filter(({ ref }) => view.rowOf(ref) < 0)
    await inParallel(gone, async (row) => {
      context.drop(row.ref)
      report.messages++
      report.bytesReclaimed += row.length
      if (unnamed.has(row.id) && (await removeFile(fs, `${directory}/${UNNAMED}/${row.id}`))) report.files++
      // Only where nobody has mailboxes.
      if (far !== undefined && row.uid === 0 && isAlt(row))
        await removeFile(far.fs, `${far.directory}/${UNNAMED}/${row.id}`)
    })
    // Before the next frame forgets them.
    if (nameless.length > 0) await fs.syncDirectory(`${directory}/${UNNAMED}`)
  }
  if (hasCondemned(context)) await host.transact((tx) => condemn(context, tx, []))
}

/** Prepares giving back what messages hold elsewhere; undefined if they hold nothing. */
async function dropOf(
  { host, openInline }: PurgeContext,
  attached: readonly Row[],
): Promise<AttachmentDrop | undefined> {
  if (attached.length === 0) return undefined
  return host.attachments?.drop(await segmentsOf(attached, openInline))
}

function isAttached({ flags }: Row): boolean {
  return (flags & FLAG_ATTACHED) !== 0
}

/** Gives messages that have lost their home another one, from the mailboxes that still have them. */
async function rehome(context: PurgeContext, tier: Second, homeless: readonly Row[], report: Report): Promise<void> {
  const { fs, directory, host, rows, pace } = context
  const { mailboxes } = host
  if (mailboxes === undefined) return
  const far = rootOf(tier)
  // What is in a tier that is away keeps its home until it is there again.
  const within = homeless.filter((row) => far !== undefined || !isAlt(row))
  report.skipped += homeless.length - within.length
  const wanted = new Map(within.map((row) => [row.ref, row]))
  for (const mailbox of mailboxes.list()) {
    if (wanted.size === 0 || pace.isOver) break
    const moved = await usesIn(context, far, mailbox, wanted)
    if (moved.length === 0) continue
    if (moved.some(([row]) => !isAlt(row))) await fs.syncDirectory(`${directory}/${mailbox.guid}`)
    if (moved.some(([row]) => isAlt(row))) {
      await syncIn(context.second, far!, mailbox.guid)
      await context.second.verify()
    }
    for (let at = 0; at < moved.length; at += PURGE_ROWS) {
      const some = moved.slice(at, at + PURGE_ROWS)
      await host.transact((tx) => {
        for (const [row, uid] of some) {
          tx.setColumn(rows.id, 'mailbox', row.ref, Buffer.from(mailbox.guid, 'hex'))
          tx.setColumn(rows.id, 'uid', row.ref, uid)
        }
      })
    }
    for (const [row] of moved) {
      wanted.delete(row.ref)
      context.drop(row.ref)
    }
  }
  for (const { uid } of wanted.values()) if (uid > 0) report.skipped++
}

/** Messages that have their home, and another file besides: where a home was given by a purge, or the power went. */
async function tidyUnnamed(context: PurgeContext, far: Root | undefined, unnamed: ReadonlySet<string>): Promise<void> {
  const { fs, directory, rows, pace } = context
  const all = await rows.loaded()
  let removed = 0
  for (let at = 0; at < all.view.count && !pace.isOver; at++) {
    if (all.uid.number(at) === 0 || !unnamed.has(hex(all.id.value(at)))) continue
    const row = all.at(at)
    const root = isAlt(row) ? far : { alt: false, fs, directory }
    if (root === undefined || !(await holdsAt(root, `${row.mailbox}/u.${row.uid}`, row))) continue
    await syncIn(context.second, root, row.mailbox)
    if (await removeFile(fs, `${directory}/${UNNAMED}/${row.id}`)) removed++
  }
  if (removed > 0) await fs.syncDirectory(`${directory}/${UNNAMED}`)
}

/** Messages of `wanted` that this mailbox has, under a name that was verified. */
async function usesIn(
  context: PurgeContext,
  far: Root | undefined,
  mailbox: BoxMailbox,
  wanted: ReadonlyMap<BoxRef, Row>,
): Promise<(readonly [row: Row, uid: number])[]> {
  const { fs, directory, host, pace } = context
  await using opened = await host.mailboxes!.open(mailbox.guid)
  if (opened === undefined) return []
  const { view } = opened
  await view.load?.([BOX_REF_COLUMN])
  const refs = view.extension(BOX_REF_COLUMN)!
  const found = new Map<BoxRef, readonly [Row, number]>()
  const tried = new Set<BoxRef>()
  const uses = function* (): Generator<readonly [Row, number], void, undefined> {
    for (let at = 0; at < view.count; at++) {
      const row = wanted.get(refs.number(at))
      if (row === undefined || tried.has(row.ref)) continue
      if (pace.isOver || !pace.allows(row.length)) return
      tried.add(row.ref)
      yield [row, view.uid(at)]
    }
  }
  await inParallel(uses(), async ([row, uid]) => {
    await pace.spent(row.length)
    if (!(await nameMessage(context, row, mailbox.guid, uid))) return
    const root = isAlt(row) ? far! : { alt: false, fs, directory }
    if (await holdsAt(root, `${mailbox.guid}/u.${uid}`, row)) found.set(row.ref, [row, uid])
  })
  return [...found.values()]
}

/** Names in the tier that their message is not in: what a move left that was cut short, or a copy that was made meanwhile. */
async function tidyTiers(context: PurgeContext, far: Root, report: Report): Promise<void> {
  const { fs, directory, host, rows, pace } = context
  const near: Root = { alt: false, fs, directory }
  for (const { guid } of host.mailboxes?.list() ?? []) {
    const all = await rows.loaded()
    const there = await listMailbox(far.fs, far.directory, guid)
    if (there.named.size === 0 && !hasAlt(all)) continue
    const here = await listMailbox(fs, directory, guid)
    await using opened = await host.mailboxes!.open(guid)
    if (opened === undefined) continue
    const { view } = opened
    await view.load?.([BOX_REF_COLUMN])
    const refs = view.extension(BOX_REF_COLUMN)!
    const wrong: (readonly [Row, number])[] = []
    for (let at = 0; at < view.count; at++) {
      const [uid, row] = [view.uid(at), all.view.rowOf(refs.number(at))]
      if (row < 0) continue
      if ((isAlt({ flags: all.flags.number(row) }) ? here : there).named.has(uid)) wrong.push([all.at(row), uid])
    }
    let removed = 0
    for (const [row, uid] of wrong) {
      if (pace.isOver || !pace.allows(row.length)) return
      const [right, other] = isAlt(row) ? [far, near] : [near, far]
      const name = `${guid}/u.${uid}`
      if (!(isAlt(row) ? there : here).named.has(uid)) await nameMessage(context, row, guid, uid)
      await pace.spent(row.length)
      if (!(await holdsAt(right, name, row))) continue
      await syncIn(context.second, right, guid)
      await context.second.verify()
      if (!(await removeFile(other.fs, `${other.directory}/${name}`))) continue
      removed++
      report.bytesReclaimed += row.length
    }
    report.files += removed
    if (removed === 0) continue
    for (const root of [near, far])
      if ((await root.fs.stat(`${root.directory}/${guid}`)) !== undefined)
        await root.fs.syncDirectory(`${root.directory}/${guid}`)
  }
}

async function removeExpunged(
  context: PurgeContext,
  tier: Second,
  dead: ReadonlyMap<string, Dead>,
  report: Report,
): Promise<void> {
  const { fs, directory, rows, pace } = context
  if (dead.size === 0) return
  const all = await rows.loaded()
  // Homes that are still needed: of rows that were not dropped and found no other home.
  const kept = new Map<string, Set<number>>()
  for (let at = 0; at < all.view.count; at++) {
    const uid = all.uid.number(at)
    if (uid === 0) continue
    const mailbox = hex(all.mailbox.value(at))
    if (!isDead(dead, mailbox, uid)) continue
    const uids = kept.get(mailbox)
    if (uids === undefined) kept.set(mailbox, new Set([uid]))
    else uids.add(uid)
  }
  if (tier instanceof FsError) {
    await emptyExpunged(context, dead, kept)
    return
  }
  const gone = tier === undefined ? dead.keys() : await removeThere(context, tier, dead, kept, report)
  for (const guid of gone) {
    if (pace.isOver) return
    const { removed, expunged, named } = dead.get(guid)!
    const keep = kept.get(guid)
    for (const [kind, uids] of [
      ['x', expunged],
      ['u', named],
    ] as const)
      await inParallel(uids, async (uid) => {
        if (keep?.has(uid) !== true && (await removeFile(fs, `${directory}/${guid}/${kind}.${uid}`))) report.files++
      })
    if (removed && keep === undefined) await removeDirectory(fs, directory, guid)
    else await fs.syncDirectory(`${directory}/${guid}`)
  }
}

/** In the second tier, whose files go before the names that say that they were expunged. Resolves to the mailboxes that were done. */
async function removeThere(
  { second, pace }: PurgeContext,
  far: Root,
  dead: ReadonlyMap<string, Dead>,
  kept: ReadonlyMap<string, ReadonlySet<number>>,
  report: Report,
): Promise<readonly string[]> {
  const done: string[] = []
  for (const [guid, { removed, expunged, named, there }] of dead) {
    if (pace.isOver) break
    const keep = kept.get(guid)
    const path = `${far.directory}/${guid}`
    let count = 0
    await inParallel(there, async (uid) => {
      if (keep?.has(uid) === true || !(expunged.has(uid) || named.has(uid))) return
      if (await removeFile(far.fs, `${path}/u.${uid}`)) count++
    })
    report.files += count
    if (count > 0) await syncIn(second, far, guid)
    if (removed && keep === undefined && (await far.fs.stat(path)) !== undefined)
      await far.fs.remove(path).catch((error: unknown) => {
        // Somebody else's files are in it.
        if (!(error instanceof FsError && (error.code === 'FS_NOT_EMPTY' || error.code === 'FS_NOT_FOUND'))) throw error
      })
    done.push(guid)
  }
  // Nothing is found, and so nothing removed, in a tier that was unmounted meanwhile.
  await second.verify()
  return done
}

/** While the second tier is away, nobody knows what it has of them: they give back their space, and stay expunged. */
async function emptyExpunged(
  { fs, directory, pace }: PurgeContext,
  dead: ReadonlyMap<string, Dead>,
  kept: ReadonlyMap<string, ReadonlySet<number>>,
): Promise<void> {
  for (const [guid, { removed, expunged, named }] of dead) {
    if (pace.isOver) return
    const keep = kept.get(guid)
    await inParallel(expunged, async (uid) => {
      const path = `${directory}/${guid}/x.${uid}`
      if (keep?.has(uid) !== true && ((await fs.stat(path))?.size ?? 0) > 0) await fs.writeFile(path, new Uint8Array(0))
    })
    // The directory says that the mailbox was removed.
    if (removed)
      await inParallel(named, async (uid) => {
        if (keep?.has(uid) !== true) await removeFile(fs, `${directory}/${guid}/u.${uid}`)
      })
  }
}

/** What a purge that was cut short left without rows, and what batches of this process wrote and nobody kept. */
async function removeUnnamed(
  context: PurgeContext,
  over: readonly string[],
  unnamed: Set<string>,
  report: Report,
): Promise<void> {
  const { fs, directory, rows } = context
  const ids = [...new Set([...over, ...readCondemned(context)])].filter((id) => unnamed.has(id))
  if (ids.length > 0) {
    const all = await rows.loaded()
    const known = new Set<string>()
    for (let at = 0; at < all.view.count; at++) known.add(hex(all.id.value(at)))
    let removed = 0
    for (const id of ids) {
      if (known.has(id)) continue
      const path = `${directory}/${UNNAMED}/${id}`
      const size = (await fs.stat(path))?.size ?? 0
      unnamed.delete(id)
      if (!(await removeFile(fs, path))) continue
      removed++
      report.bytesReclaimed += size
    }
    report.files += removed
    if (removed > 0) await fs.syncDirectory(`${directory}/${UNNAMED}`)
  }
  for (const id of over) context.made.delete(id)
}

function hasCondemned({ host }: NamesContext): boolean {
  return host.table.view.values?.has(CONDEMNED) === true
}

function readCondemned({ host }: NamesContext): string[] {
  const value = host.table.view.values?.get(CONDEMNED)
  const ids: string[] = []
  for (let at = 0; value !== undefined && at + ID_BYTES <= value.length; at += ID_BYTES)
    ids.push(hex(value.subarray(at, at + ID_BYTES)))
  return ids
}

function condemn({ rows }: NamesContext, tx: Tx, ids: readonly string[]): void {
  tx.setValue?.(rows.id, CONDEMNED, ids.length === 0 ? undefined : Buffer.from(ids.join(''), 'hex'))
}
