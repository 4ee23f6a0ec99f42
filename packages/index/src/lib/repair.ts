/**
 * The repair of a closed index: what the check finds damaged is made anew from what is left, and what cannot be is named.
 *
 * HOW   Everything is read first (`repair-log.ts`, `repair-snapshot.ts`, `repair-table.ts`). If more than the control file or
 *       caches is damaged, the tables get snapshots where theirs do not hold all of them, and the log begins anew in a
 *       segment with one empty frame; that is a checkpoint, made from outside. Everything that is replaced or removed is copied to
 *       `repair-<time>/` before; only caches, which hold nothing of their own, are not.
 *
 * What a crash leaves, so that the repair is made again, with the same end:
 *   1. copies: a directory that nothing reads.
 *   2. new snapshots, which tell of themselves: they hold what the log and the snapshots before gave, up to the last frame.
 *   3. the new segment, which goes on where the log ended and says nothing. (In numbered objects it comes before the
 *      snapshots: there are no locks, and from here on nobody else writes. See `object-log.ts`.)
 *   4. the lists, the older first: from `tables/directory` on the new snapshots count, and the log goes on in the new segment.
 *   5. old segments, and what lost tables left, removed: nothing names them.
 *   6. the control file: the log is closed.
 *
 * INVARIANTS
 *   1. What could be read before can be read after.
 *   2. No UID, modseq or frame number that anybody may have been told is given again.
 *   3. Nothing is invented: a value that is lost becomes none, and is named.
 *   4. Among numbered objects nothing is replaced but what was read: where somebody else wrote meanwhile, everything is read and
 *      planned again.
 */
import { type Fs, type FsLock, ROOT_FILE } from '@mailstead/fs'
import { CACHE_SUFFIX } from './check-cache.ts'
import { checkIndex } from './check.ts'
import { expectKnownVersion, openControl } from './control.ts'
import type { ColumnSpec, IndexFinding } from './contract.ts'
import { IndexError } from './error.ts'
import { readIfThere } from './if-there.ts'
import { cameSecond, expectLog, keepsObjects } from './object-log.ts'
import { openIndex } from './open-index.ts'
import { gatherEvidence } from './repair-log.ts'
import { record, type RepairRecord } from './repair-record.ts'
import { planRepair, type RepairPlan } from './repair-plan.ts'
import { RepairWork } from './repair-work.ts'
import { withDefaults } from './settings.ts'

export interface RepairOptions {
  /** Say what would be done, and write nothing. (default false) */
  readonly dryRun?: boolean
  /**
   * Columns of a table of which nothing is left, asked by its id: it is made anew, empty, and goes on beyond every UID and
   * modseq that is known of it. Names of its rows in other tables become 0, and counts of uses are raised only: who gave this
   * looks for the rows that are lost, and counts when they are back. (default, or undefined: a table that others count in
   * stays a ruin, which can be neither opened nor changed, only dropped, until a repair makes it anew; others are dropped)
   */
  readonly anew?: (id: string) => readonly ColumnSpec[] | undefined
  /** The clock, in milliseconds since the epoch. (default Date.now) */
  readonly now?: () => number
  /** Fills a buffer with randomness: salts. (default node:crypto) */
  readonly random?: (bytes: Uint8Array) => void
}

/** Records of one page. */
const PAGE = 64

/** How often everything is read and planned again because somebody else wrote meanwhile. */
const ATTEMPTS = 8

/**
 * Repairs the index in a directory. Where rows are lost that count in other tables, or may be, these say so from then on (`LOSS_KEY`),
 * and no count in them is lowered: whoever finds what is lost elsewhere, or knows that it is nowhere, removes that value from all of
 * them, and a further repair counts again. Gives what it changes and what it cannot restore; nothing but notes where nothing is wrong.
 * It is done when the iteration ends. INDEX_NOT_FOUND if there is no index; INDEX_CORRUPT if nothing is left that says which
 * index it is; FS_UNSUPPORTED (an FsError) if the file system neither has locks nor creates conditionally, or a later build wrote
 * the index. All of these come before
 * anything is written.
 *
 * With locks nobody may have it open: INDEX_LOCKED if somebody has. Without (numbered objects) nobody can know: who has it open
 * cannot commit from the first change on (INDEX_CORRUPT or INDEX_LOCKED), and when the repair has ended reads everything anew.
 * INDEX_LOCKED there if others go on writing faster than it can be repaired.
 */
export async function* repairIndex(
  fs: Fs,
  path: string,
  options: RepairOptions = {},
): AsyncGenerator<readonly RepairRecord[], void, undefined> {
  const objects = expectLog(fs)
  const prefix = path === '' ? '' : `${path}/`
  if (!(await isIndex(fs, prefix))) throw new IndexError('INDEX_NOT_FOUND', `there is no index in ${fs.name}/${path}`)
  await using locks = new AsyncDisposableStack()
  if (!objects) locks.use(await exclusive(fs, `${prefix}open`))
  // What an attempt changed before it came second is not found damaged by the next: it is told all the same, once.
  const told = new Set<string>()
  for (let attempt = 1; ; attempt++)
    try {
      for await (const records of repairOnce(fs, path, options)) {
        const news = objects ? records.filter((one) => !told.has(JSON.stringify(one))) : records
        if (objects) for (const one of news) told.add(JSON.stringify(one))
        for (let at = 0; at < news.length; at += PAGE) yield news.slice(at, at + PAGE)
      }
      return
    } catch (error) {
      if (!objects || !cameSecond(error)) throw error
      if (attempt === ATTEMPTS)
        throw new IndexError('INDEX_LOCKED', 'others write to the index while it is repaired', { cause: error })
    }
}

/** What is known before anything is written, and then the rest. */
async function* repairOnce(
  fs: Fs,
  path: string,
  options: RepairOptions,
): AsyncGenerator<readonly RepairRecord[], void> {
  const { dryRun = false, now, random, anew } = options
  const settings = withDefaults({ ...(now === undefined ? {} : { now }), ...(random === undefined ? {} : { random }) })
  const prefix = path === '' ? '' : `${path}/`
  const records: RepairRecord[] = []
  expectKnownVersion((await readIfThere(fs, `${prefix}control`)) ?? new Uint8Array(0))
  await using work = new RepairWork(fs, prefix, settings, dryRun)
  // What is replaced later is what is read from here on.
  await work.notice()
  const findings = await check(fs, path, prefix)
  await strangers(fs, path, prefix, findings, records)
  const { caches, control, rest } = sort(findings, prefix)
  if (rest || control) {
    await using held = new AsyncDisposableStack()
    if (!keepsObjects(fs.supports)) {
      held.use(await exclusive(fs, `${prefix}checkpoint`))
      held.use(await exclusive(fs, `${prefix}lock`))
    }
    const evidence = await gatherEvidence(fs, prefix)
    if (evidence === undefined)
      throw new IndexError(
        'INDEX_CORRUPT',
        `${prefix} has neither a control file nor anything else that names the index`,
      )
    if (rest) {
      const plan = await planRepair(fs, prefix, evidence, { findings, anew }, records)
      yield records.splice(0)
      if (!isDone(plan, findings, prefix)) await work.renew(plan, records)
    } else {
      const { control: left, uuid } = evidence
      await work.controlOnly(left ?? openControl(uuid), left === undefined ? 'lost' : 'one slot', records)
    }
  }
  for (const file of caches) {
    records.push(
      record('changed', file, 'cache', 'damaged', 'none', 'the cache is damaged; it is filled again when it is used'),
    )
    if (!dryRun) await fs.remove(file)
  }
  // Whoever has a copy of the root marker puts it back: nothing of an index says what it was.
  const seen = !dryRun && (rest || control || caches.size > 0) ? await check(fs, path, prefix) : findings
  for (const { severity, file, table, uid, kind, message } of seen)
    if (severity === 'damage' && (seen !== findings || file === ROOT_FILE))
      records.push({ ...record('remains', file, kind, '', '', message), table, uid })
  yield records
}

async function isIndex(fs: Fs, prefix: string): Promise<boolean> {
  if ((await fs.stat(`${prefix}control`)) !== undefined) return true
  for (const name of ['log', 'tables'])
    for await (const page of fs.list(`${prefix}${name}`)) if (page.length > 0) return true
  return false
}

async function exclusive(fs: Fs, path: string): Promise<FsLock> {
  const lock = await fs.lock(path)
  if (lock.tryAcquire('exclusive')) return lock
  await lock[Symbol.asyncDispose]()
  throw new IndexError('INDEX_LOCKED', 'the index is open: it can be repaired only when nobody uses it')
}

async function check(fs: Fs, path: string, prefix: string): Promise<IndexFinding[]> {
  const findings: IndexFinding[] = []
  const open = (): ReturnType<typeof openIndex> => openIndex(fs, path, { readOnly: true })
  for await (const page of checkIndex(fs, prefix, open)) findings.push(...page)
  return findings
}

/** Nothing is wrong but that tables are missing that an earlier repair could not restore either. */
function isDone(plan: RepairPlan, findings: readonly IndexFinding[], prefix: string): boolean {
  const listed = new Map(plan.evidence.lists[0]?.tables.map((table) => [table.number, table]))
  return (
    plan.ruins.every(({ number }) => listed.has(number) && listed.get(number)!.snapshot === undefined) &&
    plan.keep.size === plan.tables.length &&
    findings.every(({ severity, file }) => severity === 'note' || file === prefix || file === ROOT_FILE)
  )
}

/** What there is to be done: caches to remove, the control file alone, or everything else. */
function sort(
  findings: readonly IndexFinding[],
  prefix: string,
): { readonly caches: ReadonlySet<string>; readonly control: boolean; readonly rest: boolean } {
  const caches = new Set<string>()
  let control = false
  let rest = false
  for (const { severity, file } of findings) {
    if (file === `${prefix}control`) control = true
    else if (severity === 'note' || file === ROOT_FILE) continue
    else if (file.startsWith(`${prefix}cache/`)) {
      if (file.endsWith(CACHE_SUFFIX)) caches.add(file)
    } else rest = true
  }
  return { caches, control, rest }
}

/** Files that are no part of an index are named, and stay. */
async function strangers(
  fs: Fs,
  path: string,
  prefix: string,
  findings: readonly IndexFinding[],
  page: RepairRecord[],
): Promise<void> {
  for (const { kind, file, message } of findings)
    if (kind === 'stray-file') page.push(record('note', file, 'file', '', '', message))
  const own = new Set(['control', 'lock', 'turn.lock', 'open', 'checkpoint', 'log', 'tables', 'cache'])
  for await (const entries of fs.list(path))
    for (const { name } of entries)
      if (!own.has(name) && !name.startsWith('repair-'))
        page.push(record('note', `${prefix}${name}`, 'file', '', '', 'this is no file of an index'))
}
