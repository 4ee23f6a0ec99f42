/**
 * Moving messages to the other tier.
 *
 * HOW      1. The file of a message is verified and copied there, whole and durable, under the name that it has in its home, and gets a
 *             name for each other mailbox that has it. If its home has it no more, another mailbox that has it is its home.
 *          2. One transaction for each group moves the rows, once the tier is seen to be this box's still.
 *          3. The names in the tier that was left are removed.
 *          A purge that runs elsewhere is waited for: it would take the copies, which no row names before 2, for leftovers.
 *
 * A crash leaves: before 2, files in the other tier; after it, files in the tier that was left. Each is known by mailbox and UID, so
 * that the next purge makes names what the rows say (purge.ts); until then a rebuild knows both for one message. (I-17)
 * What is expunged meanwhile is said in the first tier, for both.
 *
 * MEMORY   the rows and names of NAMED messages; bodies are copied through a small buffer.
 */
import { type AltmoveOptions, type AltmoveReport, BOX_REF_COLUMN, type BoxRef } from '@mailstead/box'
import { FsError } from '@mailstead/fs'
import { Pace, type PaceClock } from '../pace.ts'
import { FLAG_ALT } from '../place.ts'
import { removeFile } from './directory.ts'
import { copyName, type NamesContext } from './finish.ts'
import { copyFile, holdsAt } from './holds.ts'
import { UNNAMED } from './names.ts'
import { PURGE_ROWS } from './options.ts'
import { inParallel } from './parallel.ts'
import { isAlt, isHome, primariesOf, type Row, type Rows } from './row.ts'
import { type Root, secondsOf, syncIn } from './tiers.ts'

/** Messages whose names are looked up together. */
const NAMED = PURGE_ROWS
/** Bytes moved by one transaction. */
const FRAME_BYTES: number = 16 * 1024 * 1024
/** Times a transaction is tried again since messages in it were dropped meanwhile. */
const ATTEMPTS_MAX = 4

export interface AltmoveContext extends NamesContext {
  readonly clock: PaceClock
  /** Forgets an open file. */
  readonly drop: (ref: BoxRef) => void
}

interface Name {
  readonly mailbox: string
  readonly uid: number
}
interface Moved {
  readonly row: Row
  /** Undefined for one that has no name. */
  readonly home: Name | undefined
  readonly names: readonly Name[]
}

export async function altmoveBox(
  context: AltmoveContext,
  refs: Uint32Array,
  options: AltmoveOptions,
): Promise<AltmoveReport> {
  const { host, rows, second, fs, directory } = context
  const { to, ...budget } = options
  const pace = new Pace(budget, context.clock)
  const report = { messages: 0, bytes: 0, damaged: 0, left: 0, bytesReclaimed: 0 }
  await host.refresh()
  const wanted = inTier(await rows.loaded(), refs, to === 'primary')
  if (wanted.length === 0) return report
  const far: Root = {
    alt: true,
    fs: to === 'alt' ? await second.prepare() : await second.reach(),
    directory: second.path,
  }
  if (to === 'primary') await second.verify()
  const near: Root = { alt: false, fs, directory }
  const [from, target] = to === 'alt' ? [near, far] : [far, near]
  await using lock = await fs.lock(`${directory}/purge.lock`)
  await lock.acquire(budget.signal === undefined ? {} : { signal: budget.signal })
  await host.refresh()
  let at = 0
  let isFull = false
  while (at < wanted.length && !isFull && !pace.isOver) {
    const some = wanted.subarray(at, at + NAMED)
    const names = await namesOf(context, some)
    for (let done = 0; done < some.length && !isFull && !pace.isOver; ) {
      const all = await rows.loaded()
      const group: Row[] = []
      let bytes = 0
      for (; done < some.length && bytes < FRAME_BYTES; done++, at++) {
        const row = all.view.rowOf(some[done]!)
        if (row < 0 || isAlt({ flags: all.flags.number(row) }) === target.alt) continue
        const one = all.at(row)
        isFull = !pace.allows(one.length, bytes)
        if (isFull) break
        group.push(one)
        bytes += one.length
      }
      await moveGroup(context, { from, target }, group, names, pace, report)
    }
  }
  report.left = wanted.length - at
  return report
}

/** References whose rows are in this tier, ascending. */
function inTier(rows: Rows, refs: Uint32Array, alt: boolean): Uint32Array {
  const { view, flags } = rows
  return refs
    .filter((ref) => {
      const row = view.rowOf(ref)
      return row >= 0 && isAlt({ flags: flags.number(row) }) === alt
    })
    .sort()
    .filter((ref, i, all) => i === 0 || ref !== all[i - 1])
}

/** The mailboxes that have these messages. Undefined where nobody has mailboxes. */
async function namesOf({ host }: NamesContext, refs: Uint32Array): Promise<ReadonlyMap<BoxRef, Name[]> | undefined> {
  const { mailboxes } = host
  if (mailboxes === undefined) return undefined
  const names = new Map<BoxRef, Name[]>([...refs].map((ref) => [ref, []]))
  for (const { guid } of mailboxes.list()) {
    await using opened = await mailboxes.open(guid)
    if (opened === undefined) continue
    const { view } = opened
    await view.load?.([BOX_REF_COLUMN])
    const column = view.extension(BOX_REF_COLUMN)!
    for (let at = 0; at < view.count; at++) names.get(column.number(at))?.push({ mailbox: guid, uid: view.uid(at) })
  }
  return names
}

async function moveGroup(
  context: AltmoveContext,
  { from, target }: { readonly from: Root; readonly target: Root },
  group: readonly Row[],
  names: ReadonlyMap<BoxRef, readonly Name[]> | undefined,
  pace: Pace,
  report: { messages: number; bytes: number; damaged: number; bytesReclaimed: number },
): Promise<void> {
  const copied: Moved[] = []
  const directories = new Set<string>()
  await inParallel(group, async (row) => {
    const moved = withHome(row, names?.get(row.ref), names !== undefined)
    // Nobody has it: a purge drops it.
    if (moved === undefined) return
    if (await copyMessage(from, target, moved)) {
      copied.push(moved)
      directories.add(moved.home?.mailbox ?? UNNAMED)
      for (const { mailbox } of moved.names) directories.add(mailbox)
      await pace.spent(row.length)
    } else if (await isThere(context, row, from)) report.damaged++
  })
  if (copied.length === 0) return
  for (const name of directories) await syncIn(context.second, target, name)
  // What was created since it was looked at last may be on a bare mount point.
  if (target.alt) await context.second.verify()
  const moved = await commit(context, copied, target.alt)
  await inParallel(moved, async (one) => {
    context.drop(one.row.ref)
    report.messages++
    report.bytes += one.row.length
    if (await leave(from, one)) report.bytesReclaimed += one.row.length
  })
  const left = new Set(moved.flatMap(({ names }) => names.map(({ mailbox }) => mailbox)))
  for (const name of left)
    await syncIn(context.second, from, name).catch((error: unknown) => {
      // What comes back is taken away by the next purge.
      if (!(error instanceof FsError)) throw error
    })
}

/** Where it is to be found: at home, if its home has it still. Undefined: it is in no mailbox. */
function withHome(row: Row, names: readonly Name[] | undefined, hasMailboxes: boolean): Moved | undefined {
  if (!hasMailboxes) {
    const home = row.uid === 0 ? undefined : { mailbox: row.mailbox, uid: row.uid }
    return { row, home, names: home === undefined ? [] : [home] }
  }
  if (names === undefined || names.length === 0) return undefined
  return { row, home: names.find(({ mailbox, uid }) => isHome(row, mailbox, uid)) ?? names[0]!, names }
}

function pathOf({ row, home }: Moved): string {
  return home === undefined ? `${UNNAMED}/${row.id}` : `${home.mailbox}/u.${home.uid}`
}

/** False: there is no sound file of it. */
async function copyMessage(from: Root, target: Root, moved: Moved): Promise<boolean> {
  const { row, home, names } = moved
  const path = pathOf(moved)
  const to = `${target.directory}/${path}`
  if (!(await holdsAt(target, path, row))) {
    let done = false
    for (const name of new Set(from.alt ? secondsOf(row) : primariesOf(row))) {
      if (!(await holdsAt(from, name, row))) continue
      done = await copyFile(from.fs, `${from.directory}/${name}`, target.fs, to)
      if (done) break
    }
    if (!done) return false
  }
  for (const name of names)
    if (name !== home) await copyName(target.fs, to, `${target.directory}/${name.mailbox}/u.${name.uid}`)
  return true
}

/** Whether a row still says that the message is in this tier, and the tier is there: then it is damaged. */
async function isThere({ host, rows, second }: NamesContext, row: Row, from: Root): Promise<boolean> {
  await host.refresh()
  const now = await rows.find(row.ref)
  if (now === undefined || isAlt(now) !== from.alt) return false
  if (from.alt) await second.verify()
  return true
}

/** Lets the rows follow, those that are still there. */
async function commit({ host, rows }: NamesContext, copied: readonly Moved[], alt: boolean): Promise<Moved[]> {
  const { id } = rows
  for (let attempt = 1; ; attempt++) {
    const { view } = rows.newest
    const there = copied.filter(({ row }) => view.rowOf(row.ref) >= 0)
    if (there.length === 0) return []
    try {
      await host.transact((tx) => {
        for (const { row, home } of there) {
          tx.setColumn(id, 'flags', row.ref, alt ? row.flags | FLAG_ALT : row.flags & ~FLAG_ALT)
          if (home === undefined || isHome(row, home.mailbox, home.uid)) continue
          tx.setColumn(id, 'mailbox', row.ref, Buffer.from(home.mailbox, 'hex'))
          tx.setColumn(id, 'uid', row.ref, home.uid)
        }
      })
      return there
    } catch (error) {
      // A row that a purge dropped meanwhile fails the transaction: it is tried again without it.
      await host.refresh()
      const now = rows.newest.view
      if (attempt === ATTEMPTS_MAX || there.every(({ row }) => now.rowOf(row.ref) >= 0)) throw error
    }
  }
}

/** Removes the names in the tier that was left. What another process names there later, the next purge takes away. True: there was one. */
async function leave(from: Root, { row, names }: Moved): Promise<boolean> {
  let removed = false
  for (const path of [...names.map(({ mailbox, uid }) => `${mailbox}/u.${uid}`), `${UNNAMED}/${row.id}`])
    if (await removeFile(from.fs, `${from.directory}/${path}`)) removed = true
  return removed
}
