/**
 * What an index is to be after a repair: its tables with their states, decided from what is left, and everything that is
 * changed or lost on the way.
 */
import type { Fs } from '@mailstead/fs'
import type { DroppedTable } from './changes-since.ts'
import { chunkAtLeast, extOf, isZeroColumn, readNumber, rowAtLeast, writeNumber } from './chunk.ts'
import type { ColumnSpec, IndexFinding } from './contract.ts'
import { formatDigest } from './digest.ts'
import { Draft } from './draft.ts'
import { Entry } from './entries.ts'
import { IndexError } from './error.ts'
import { readIfThere } from './if-there.ts'
import { encodeLoss, LOSS_KEY, lossOf } from './loss.ts'
import { record, type RepairRecord } from './repair-record.ts'
import { UID_LAST } from './limits.ts'
import { type Evidence, NUMBER_LAST, UNKNOWN_LOSS } from './repair-log.ts'
import { openSnapshot, type SnapshotFile } from './repair-snapshot.ts'
import { type RecoveredTable, recoverTable, type TableFrame } from './repair-table.ts'
import { readSnapshotHeader } from './snapshot.ts'
import { NO_TOMBSTONES } from './tombstones.ts'
import { emptyState, tableMeta, type TableState } from './state.ts'

/** Tables that lost frames may have created: their numbers are left out. */
const TABLES_LOST = 1_024

export interface PlannedTable {
  /** With the counters of `state`. */
  readonly entry: Entry
  readonly state: TableState
  /** Why its snapshot is written anew. */
  readonly why: string
}

export interface RepairPlan {
  readonly evidence: Evidence
  /** Those that say what is lost come first: once they are written, a snapshot that does not show its loss any more tells no lie. */
  readonly tables: readonly PlannedTable[]
  /** Numbers of the tables whose snapshot file stays. */
  readonly keep: ReadonlySet<number>
  /** Tables that cannot be restored, but must not be made anew under their ids: rows of others name theirs. */
  readonly ruins: readonly Entry[]
  /** Files of other tables that cannot be restored. */
  readonly removed: readonly string[]
  /** Last frame there was: that of every snapshot that is written. */
  readonly frame: number
  readonly nextTable: number
  readonly dropped: readonly DroppedTable[]
  readonly dropHorizon: number
}

export async function planRepair(
  fs: Fs,
  prefix: string,
  evidence: Evidence,
  {
    findings,
    anew,
  }: {
    readonly findings: readonly IndexFinding[]
    readonly anew: ((id: string) => readonly ColumnSpec[] | undefined) | undefined
  },
  page: RepairRecord[],
): Promise<RepairPlan> {
  const files = await snapshotFiles(fs, prefix, evidence)
  const { entries, dropped, gone } = tablesOf(evidence, files)
  const list = evidence.lists[0]
  const bad = new Set(findings.filter((one) => one.kind !== 'stray-file').map((one) => one.file))
  let { lastFrame } = evidence
  for (const { directories } of files.values())
    for (const { frame } of directories) lastFrame = Math.max(lastFrame, frame)
  const numbers = [lastFrame, evidence.lastSegment, ...evidence.lists.map((one) => one.generation)]
  if (Math.max(...numbers, nextTableOf(evidence, files)) > NUMBER_LAST)
    throw new IndexError('INDEX_CORRUPT', `${prefix} numbers frames, segments, lists or tables beyond all reason`)
  const framesOf = sectionsOf(evidence)
  const recovered = new Map<number, RecoveredTable>()
  const lostTables: Entry[] = []
  for (const entry of entries.values()) {
    const path = `${prefix}tables/${entry.id}.snap`
    const file = files.get(entry.id)
    const own = file?.number === entry.number ? file : undefined
    const found = recoverTable(entry, own, path, framesOf.get(entry.number) ?? [], evidence)
    if (found === undefined) {
      const rows = `${entry.count} rows up to UID ${entry.uidNext - 1}`
      page.push(record('lost', path, 'table', rows, 'none', 'nothing is left that says what the table was', entry.id))
      lostTables.push(entry)
      continue
    }
    recovered.set(entry.number, found)
    for (const { file: where, message } of found.losses)
      page.push(record('lost', where, 'frames', '', '', message, entry.id))
    for (const loss of found.pages)
      page.push(
        record(
          'lost',
          loss.file,
          loss.column,
          'damaged',
          loss.none === 0 ? 'older' : 'none',
          `${loss.column} at offset ${loss.offset}: ${loss.older} rows have what they had before, ${loss.none} have nothing`,
          entry.id,
        ),
      )
  }
  const counted = new Set<string>()
  for (const { state } of recovered.values())
    for (const c of state.meta.counting) counted.add(state.meta.columns[c]!.counts!.table)
  let ruins: Entry[] = []
  const removed: string[] = []
  for (const { number, id, uidValidity, created, ...entry } of lostTables) {
    if (counted.has(id) || anew?.(id) !== undefined) {
      const ruin = new Entry(number, id, uidValidity)
      ruin.apply(entry, lastFrame)
      ruin.created = created
      ruins.push(ruin)
      continue
    }
    removed.push(`tables/${id}.snap`)
    dropped.set(number, { number, id, created, frame: lastFrame })
  }
  // Tables of which nothing is left but that others name their rows.
  let nextTable = nextTableOf(evidence, files)
  const known = new Set([...entries.values()].map((entry) => entry.id))
  for (const id of counted) {
    if (known.has(id)) continue
    const ruin = new Entry(nextTable++, id, 1)
    ruin.frame = lastFrame
    ruins.push(ruin)
    const path = `${prefix}tables/${id}.snap`
    page.push(
      record('lost', path, 'table', '', 'none', 'rows of other tables name rows of it, and nothing of it is left', id),
    )
  }
  const incomplete = [...entries.values()].some(({ number }) => !recovered.has(number))
  ruins = ruins.filter((ruin) => {
    const columns = anew?.(ruin.id)
    if (columns === undefined) return true
    const state = madeAnew(ruin, columns, recovered.values(), evidence)
    entries.set(ruin.number, ruin)
    recovered.set(ruin.number, { state, frame: 0, snapshotFrame: 0, losses: [NOTHING_LEFT], pages: [] })
    return false
  })
  const states = new Map<number, TableState>()
  for (const [number, { state }] of recovered) {
    // After a crash clients may know modseqs up to the ceiling.
    const highestModSeq = evidence.sealed ? state.highestModSeq : Math.max(state.highestModSeq, state.ceiling)
    states.set(number, { ...state, highestModSeq })
  }
  // Ruins of earlier repairs are told again, and were marked then.
  const lostNow = [...lostTables, ...ruins].filter(
    ({ number }) => list?.tables.some((table) => table.number === number && table.snapshot === undefined) !== true,
  )
  markLosses(states, { recovered, counted, lostTables: lostNow }, prefix, page)
  recount(states, { incomplete, raiseOnly: anew !== undefined }, prefix, page)
  const tables: PlannedTable[] = []
  const keep = new Set<number>()
  let changed = recovered.size < entries.size
  for (const [number, state] of states) {
    const entry = entries.get(number)!
    const found = recovered.get(number)!
    const file = `${prefix}tables/${entry.id}.snap`
    const differs = compare(entry, state, file, page) || found.losses.length > 0 || found.pages.length > 0
    changed ||= differs || !sameState(state, found.state)
    const place = list?.tables.find((table) => table.number === number)?.snapshot
    const salt = files.get(entry.id)?.salt
    const stays =
      !differs &&
      !bad.has(file) &&
      place !== undefined &&
      place.salt === salt &&
      place.frame === found.snapshotFrame &&
      found.frame === found.snapshotFrame &&
      sameState(state, found.state)
    const planned = new Entry(number, entry.id, entry.uidValidity)
    planned.apply(state, Math.min(entry.frame, lastFrame))
    planned.created = entry.created
    if (stays) {
      planned.snapshot = place
      keep.add(number)
    }
    tables.push({ entry: planned, state, why: bad.has(file) ? 'damaged' : `frame ${place?.frame ?? 0}` })
  }
  return {
    evidence,
    tables: tables.sort((a, b) => Number(isMarked(b)) - Number(isMarked(a))),
    keep,
    ruins,
    removed: [...removed, ...gone.map((id) => `tables/${id}.snap`)].filter(
      (one, i, all) => all.indexOf(one) === i && !tables.some(({ entry }) => `tables/${entry.id}.snap` === one),
    ),
    frame: lastFrame,
    nextTable: nextTable + (evidence.listIsShort ? TABLES_LOST : 0),
    dropped: [...dropped.values()].sort((a, b) => a.frame - b.frame),
    // Whoever asks what changed since a frame before the repair's own is told that nobody knows.
    dropHorizon: changed || evidence.listIsShort || list === undefined ? lastFrame + 1 : list.dropHorizon,
  }
}

function isMarked({ state }: PlannedTable): boolean {
  return lossOf(state.values) !== undefined
}

/** That the table is lost is said of it already. */
const NOTHING_LEFT = { file: '', first: 0, last: 0, message: '' }

/** An empty table in place of one that is lost: no UID is given again, those that rows of others name included. */
function madeAnew(
  ruin: Entry,
  columns: readonly ColumnSpec[],
  others: Iterable<RecoveredTable>,
  { lost }: Evidence,
): TableState {
  let named = 0
  for (const { state } of others)
    for (const c of state.meta.counting) {
      if (state.meta.columns[c]!.counts!.table !== ruin.id) continue
      for (const { ext, rows } of state.chunks) {
        if (isZeroColumn(ext[c]!)) continue
        for (let row = 0; row < rows; row++) named = Math.max(named, readNumber(ext[c]!, row * 4, 4))
      }
    }
  // What is not known of it because frames are lost.
  const uids = lost.reduce((sum, one) => sum + one.uids, 0)
  const meta = tableMeta(ruin.number, { id: ruin.id, columns, uidValidity: ruin.uidValidity })
  const uidNext = Math.min(UID_LAST, Math.max(ruin.uidNext, named + 1) + uids)
  const highestModSeq = Math.max(ruin.highestModSeq, ruin.ceiling) + (uids === 0 ? 1 : UNKNOWN_LOSS)
  const tombstones = { ...NO_TOMBSTONES, horizon: highestModSeq }
  return { ...emptyState(meta, uidNext), highestModSeq, tombstones }
}

interface FoundFile extends SnapshotFile {
  readonly salt: string | undefined
}

async function snapshotFiles(fs: Fs, prefix: string, evidence: Evidence): Promise<Map<string, FoundFile>> {
  const files = new Map<string, FoundFile>()
  const listed = new Map(evidence.lists[0]?.tables.map((table) => [table.id, table]))
  for await (const entries of fs.list(`${prefix}tables`))
    for (const { name } of entries) {
      const id = /^([a-z0-9-]{1,64})\.snap$/.exec(name)?.[1]
      const bytes = id === undefined ? undefined : await readIfThere(fs, `${prefix}tables/${name}`)
      if (id === undefined || bytes === undefined) continue
      const known = listed.get(id)
      const file = openSnapshot(
        bytes,
        evidence.uuid,
        known === undefined ? undefined : { number: known.number, salt: known.snapshot?.salt },
      )
      const header = readSnapshotHeader(bytes)
      if (file !== undefined)
        files.set(id, { ...file, salt: header === undefined ? undefined : Buffer.from(header.salt).toString('hex') })
    }
  return files
}

interface FoundTables {
  readonly entries: Map<number, Entry>
  readonly dropped: Map<number, DroppedTable>
  /** Ids of tables that were dropped since the list was written. */
  readonly gone: readonly string[]
}

/** The tables there are, with what was last told of them. */
function tablesOf({ lists, transactions, listIsShort }: Evidence, files: ReadonlyMap<string, FoundFile>): FoundTables {
  const list = lists[0]
  const entries = new Map<number, Entry>()
  const dropped = new Map<number, DroppedTable>((list?.dropped ?? []).map((table) => [table.number, table]))
  const gone: string[] = []
  const put = (entry: Entry): void => {
    // A table that was dropped where nobody can read it any more.
    for (const [number, other] of entries) if (other.id === entry.id && number < entry.number) entries.delete(number)
    entries.set(entry.number, entry)
  }
  for (const table of list?.tables ?? []) {
    const entry = new Entry(table.number, table.id, table.uidValidity)
    entry.apply(table, table.frame)
    entry.created = table.created
    put(entry)
  }
  const dropsSeen = new Set<number>()
  for (const { tables } of transactions) for (const table of tables) if (table.dropped) dropsSeen.add(table.number)
  // Snapshots of tables that no list knows; where nothing is lost, they were left by a checkpoint that was not finished.
  if (listIsShort)
    for (const { number, directories } of files.values()) {
      const [directory] = directories
      if (directory === undefined || entries.has(number) || dropped.has(number) || dropsSeen.has(number)) continue
      if (list !== undefined && number < list.nextTable) continue
      const entry = new Entry(number, directory.meta.id, directory.meta.uidValidity)
      entry.apply(directory, directory.frame)
      if (![...entries.values()].some((other) => other.id === entry.id)) put(entry)
    }
  for (const { number, tables } of transactions) {
    if (list !== undefined && number < list.next) continue
    for (const table of tables) {
      let entry = entries.get(table.number)
      if (table.created !== undefined) {
        entry ??= new Entry(table.number, table.created.id, table.created.uidValidity)
        entry.created = number
        if (!dropsSeen.has(table.number)) put(entry)
      }
      if (table.dropped) {
        const id = entry?.id
        entries.delete(table.number)
        if (id === undefined) continue
        gone.push(id)
        if (!dropped.has(table.number))
          dropped.set(table.number, { number: table.number, id, created: entry?.created ?? 0, frame: number })
        continue
      }
      // Created where nobody can read it: without its snapshot nothing says what it was.
      if (entry === undefined) continue
      if (number > entry.frame) entry.apply(table, number)
    }
  }
  return { entries, dropped, gone }
}

/** The frames of each table, as far as they can be read. */
function sectionsOf({ transactions }: Evidence): Map<number, TableFrame[]> {
  const byTable = new Map<number, TableFrame[]>()
  for (const { number, tables, payload, file } of transactions) {
    let at = 0
    for (const table of tables) {
      let frames = byTable.get(table.number)
      if (frames === undefined) byTable.set(table.number, (frames = []))
      frames.push({ number, table, section: payload?.subarray(at, at + table.sectionLength), file })
      at += table.sectionLength
    }
  }
  return byTable
}

/** Lets the tables that others count in, or may have, say that rows may be lost (`loss.ts`). */
function markLosses(
  states: Map<number, TableState>,
  {
    recovered,
    counted,
    lostTables,
  }: {
    readonly recovered: ReadonlyMap<number, RecoveredTable>
    readonly counted: ReadonlySet<string>
    readonly lostTables: readonly Entry[]
  },
  prefix: string,
  page: RepairRecord[],
): void {
  let lost = lostTables.length > 0
  let rows = lostTables.some(({ id }) => !counted.has(id))
  // Also what an earlier repair lost, or this one before it was killed.
  for (const { values } of states.values()) {
    const before = lossOf(values)
    lost ||= before !== undefined
    rows ||= before?.rows === true
  }
  for (const { state, losses, pages } of recovered.values()) {
    if (losses.length + pages.length === 0) continue
    lost = true
    rows ||= state.meta.counting.length > 0 || !counted.has(state.meta.id)
  }
  if (!lost) return
  for (const [number, state] of states) {
    const { id, counting } = state.meta
    if (!counted.has(id) && counting.length > 0) continue
    const before = lossOf(state.values)
    if (before !== undefined && (before.rows || !rows)) continue
    const draft = new Draft(state)
    draft.setValue(LOSS_KEY, encodeLoss({ rows }))
    states.set(number, draft.freeze())
    const what = rows ? 'rows' : 'other'
    const why = 'what others count in this table may be lost: until that is looked for, no count is lowered'
    page.push(record('changed', `${prefix}tables/${id}.snap`, LOSS_KEY, 'none', what, why, id))
  }
}

/**
 * Counts uses again, and takes back names of rows that are not there. Where rows may be lost no count is lowered: what nobody names
 * until they are found is not for a purge to take. Nor with `raiseOnly`: somebody counts again afterwards. Else a count that
 * stays too high would be damage again.
 */
function recount(
  states: Map<number, TableState>,
  { incomplete, raiseOnly }: { readonly incomplete: boolean; readonly raiseOnly: boolean },
  prefix: string,
  page: RepairRecord[],
): void {
  const byId = new Map([...states.values()].map((state) => [state.meta.id, state]))
  const uses = new Map<string, { table: string; column: string; counts: Map<number, number> }>()
  for (const state of byId.values())
    for (const c of state.meta.counting) {
      const { table, column } = state.meta.columns[c]!.counts!
      const target = byId.get(table)
      // Nothing can be counted in a table that is lost: the names stay as they are.
      if (target === undefined || !target.meta.byName.has(column)) continue
      const key = `${table} ${column}`
      let known = uses.get(key)
      if (known === undefined) uses.set(key, (known = { table, column, counts: new Map() }))
      let draft: Draft | undefined
      for (const chunk of state.chunks) {
        const values = extOf(chunk, c, 4)
        for (let row = 0; row < chunk.rows; row++) {
          const uid = readNumber(values, row * 4, 4)
          if (uid === 0) continue
          if (has(target, uid)) {
            known.counts.set(uid, (known.counts.get(uid) ?? 0) + 1)
            continue
          }
          const { name } = state.meta.columns[c]!
          const where = `${prefix}tables/${state.meta.id}.snap`
          const why = `there is no row ${uid} in ${table}`
          page.push(record('changed', where, name, `${uid}`, '0', why, state.meta.id, chunk.uids[row]!))
          draft ??= new Draft(byId.get(state.meta.id)!)
          draft.setColumn(chunk.uids[row]!, c, new Uint8Array(4), 0)
        }
      }
      if (draft !== undefined) byId.set(state.meta.id, draft.freeze())
    }
  for (const { table, column, counts } of uses.values()) {
    const state = byId.get(table)!
    const c = state.meta.byName.get(column)!
    const width = state.meta.columns[c]!.bytes
    const onlyRaise = raiseOnly || lossOf(state.values) !== undefined
    let draft: Draft | undefined
    for (const chunk of state.chunks) {
      const values = extOf(chunk, c, width)
      for (let row = 0; row < chunk.rows; row++) {
        const uid = chunk.uids[row]!
        const before = readNumber(values, row * width, width)
        const after = counts.get(uid) ?? 0
        if (before === after || (onlyRaise && after < before)) continue
        const why = `${after} rows name it${incomplete ? ', as far as tables are left' : ''}`
        page.push(record('changed', `${prefix}tables/${table}.snap`, column, `${before}`, `${after}`, why, table, uid))
        draft ??= new Draft(state)
        const bytes = new Uint8Array(width)
        writeNumber(bytes, 0, width, after)
        draft.setColumn(uid, c, bytes, 0)
      }
    }
    if (draft !== undefined) byId.set(table, draft.freeze())
  }
  for (const state of byId.values()) states.set(state.meta.number, state)
}

function has({ chunks }: TableState, uid: number): boolean {
  const chunk = chunks[chunkAtLeast(chunks, uid)]
  return chunk !== undefined && chunk.uids[rowAtLeast(chunk.uids, chunk.rows, uid)] === uid
}

/** Records every counter that is not what was last told of the table. */
function compare(entry: Entry, state: TableState, file: string, page: RepairRecord[]): boolean {
  let differs = false
  const one = (field: string, before: string, after: string): void => {
    if (before === after) return
    differs = true
    page.push(record('changed', file, field, before, after, 'counted again, or raised', entry.id))
  }
  for (const field of ['uidNext', 'highestModSeq', 'count', 'unseen', 'deleted', 'bytes'] as const)
    one(field, `${entry[field]}`, `${state[field]}`)
  one('digest', formatDigest(entry.digest), formatDigest(state.digest))
  return differs
}

function sameState(a: TableState, b: TableState): boolean {
  return (
    a.chunks === b.chunks && a.values === b.values && a.highestModSeq === b.highestModSeq && a.uidNext === b.uidNext
  )
}

function nextTableOf({ lists, transactions }: Evidence, files: ReadonlyMap<string, FoundFile>): number {
  let next = Math.max(1, ...lists.map((list) => list.nextTable))
  for (const { tables } of transactions) for (const { number } of tables) next = Math.max(next, number + 1)
  for (const { number } of files.values()) next = Math.max(next, number + 1)
  return next
}
