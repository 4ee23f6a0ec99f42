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
 *   3. the new segment, which goes on where the log ended and says nothing.
 *   4. the lists, the older first: from `tables/directory` on the new snapshots count, and the log goes on in the new segment.
 *   5. old segments, and what lost tables left, removed: nothing names them.
 *   6. the control file: the log is closed.
 *
 * INVARIANTS
 *   1. What could be read before can be read after.
 *   2. No UID, modseq or frame number that anybody may have been told is given again.
 *   3. Nothing is invented: a value that is lost becomes none, and is named.
 */
import { ByteWriter } from '@mailstead/bytes'
import { type Fs, FsError, type FsLock, requireSupport } from '@mailstead/fs'
import { CACHE_SUFFIX } from './check-cache.ts'
import { checkIndex } from './check.ts'
import { CONTROL_LENGTH, controlOffset, type Control, writeControl } from './control.ts'
import type { ColumnSpec, IndexFinding } from './contract.ts'
import { IndexError } from './error.ts'
import { writeFrame } from './frame.ts'
import { openIndex } from './open-index.ts'
import { gatherEvidence, readIfThere } from './repair-log.ts'
import { record, type RepairRecord } from './repair-record.ts'
import { planRepair, type RepairPlan } from './repair-plan.ts'
import { segmentName, segmentOfName, writeSegmentHeader } from './segment.ts'
import { type Settings, withDefaults } from './settings.ts'
import { Snapshots } from './snapshots.ts'
import { listChecksum, writeTableList } from './table-list.ts'

export interface RepairOptions {
  /** Say what would be done, and write nothing. (default false) */
  readonly dryRun?: boolean
  /**
   * Columns of a table of which nothing is left, asked by its id: it is made anew, empty, and goes on beyond every UID and
   * modseq that is known of it. Names of its rows in other tables become 0, and counts of uses are raised only: who gave this
   * looks for the rows that are lost, and counts when they are back. (default, or undefined: a table that others count in
   * stays a ruin, which cannot be opened; others are dropped)
   */
  readonly anew?: (id: string) => readonly ColumnSpec[] | undefined
  /** The clock, in milliseconds since the epoch. (default Date.now) */
  readonly now?: () => number
  /** Fills a buffer with randomness: salts. (default node:crypto) */
  readonly random?: (bytes: Uint8Array) => void
}

/** Records of one page. */
const PAGE = 64

/**
 * Repairs the index in a directory, which nobody may have open: INDEX_LOCKED if somebody has. Gives what it changes and what
 * it cannot restore; nothing but notes where nothing is wrong. It is done when the iteration ends. INDEX_NOT_FOUND if there is
 * no index; INDEX_CORRUPT if nothing is left that says which index it is. Needs a file system with locks.
 */
export async function* repairIndex(
  fs: Fs,
  path: string,
  options: RepairOptions = {},
): AsyncGenerator<readonly RepairRecord[], void, undefined> {
  requireSupport(fs, ['append', 'overwrite', 'rename', 'lock'])
  const { dryRun = false, now, random, anew } = options
  const settings = withDefaults({ ...(now === undefined ? {} : { now }), ...(random === undefined ? {} : { random }) })
  const prefix = path === '' ? '' : `${path}/`
  if (!(await isIndex(fs, prefix))) throw new IndexError('INDEX_NOT_FOUND', `there is no index in ${fs.name}/${path}`)
  await using locks = new AsyncDisposableStack()
  locks.use(await exclusive(fs, `${prefix}open`))
  const page: RepairRecord[] = []
  const findings = await check(fs, path, prefix)
  await strangers(fs, path, prefix, findings, page)
  const { caches, control, rest } = sort(findings, prefix)
  if (rest || control) {
    await using held = new AsyncDisposableStack()
    held.use(await exclusive(fs, `${prefix}checkpoint`))
    held.use(await exclusive(fs, `${prefix}lock`))
    const evidence = await gatherEvidence(fs, prefix)
    if (evidence === undefined)
      throw new IndexError(
        'INDEX_CORRUPT',
        `${prefix} has neither a control file nor anything else that names the index`,
      )
    const work = new Work(fs, prefix, settings, dryRun)
    if (rest) {
      const plan = await planRepair(fs, prefix, evidence, { findings, anew }, page)
      while (page.length > 0) yield page.splice(0, PAGE)
      if (!isDone(plan, findings, prefix)) await work.renew(plan, page)
    } else {
      const { control: left, uuid } = evidence
      const open = { uuid, segment: 0, length: 0, lastFrame: 0, chain: 0, directory: 0 }
      await work.copy(['control'])
      await work.control(
        left ?? { ...open, state: 'open', sequence: 0 },
        left === undefined ? 'lost' : 'one slot',
        page,
      )
    }
  }
  for (const file of caches) {
    page.push(
      record('changed', file, 'cache', 'damaged', 'none', 'the cache is damaged; it is filled again when it is used'),
    )
    if (!dryRun) await fs.remove(file)
  }
  if (!dryRun && (rest || control || caches.size > 0))
    for (const { severity, file, table, uid, kind, message } of await check(fs, path, prefix))
      if (severity === 'damage') page.push({ ...record('remains', file, kind, '', '', message), table, uid })
  while (page.length > 0) yield page.splice(0, PAGE)
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
    findings.every(({ severity, file }) => severity === 'note' || file === prefix)
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
    else if (severity === 'note') continue
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
  const own = new Set(['control', 'lock', 'open', 'checkpoint', 'log', 'tables', 'cache'])
  for await (const entries of fs.list(path))
    for (const { name } of entries)
      if (!own.has(name) && !name.startsWith('repair-'))
        page.push(record('note', `${prefix}${name}`, 'file', '', '', 'this is no file of an index'))
}

/** Writes a plan, step by step. */
class Work {
  readonly #fs: Fs
  readonly #prefix: string
  readonly #settings: Settings
  readonly #dryRun: boolean

  constructor(fs: Fs, prefix: string, settings: Settings, dryRun: boolean) {
    this.#fs = fs
    this.#prefix = prefix
    this.#settings = settings
    this.#dryRun = dryRun
  }

  async renew(plan: RepairPlan, page: RepairRecord[]): Promise<void> {
    const { evidence, tables, keep, frame } = plan
    const fs = this.#fs
    const prefix = this.#prefix
    const segment = evidence.lastSegment + 1
    const log = evidence.segments.map((one) => `log/${segmentName(one)}`)
    const renewed = tables.filter(({ entry }) => !keep.has(entry.number))
    const replaced = [
      ...renewed.map(({ entry }) => `tables/${entry.id}.snap`),
      ...plan.ruins.map(({ id }) => `tables/${id}.snap`),
      ...plan.removed,
      'tables/directory.old',
      'tables/directory',
      ...log,
      'control',
    ]
    await this.copy(replaced)
    await using snapshots = new Snapshots(fs, prefix, evidence.uuid, this.#settings)
    for (const { entry, state, why } of renewed) {
      const file = `tables/${entry.id}.snap`
      page.push(record('changed', `${prefix}${file}`, 'snapshot', why, `frame ${frame}`, 'written anew', entry.id))
      if (this.#dryRun) continue
      entry.snapshot = (await snapshots.write(state, frame, undefined)).place
    }
    const segments = evidence.segments.join(', ')
    page.push(
      record('changed', `${prefix}log`, 'log', `segments ${segments}`, `segment ${segment}`, 'the log begins anew'),
    )
    const begun = this.#segment(evidence.uuid, segment, frame + 1)
    const generation = 1 + Math.max(0, ...evidence.lists.map((list) => list.generation))
    const before = evidence.lists.map((list) => `generation ${list.generation}`).join(', ')
    const list = {
      uuid: evidence.uuid,
      generation,
      segment,
      offset: begun.bytes.length,
      next: frame + 2,
      chain: begun.chain,
      ended: false,
      firstSegment: segment,
      nextTable: plan.nextTable,
      tables: [...tables.map(({ entry }) => entry), ...plan.ruins],
      dropped: plan.dropped,
      dropHorizon: plan.dropHorizon,
    }
    page.push(
      record(
        'changed',
        `${prefix}tables/directory`,
        'list',
        before || 'damaged',
        `generation ${generation}`,
        'written anew',
      ),
    )
    let directory = 0
    if (!this.#dryRun) {
      await fs.makeDirectory(`${prefix}log`)
      await fs.makeDirectory(`${prefix}tables`)
      await fs.writeFile(`${prefix}log/${segmentName(segment)}`, begun.bytes)
      const bytes = writeTableList(list)
      directory = listChecksum(bytes)
      await fs.writeFile(`${prefix}tables/directory.old`, bytes)
      await fs.writeFile(`${prefix}tables/directory`, bytes)
      for (const file of [...log, ...plan.removed]) await this.#remove(file)
    }
    await this.control(
      {
        state: 'sealed',
        sequence: evidence.control?.sequence ?? 0,
        uuid: evidence.uuid,
        segment,
        length: begun.bytes.length,
        lastFrame: frame + 1,
        chain: begun.chain,
        directory,
      },
      evidence.control === undefined ? 'lost' : evidence.control.state,
      page,
    )
  }

  /** A segment with one frame that changes nothing: the repair's own number. */
  #segment(uuid: Uint8Array, segment: number, number: number): { bytes: Uint8Array; chain: number } {
    const salt = new Uint8Array(8)
    this.#settings.random(salt)
    const createdMs = this.#settings.now()
    const out = new ByteWriter()
    out.bytes(
      writeSegmentHeader({ uuid, salt, segment, firstFrame: number, lengthBefore: 0, chainBefore: 0, createdMs }),
    )
    const frame = { unflushed: number, bits: 0, parts: 0, before: 0, tables: [], payload: [] }
    const chain = writeFrame(out, { salt, number }, frame)
    return { bytes: out.finish(), chain }
  }

  /** Both slots say this. */
  async control(control: Control, before: string, page: RepairRecord[]): Promise<void> {
    const file = `${this.#prefix}control`
    const after = control.state === 'open' ? 'open' : `sealed after frame ${control.lastFrame}`
    page.push(record('changed', file, 'control', before, after, 'written anew'))
    if (this.#dryRun) return
    const bytes = new Uint8Array(CONTROL_LENGTH)
    for (const more of [1, 2]) {
      const slot = { ...control, sequence: control.sequence + more }
      bytes.set(writeControl(slot), controlOffset(slot))
    }
    await this.#fs.writeFile(file, bytes)
    await this.#fs.syncDirectory(this.#prefix.slice(0, -1))
  }

  /** Copies files, those that are there, to a directory of their own. */
  async copy(files: readonly string[]): Promise<void> {
    if (this.#dryRun) return
    const fs = this.#fs
    const stamp = new Date(this.#settings.now()).toISOString().replace(/[:.]/g, '-')
    let to = `${this.#prefix}repair-${stamp}`
    for (let n = 2; await this.#isUsed(to); n++) to = `${this.#prefix}repair-${stamp}-${n}`
    for (const file of files) {
      const bytes = await readIfThere(fs, `${this.#prefix}${file}`)
      if (bytes === undefined) continue
      const copy = `${to}/${file}`
      await fs.makeDirectory(copy.slice(0, copy.lastIndexOf('/')))
      await fs.writeFile(copy, bytes)
    }
    await fs.syncDirectory(this.#prefix.slice(0, -1))
  }

  async #isUsed(directory: string): Promise<boolean> {
    for await (const page of this.#fs.list(directory)) if (page.length > 0) return true
    return (await this.#fs.stat(directory)) !== undefined
  }

  async #remove(file: string): Promise<void> {
    try {
      await this.#fs.remove(`${this.#prefix}${file}`)
    } catch (error) {
      if (!(error instanceof FsError) || error.code !== 'FS_NOT_FOUND') throw error
    }
    await this.#fs.syncDirectory(`${this.#prefix}${segmentOfName(file.slice(4)) > 0 ? 'log' : 'tables'}`)
  }
}
