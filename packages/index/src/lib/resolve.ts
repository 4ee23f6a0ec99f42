/**
 * Decides a transaction under the commit lock, against the newest state: which rows, which UIDs, which flags. What comes
 * out is the next state of every table it touches and, for the log, the same decisions made explicit.
 *
 * INVARIANTS
 *   1. Replaying the sections on the states before gives the states after: both go through the same drafts.
 *   2. What changes nothing is not written and gets no modseq.
 *   3. Uses (I-8): for every row appended, expunged or set, the rows it names elsewhere are counted in the same frame.
 *   4. A transaction that fails leaves no trace: its drafts are dropped.
 */
import type { ByteWriter } from '@mailstead/bytes'
import { UidSet, UidSetBuilder } from '@mailstead/uidset'
import {
  type Chunk,
  chunkAtLeast,
  extOf,
  isZeroColumn,
  readNumber,
  rowAtLeast,
  writeNumber,
  ZERO_SETS,
} from './chunk.ts'
import { type AppendedRow, FLAG_DELETED } from './contract.ts'
import { Draft } from './draft.ts'
import { IndexError } from './error.ts'
import type { FrameTable } from './frame.ts'
import { findKeyword, findSet } from './keywords.ts'
import { KEYWORD_SETS_MAX, KEYWORDS_MAX, LAZY_MODSEQS, UID_LAST, VALUES_MAX } from './limits.ts'
import {
  APPEND_ROWS_MAX,
  EACH_FLAGS,
  EACH_MODSEQ,
  EACH_SET,
  EACH_VALUE,
  OP_APPEND,
  OP_COLUMN,
  OP_DROP,
  OP_EXPUNGE,
  OP_FLAGS,
  OP_KEYWORD,
  OP_RAISE,
  OP_SET,
  OP_VALUE,
  TOUCHES,
  writeCreate,
  writeRanges,
} from './operations.ts'
import { emptyState, tableMeta, type TableState } from './state.ts'
import { PendingRow, type Requested } from './transaction.ts'
import { stateOfView } from './view.ts'

/** The newest tables, as the group sees them. */
export interface World {
  /** Undefined if there is no such table. Throws INDEX_CORRUPT if it is damaged. */
  state(id: string): TableState | undefined
  /** What stands for a table that is damaged, in a draft that drops it: empty, but for its counters. Undefined if it is not. */
  ruin(id: string): TableState | undefined
  /** A number for a new table, never given before. */
  newNumber(): number
  /** Whose the drafts are; undefined: each is for itself. */
  readonly owner: object | undefined
  /** An empty writer; what is written stays until the group is. */
  writer(): ByteWriter
}

export interface Resolved {
  readonly tables: readonly FrameTable[]
  readonly sections: readonly Uint8Array[]
  /** The new state of each table that still exists, in the order of `tables`. */
  readonly states: readonly (TableState | undefined)[]
  readonly lazy: boolean
  /** Fills in the outcomes. */
  readonly settle: () => void
}

/** Undefined if nothing has to be written: the outcomes are then filled in. Throws what the caller of commit gets. */
export function resolveTransaction(requested: readonly Requested[], world: World, lazy: boolean): Resolved | undefined {
  return new Resolver(world, lazy).run(requested)
}

/** One table as this transaction changes it. */
interface Working {
  readonly draft: Draft
  readonly out: ByteWriter
  readonly modSeq: number
  created: boolean
  dropped: boolean
  /** Rows changed in a way that gives them a modseq. */
  touched: boolean
  /** Only flags changed. */
  flagsOnly: boolean
  /** Rows appended and not yet written, all of them with modseqs of their own, or none. */
  appendedFrom: number
  appended: number
  appendedOwn: boolean
  /** Highest modseq that came from elsewhere. */
  given: number
}

interface Uses {
  readonly table: string
  readonly column: string
  readonly by: Map<number, number>
}

/** Rows without keywords. */
const NO_SET: readonly number[] = [0]

class Resolver {
  readonly #world: World
  readonly #lazy: boolean
  readonly #open = new Map<string, Working>()
  readonly #order: Working[] = []
  readonly #uses = new Map<string, Uses>()
  readonly #settle: (() => void)[] = []
  readonly #pending: PendingRow[] = []

  constructor(world: World, lazy: boolean) {
    this.#world = world
    this.#lazy = lazy
  }

  run(requested: readonly Requested[]): Resolved | undefined {
    for (let i = 0; i < requested.length; i++) this.#one(requested[i]!)
    this.#countUses()
    const changed: Working[] = []
    for (const working of this.#order) {
      this.#flushAppend(working)
      const { draft, given, modSeq, touched } = working
      if (touched) {
        // Replay gives rows without one of their own the modseq of the table after the frame.
        if (given > modSeq)
          throw new TypeError(`rows of ${draft.meta.id} get a modseq beside one that came from elsewhere`)
        draft.highestModSeq = modSeq
      } else if (given > draft.highestModSeq) draft.highestModSeq = given
      if (working.out.position > 0) changed.push(working)
    }
    const settle = (): void => {
      for (const pending of this.#pending) pending.uid = pending.assigned
      for (const one of this.#settle) one()
    }
    if (changed.length === 0) {
      settle()
      return undefined
    }
    let lazy = this.#lazy
    for (const { draft, flagsOnly, modSeq } of changed) lazy &&= flagsOnly && modSeq <= draft.ceiling
    const tables: FrameTable[] = []
    const sections: Uint8Array[] = []
    const states: (TableState | undefined)[] = []
    for (const working of changed) {
      const { draft, dropped } = working
      // A flushed frame renews the ceiling of tables that have lazy changes.
      if (!lazy && (this.#lazy || draft.ceiling > 0) && draft.ceiling < draft.highestModSeq + LAZY_MODSEQS / 2)
        draft.ceiling = draft.highestModSeq + LAZY_MODSEQS
      const section = working.out.finish()
      tables.push({
        number: draft.meta.number,
        sectionLength: section.length,
        created: working.created ? { id: draft.meta.id, uidValidity: draft.meta.uidValidity } : undefined,
        dropped,
        uidNext: draft.uidNext,
        highestModSeq: draft.highestModSeq,
        ceiling: draft.ceiling,
        count: draft.count,
        unseen: draft.unseen,
        deleted: draft.deleted,
        bytes: draft.bytes,
        digest: draft.digest,
      })
      sections.push(section)
      states.push(dropped ? undefined : draft.freeze())
    }
    return { tables, sections, states, lazy, settle }
  }

  #one(request: Requested): void {
    switch (request.kind) {
      case 'create': {
        const { id } = request.spec
        if (
          this.#open.get(id)?.dropped === false ||
          (this.#open.get(id) === undefined && this.#world.state(id) !== undefined)
        )
          throw new IndexError('INDEX_TABLE_EXISTS', `table ${id} exists already`, { table: id })
        const meta = tableMeta(this.#world.newNumber(), request.spec)
        for (const c of meta.counting) {
          const counts = meta.columns[c]!.counts!
          const open = this.#open.get(counts.table)
          const target =
            open === undefined ? this.#world.state(counts.table)?.meta : open.dropped ? undefined : open.draft.meta
          if (target === undefined || !target.byName.has(counts.column))
            throw new IndexError(
              'INDEX_CONFLICT',
              `there is no column ${counts.column} in ${counts.table} to count in`,
              {
                table: id,
              },
            )
        }
        const working = this.#add(emptyState(meta, request.spec.uidNext))
        working.created = true
        working.flagsOnly = false
        writeCreate(working.out, request.spec)
        return
      }
      case 'drop': {
        // Which rows elsewhere a damaged table counts nobody can tell: their counts stay too high, which keeps what they keep.
        const ruin = this.#open.has(request.table) ? undefined : this.#world.ruin(request.table)
        const working = ruin === undefined ? this.#working(request.table) : this.#add(ruin)
        this.#flushAppend(working)
        const { meta, chunks } = working.draft
        for (const c of meta.counting) for (const chunk of chunks) this.#useRows(working, c, chunk, 0, chunk.rows, -1)
        working.out.u8(OP_DROP)
        working.dropped = true
        working.flagsOnly = false
        return
      }
      case 'append':
        this.#append(this.#working(request.table), request)
        return
      case 'append-rows':
        this.#appendMany(this.#working(request.table), request)
        return
      case 'append-from':
        this.#appendFrom(this.#working(request.table), request)
        return
      case 'flags':
        this.#flags(this.#working(request.table), request)
        return
      case 'expunge':
        this.#expunge(this.#working(request.table), request)
        return
      case 'column':
        this.#column(
          this.#working(request.table),
          request.column,
          uidOf(request.uid, request.column),
          request.value instanceof Uint8Array ? request.value : uidOf(request.value, request.column),
        )
        return
      case 'increment':
        this.#increment(this.#working(request.table), request.column, request.uid, request.by)
        return
      case 'value': {
        const working = this.#working(request.table)
        const { key, value } = request
        const before = working.draft.values.get(key)
        if (sameBytes(before, value)) return
        if (before === undefined && working.draft.values.size >= VALUES_MAX)
          throw new IndexError('INDEX_LIMIT', `more than ${VALUES_MAX} values`, { table: request.table })
        this.#flushAppend(working)
        working.flagsOnly = false
        working.draft.setValue(key, value)
        working.out.u8(OP_VALUE)
        working.out.utf8(key)
        working.out.u8(value === undefined ? 0 : 1)
        if (value !== undefined) working.out.sized(value)
        return
      }
      case 'raise':
        this.#raise(this.#working(request.table), request)
        return
      case 'expect': {
        const { table, key, value } = request
        if (!sameBytes(this.#working(table).draft.values.get(key), value))
          throw new IndexError('INDEX_CONFLICT', `value ${JSON.stringify(key)} of ${table} is another`, { table })
        return
      }
      case 'expect-rows': {
        const { table, uids } = request
        const gone = uids.size - countOf(this.#working(table), uids)
        if (gone > 0) throw new IndexError('INDEX_CONFLICT', `${gone} of the rows of ${table} are gone`, { table })
        return
      }
    }
  }

  #working(id: string): Working {
    const known = this.#open.get(id)
    if (known !== undefined && !known.dropped) return known
    const state = known === undefined ? this.#world.state(id) : undefined
    if (state === undefined) throw new IndexError('INDEX_TABLE_GONE', `there is no table ${id}`, { table: id })
    return this.#add(state)
  }

  #add(state: TableState): Working {
    const working: Working = {
      draft: new Draft(state, this.#world.owner),
      out: this.#world.writer(),
      modSeq: state.highestModSeq + 1,
      created: false,
      dropped: false,
      touched: false,
      flagsOnly: true,
      appendedFrom: 0,
      appended: 0,
      appendedOwn: false,
      given: 0,
    }
    this.#open.set(state.meta.id, working)
    this.#order.push(working)
    return working
  }

  #append(working: Working, pending: PendingRow): void {
    const { row } = pending
    const { draft } = working
    const { meta } = draft
    const uid = this.#placeFor(working, 1, row.uid)
    const own = row.modSeq !== undefined
    // What is written at once has UIDs that follow each other.
    if (uid !== draft.uidNext || own !== working.appendedOwn) this.#flushAppend(working)
    const set =
      row.keywords === undefined || row.keywords.length === 0
        ? 0
        : this.#setOf(working, this.#keywords(working, row.keywords))
    const chunk = draft.appendRow(uid, row.flags ?? 0, set, row.modSeq ?? working.modSeq)
    const at = chunk.rows - 1
    if (row.columns !== undefined) {
      for (const name in row.columns) {
        const c = this.#columnOf(working, name)
        const value = row.columns[name]!
        const { bytes: width } = meta.columns[c]!
        if (typeof value === 'number' && value === 0) continue
        const column = draft.appendedColumn(chunk, c)
        if (typeof value === 'number') writeNumber(column, at * width, width, value)
        else if (value instanceof Uint8Array) {
          if (value.length !== width) throw new RangeError(`${value.length} bytes for column ${name} of ${width}`)
          column.set(value, at * width)
        } else writeNumber(column, at * width, width, uidOf(value, name))
      }
      for (const c of meta.counting) this.#useRows(working, c, chunk, at, at + 1, 1)
    }
    draft.appendedRow(chunk)
    pending.assigned = uid
    this.#pending.push(pending)
    if (own && row.modSeq > working.given) working.given = row.modSeq
    this.#appendedRows(working, uid, 1, own)
  }

  /** Where the next `count` rows of a table begin, if they are to begin at `wanted`. */
  #placeFor({ draft }: Working, count: number, wanted: number = draft.uidNext): number {
    const { uidNext } = draft
    const { id } = draft.meta
    if (wanted + count - 1 > UID_LAST) throw new IndexError('INDEX_LIMIT', `${id} has no UIDs left`, { table: id })
    if (wanted < uidNext)
      throw new IndexError('INDEX_CONFLICT', `UID ${wanted} of ${id} is below ${uidNext}`, { table: id })
    return wanted
  }

  #appendMany(working: Working, { rows, outcome }: Extract<Requested, { kind: 'append-rows' }>): void {
    const { draft } = working
    const { meta } = draft
    const { count } = rows
    const uid = this.#placeFor(working, count, rows.uid)
    if (uid !== draft.uidNext || working.appendedOwn) this.#flushAppend(working)
    const columns: (Uint8Array | undefined)[] = []
    for (const [name, value] of Object.entries(rows.columns ?? {})) {
      const c = this.#columnOf(working, name)
      const { bytes: width } = meta.columns[c]!
      if (value === 0) continue
      const column = typeof value === 'number' ? new Uint8Array(width) : value
      if (typeof value === 'number') writeNumber(column, 0, width, value)
      if (column.length !== width && column.length !== count * width)
        throw new RangeError(`${column.length} bytes for column ${name} of ${width} in ${count} rows`)
      columns[c] = column
    }
    draft.appendRun(uid, count, Uint8Array.of(rows.flags ?? 0), NO_SET, columns, working.modSeq)
    this.#useColumns(working, columns, count)
    this.#appendedRows(working, uid, count, false)
    this.#settle.push(() => {
      outcome.uids = UidSet.range(uid, uid + count - 1)
    })
  }

  /** Rows with these columns were appended: one value for all of them, or one for each. */
  #useColumns(working: Working, columns: readonly (Uint8Array | undefined)[], count: number): void {
    for (const c of working.draft.meta.counting) {
      const column = columns[c]
      if (column === undefined) continue
      const uses = this.#usesOf(working, c)
      if (column.length === 4) addUse(uses, readNumber(column, 0, 4), count)
      else for (let i = 0; i < count; i++) addUse(uses, readNumber(column, i * 4, 4), 1)
    }
  }

  #appendedRows(working: Working, uid: number, count: number, own: boolean): void {
    if (own !== working.appendedOwn) this.#flushAppend(working)
    if (working.appended === 0) working.appendedFrom = uid
    working.appended += count
    working.appendedOwn = own
    if (!own) working.touched = true
    working.flagsOnly = false
  }

  #raise(working: Working, { uidNext, highestModSeq }: { uidNext: number; highestModSeq: number }): void {
    this.#flushAppend(working)
    const { draft } = working
    const next = uidNext > draft.uidNext ? uidNext : 0
    const horizon = highestModSeq > draft.tombstones.horizon ? highestModSeq : 0
    if (highestModSeq > working.given) working.given = highestModSeq
    if (next === 0 && horizon === 0) return
    draft.raise(next, horizon)
    working.flagsOnly = false
    working.out.u8(OP_RAISE)
    working.out.varint(next)
    working.out.varint(horizon)
  }

  #appendFrom(working: Working, request: Extract<Requested, { kind: 'append-from' }>): void {
    const { source, rows, outcome } = request
    const { draft } = working
    const { meta } = draft
    const count = rows.length
    if (count === 0) return
    // Somebody may have changed the rows since the view was taken, and was told so.
    const newest = this.#newestOf(request)
    const chunkOf = new Int32Array(newest === undefined ? 0 : count).fill(-1)
    const rowIn = new Uint32Array(chunkOf.length)
    if (newest !== undefined) {
      const { chunks } = newest
      for (let i = 0, at = 0; i < count; i++) {
        const wanted = source.uid(rows[i]!)
        at = chunkAtLeast(chunks, wanted, at)
        if (at === chunks.length) break
        const { uids: known, rows: end } = chunks[at]!
        const row = rowAtLeast(known, end, wanted)
        if (known[row] !== wanted) continue
        chunkOf[i] = at
        rowIn[i] = row
      }
    }
    const uid = this.#placeFor(working, count)
    const flags = new Uint8Array(count)
    const sets = new Uint32Array(count)
    const known = new Map<number, number>([[0, 0]])
    const knownNewest = new Map<number, number>([[0, 0]])
    for (let i = 0; i < count; i++) {
      const row = rows[i]!
      if (newest !== undefined && chunkOf[i]! >= 0) {
        const chunk = newest.chunks[chunkOf[i]!]!
        flags[i] = chunk.flags[rowIn[i]!]!
        const from = chunk.sets[rowIn[i]!]!
        let set = knownNewest.get(from)
        if (set === undefined) {
          const names = newest.keywords.sets[from]!.map((k) => newest.keywords.names[k]!)
          set = this.#setOf(working, this.#keywords(working, names))
          knownNewest.set(from, set)
        }
        sets[i] = set
        continue
      }
      flags[i] = source.flags(row)
      const from = source.keywordSet(row)
      if (from === 0) continue
      let set = known.get(from)
      if (set === undefined) {
        const names = source.keywordSets[from]!.map((k) => source.keywords[k]!)
        set = this.#setOf(working, this.#keywords(working, names))
        known.set(from, set)
      }
      sets[i] = set
    }
    const columns: (Uint8Array | undefined)[] = []
    for (let c = 0; c < meta.columns.length; c++) {
      const { name, bytes: width } = meta.columns[c]!
      const from = source.extension(name)
      if (from === undefined || from.bytes !== width) continue
      const column = new Uint8Array(count * width)
      const c2 = newest?.meta.byName.get(name)
      for (let i = 0; i < count; i++) {
        if (newest === undefined || c2 === undefined || chunkOf[i]! < 0) {
          column.set(from.value(rows[i]!), i * width)
          continue
        }
        const values = extOf(newest.chunks[chunkOf[i]!]!, c2, width)
        for (let b = 0, at = rowIn[i]! * width; b < width; b++) column[i * width + b] = values[at + b]!
      }
      columns[c] = column
    }
    for (const name of Object.keys(request.columns)) {
      const c = this.#columnOf(working, name)
      const { bytes: width } = meta.columns[c]!
      const value = request.columns[name]!
      if (meta.counting.includes(c)) throw new TypeError(`column ${name} counts uses: it is copied`)
      const column = new Uint8Array(count * width)
      for (let i = 0; i < count; i++) {
        if (typeof value === 'number') writeNumber(column, i * width, width, value)
        else column.set(value.subarray(0, width), i * width)
      }
      columns[c] = column
    }
    draft.appendRun(uid, count, flags, sets, columns, working.modSeq)
    this.#useColumns(working, columns, count)
    this.#appendedRows(working, uid, count, false)
    this.#settle.push(() => {
      outcome.uids = UidSet.range(uid, uid + count - 1)
    })
  }

  /** The source of copies as it is now; undefined if the view is that, or if its table is another's or gone. */
  #newestOf({ from, source }: Extract<Requested, { kind: 'append-from' }>): Draft | TableState | undefined {
    const seen = stateOfView(source)
    if (from === undefined || seen === undefined) return undefined
    const open = this.#open.get(from)
    if (open?.dropped === true) return undefined
    const newest = open?.draft ?? this.#world.state(from)
    return newest === seen || newest?.meta.number !== seen.meta.number ? undefined : newest
  }

  #flags(working: Working, request: Extract<Requested, { kind: 'flags' }>): void {
    this.#flushAppend(working)
    const { uids, change, unchangedSince, outcome } = request
    const { draft } = working
    const add = change.add ?? 0
    const remove = (change.replace === true ? 0xff : (change.remove ?? 0)) & ~add
    const keep = ~remove & 0xff
    const adds = change.addKeywords ?? []
    const removes = change.removeKeywords ?? []
    const touchesSets = change.replace === true || adds.length > 0 || removes.length > 0
    // Keywords are interned only if a row needs them: what changes nothing is not written.
    const becomes = new Map<number, number>()
    const setAfter = (before: number): number => {
      let after = becomes.get(before)
      if (after === undefined) {
        const names = change.replace === true ? [] : draft.keywords.sets[before]!.slice()
        for (const name of adds) {
          let k = findKeyword(draft.keywords, name)
          if (k < 0) k = this.#newKeyword(working, name)
          if (!names.includes(k)) names.push(k)
        }
        const gone = removes.map((name) => findKeyword(draft.keywords, name))
        after = this.#setOf(
          working,
          names.filter((k) => !gone.includes(k)),
        )
        becomes.set(before, after)
      }
      return after
    }
    const present = new UidSetBuilder()
    const changed = new UidSetBuilder()
    const tooNew = new UidSetBuilder()
    /** By resulting set (-1: sets stay), ranges of rows that change. */
    const groups = new Map<number, number[]>()
    const { ranges } = uids
    const { chunks } = draft
    for (let r = 0, at = 0; r < ranges.length; r += 2) {
      const lo = ranges[r]!
      const hi = ranges[r + 1]!
      let group: number[] | undefined
      let groupSet = -2
      // Whether the row before this one, in this range, is the last of its group.
      let adjoining = false
      for (at = chunkAtLeast(chunks, lo, at); at < chunks.length; at++) {
        const chunk = chunks[at]!
        const rows = chunk.rows
        if (chunk.uids[0]! > hi) break
        const from = rowAtLeast(chunk.uids, rows, lo)
        const to = hi >= chunk.uids[rows - 1]! ? rows : rowAtLeast(chunk.uids, rows, hi + 1)
        for (let row = from; row < to; row++) {
          const uid = chunk.uids[row]!
          present.add(uid)
          if (chunk.modSeqs[row]! > unchangedSince) {
            tooNew.add(uid)
            adjoining = false
            continue
          }
          const flags = chunk.flags[row]!
          const set = chunk.sets[row]!
          const after = touchesSets ? setAfter(set) : set
          if (((flags & keep) | add) === flags && after === set) {
            adjoining = false
            continue
          }
          changed.add(uid)
          const result = touchesSets ? after : -1
          if (result !== groupSet || group === undefined) {
            groupSet = result
            group = groups.get(result)
            if (group === undefined) {
              group = []
              groups.set(result, group)
            }
            adjoining = false
          }
          if (adjoining) group[group.length - 1] = uid
          else group.push(uid, uid)
          adjoining = true
        }
        if (to < rows) break
      }
    }
    for (const [set, list] of groups) {
      for (let i = 0; i < list.length; i += 2)
        draft.changeFlags(list[i]!, list[i + 1]!, add, remove, set, working.modSeq)
      working.out.u8(OP_FLAGS)
      working.out.u8(add)
      working.out.u8(remove)
      working.out.varint(set + 1)
      writeRanges(working.out, list)
      working.touched = true
    }
    const changedUids = changed.build()
    const failed = uids.subtract(present.build()).union(tooNew.build())
    this.#settle.push(() => {
      outcome.changed = changedUids
      outcome.failed = failed
      outcome.modSeq = changedUids.isEmpty ? 0 : working.modSeq
    })
  }

  #expunge(working: Working, request: Extract<Requested, { kind: 'expunge' }>): void {
    this.#flushAppend(working)
    const { uids, options, outcome } = request
    const { draft } = working
    const { meta, chunks } = draft
    const zero = options.onlyZero === undefined ? -1 : this.#columnOf(working, options.onlyZero)
    const chosen = options.onlyDeleted === true || zero >= 0
    const expunged = new UidSetBuilder()
    const rows: number[] = []
    let found = 0
    let kept = 0
    const { ranges } = uids
    let lastChunk: Chunk | undefined
    let lastRow = -1
    for (let r = 0, at = 0; r < ranges.length; r += 2) {
      const lo = ranges[r]!
      const hi = ranges[r + 1]!
      for (at = chunkAtLeast(chunks, lo, at); at < chunks.length; at++) {
        const chunk = chunks[at]!
        if (chunk.uids[0]! > hi) break
        const from = rowAtLeast(chunk.uids, chunk.rows, lo)
        const to = hi >= chunk.uids[chunk.rows - 1]! ? chunk.rows : rowAtLeast(chunk.uids, chunk.rows, hi + 1)
        found += to - from
        for (let row = from; row < to; row++) {
          if (chosen) {
            const stays =
              (options.onlyDeleted === true && (chunk.flags[row]! & FLAG_DELETED) === 0) ||
              (zero >= 0 && !isZero(chunk, zero, meta.columns[zero]!.bytes, row))
            if (stays) {
              kept++
              continue
            }
          }
          const uid = chunk.uids[row]!
          expunged.add(uid)
          // Rows that follow each other are one range, whatever UIDs are missing between them.
          const follows =
            rows.length > 0 &&
            (lastChunk === chunk
              ? lastRow + 1 === row
              : row === 0 && at > 0 && lastChunk === chunks[at - 1] && lastRow === lastChunk!.rows - 1)
          if (follows) rows[rows.length - 1] = uid
          else rows.push(uid, uid)
          lastChunk = chunk
          lastRow = row
          for (const c of meta.counting) this.#useRows(working, c, chunk, row, row + 1, -1)
        }
        if (to < chunk.rows) break
      }
    }
    if (options.mustExist === true && found !== uids.size)
      throw new IndexError('INDEX_CONFLICT', `${uids.size - found} of the rows to expunge are gone`, { table: meta.id })
    if (options.mustExist === true && kept > 0)
      throw new IndexError('INDEX_CONFLICT', `${kept} of the rows to expunge are to stay`, { table: meta.id })
    const set = expunged.build()
    this.#settle.push(() => {
      outcome.expunged = set
    })
    if (rows.length === 0) return
    draft.expunge(rows, working.modSeq)
    working.out.u8(OP_EXPUNGE)
    writeRanges(working.out, rows)
    working.touched = true
    working.flagsOnly = false
  }

  #column(working: Working, name: string, uid: number, value: Uint8Array | number): void {
    this.#flushAppend(working)
    const { draft } = working
    const { meta } = draft
    const c = this.#columnOf(working, name)
    const width = meta.columns[c]!.bytes
    const chunk = draft.chunkOf(uid)
    if (chunk === undefined)
      throw new IndexError('INDEX_CONFLICT', `row ${uid} of ${meta.id} is gone`, { table: meta.id })
    let bytes: Uint8Array
    if (typeof value === 'number') {
      bytes = new Uint8Array(width)
      writeNumber(bytes, 0, width, value)
    } else bytes = value
    if (bytes.length !== width) throw new RangeError(`${bytes.length} bytes for column ${name} of ${width}`)
    const row = rowAtLeast(chunk.uids, chunk.rows, uid)
    const column = extOf(chunk, c, width)
    if (sameBytes(column.subarray(row * width, (row + 1) * width), bytes)) return
    const counted = meta.counting.includes(c)
    if (counted) this.#useRows(working, c, chunk, row, row + 1, -1)
    draft.setColumn(uid, c, bytes, working.modSeq)
    if (counted) addUse(this.#usesOf(working, c), readNumber(bytes, 0, 4), 1)
    this.#writeColumn(working, c, [uid, uid], bytes, TOUCHES)
    working.touched = true
  }

  #increment(working: Working, name: string, uid: number, by: number): void {
    this.#flushAppend(working)
    const { draft } = working
    const { meta } = draft
    const c = this.#columnOf(working, name)
    const width = meta.columns[c]!.bytes
    const chunk = draft.chunkOf(uid)
    if (chunk === undefined)
      throw new IndexError('INDEX_CONFLICT', `row ${uid} of ${meta.id} is gone`, { table: meta.id })
    if (by === 0) return
    const row = rowAtLeast(chunk.uids, chunk.rows, uid)
    const after = readNumber(extOf(chunk, c, width), row * width, width) + by
    if (after < 0 || (width <= 6 && after >= 256 ** width))
      throw new IndexError('INDEX_LIMIT', `column ${name} of row ${uid} cannot be ${after}`, { table: meta.id })
    const bytes = new Uint8Array(width)
    writeNumber(bytes, 0, width, after)
    draft.setColumn(uid, c, bytes, 0)
    this.#writeColumn(working, c, [uid, uid], bytes, 0)
  }

  #writeColumn(working: Working, c: number, ranges: readonly number[], values: Uint8Array, bits: number): void {
    working.flagsOnly = false
    working.out.u8(OP_COLUMN)
    working.out.varint(c)
    working.out.u8(bits)
    writeRanges(working.out, ranges)
    working.out.bytes(values)
  }

  #usesOf(working: Working, c: number): Map<number, number> {
    const { table, column } = working.draft.meta.columns[c]!.counts!
    const key = `${table} ${column}`
    let uses = this.#uses.get(key)
    if (uses === undefined) {
      uses = { table, column, by: new Map() }
      this.#uses.set(key, uses)
    }
    return uses.by
  }

  #useRows(working: Working, c: number, chunk: Chunk, from: number, to: number, by: number): void {
    const column = extOf(chunk, c, 4)
    if (isZeroColumn(column)) return
    const uses = this.#usesOf(working, c)
    for (let row = from; row < to; row++) addUse(uses, readNumber(column, row * 4, 4), by)
  }

  /** Counts in the tables that are named, at the end, when their own rows are there. */
  #countUses(): void {
    for (const { table, column, by } of this.#uses.values()) {
      const uids: number[] = []
      for (const [uid, change] of by) if (change !== 0) uids.push(uid)
      if (uids.length === 0) continue
      uids.sort((a, b) => a - b)
      const gone =
        this.#open.get(table)?.dropped === true || (!this.#open.has(table) && this.#world.state(table) === undefined)
      if (gone) {
        // Whoever stops using rows of a table that is gone has nothing to count.
        if (uids.every((uid) => by.get(uid)! < 0)) continue
        throw new IndexError('INDEX_CONFLICT', `table ${table} is gone`, { table })
      }
      const working = this.#working(table)
      this.#flushAppend(working)
      const { draft } = working
      const c = this.#columnOf(working, column)
      const width = draft.meta.columns[c]!.bytes
      const ranges: number[] = []
      const values = new Uint8Array(uids.length * width)
      let count = 0
      for (const uid of uids) {
        const change = by.get(uid)!
        const after = draft.addColumn(uid, c, change)
        if (after < 0) {
          if (change < 0) continue
          throw new IndexError('INDEX_CONFLICT', `row ${uid} of ${table} is gone`, { table })
        }
        writeNumber(values, count * width, width, after)
        if (ranges.length > 0 && ranges[ranges.length - 1]! + 1 === uid) ranges[ranges.length - 1] = uid
        else ranges.push(uid, uid)
        count++
      }
      if (count > 0) this.#writeColumn(working, c, ranges, values.subarray(0, count * width), EACH_VALUE)
    }
  }

  #columnOf(working: Working, name: string): number {
    const c = working.draft.meta.byName.get(name)
    if (c === undefined) throw new TypeError(`${working.draft.meta.id} has no column ${name}`)
    return c
  }

  /** Indexes of these names, interned. */
  #keywords(working: Working, names: readonly string[]): number[] {
    const members: number[] = []
    for (const name of names) {
      let k = findKeyword(working.draft.keywords, name)
      if (k < 0) k = this.#newKeyword(working, name)
      if (!members.includes(k)) members.push(k)
    }
    return members
  }

  #newKeyword(working: Working, name: string): number {
    const { draft } = working
    if (draft.keywords.names.length >= KEYWORDS_MAX)
      throw new IndexError('INDEX_LIMIT', `more than ${KEYWORDS_MAX} keywords`, { table: draft.meta.id })
    this.#flushAppend(working)
    working.out.u8(OP_KEYWORD)
    working.out.utf8(name)
    return draft.addKeyword(name)
  }

  /** Index of the set with these members, in any order, interned. */
  #setOf(working: Working, members: readonly number[]): number {
    if (members.length === 0) return 0
    const { draft } = working
    const sorted = members.toSorted((a, b) => a - b)
    const known = findSet(draft.keywords, sorted)
    if (known >= 0) return known
    if (draft.keywords.sets.length >= KEYWORD_SETS_MAX)
      throw new IndexError('INDEX_LIMIT', `more than ${KEYWORD_SETS_MAX} sets of keywords`, { table: draft.meta.id })
    this.#flushAppend(working)
    working.out.u8(OP_SET)
    working.out.varint(sorted.length)
    for (const member of sorted) working.out.varint(member)
    return draft.addSet(sorted)
  }

  /** Writes the rows appended since the last operation on the table, read back from the draft as columns. */
  #flushAppend(working: Working): void {
    let { appendedFrom: uid, appended: left } = working
    working.appended = 0
    while (left > 0) {
      const count = Math.min(left, APPEND_ROWS_MAX)
      writeAppend(working.out, working.draft, uid, count, working.appendedOwn)
      uid += count
      left -= count
    }
  }
}

function writeAppend(out: ByteWriter, draft: Draft, uid: number, count: number, own: boolean): void {
  const { chunks, meta } = draft
  if (count === 1 && !own) {
    writeAppendOne(out, draft, uid)
    return
  }
  // Slices of chunks that hold the rows: chunk, first row, row after the last.
  const first = chunkAtLeast(chunks, uid)
  const slices: { chunk: Chunk; from: number; to: number }[] = []
  for (let at = first, left = count; left > 0; at++) {
    const chunk = chunks[at]!
    const from = at === first ? rowAtLeast(chunk.uids, chunk.rows, uid) : 0
    const to = Math.min(chunk.rows, from + left)
    slices.push({ chunk, from, to })
    left -= to - from
  }
  const head = slices[0]!
  const oneFlags = head.chunk.flags[head.from]!
  const oneSet = head.chunk.sets[head.from]!
  let eachFlags = false
  let eachSet = false
  for (const { chunk, from, to } of slices) {
    for (let row = from; row < to && !eachFlags; row++) eachFlags = chunk.flags[row] !== oneFlags
    if (chunk.sets === ZERO_SETS && oneSet === 0) continue
    for (let row = from; row < to && !eachSet; row++) eachSet = chunk.sets[row] !== oneSet
  }
  out.u8(OP_APPEND)
  out.varint(uid)
  out.varint(count)
  out.u8((eachFlags ? EACH_FLAGS : 0) | (eachSet ? EACH_SET : 0) | (own ? EACH_MODSEQ : 0))
  if (!eachFlags) out.u8(oneFlags)
  else for (const { chunk, from, to } of slices) out.bytes(chunk.flags.subarray(from, to))
  if (!eachSet) out.varint(oneSet)
  else for (const { chunk, from, to } of slices) for (let row = from; row < to; row++) out.varint(chunk.sets[row]!)
  if (own)
    for (const { chunk, from, to } of slices) for (let row = from; row < to; row++) out.varint(chunk.modSeqs[row]!)
  const named: number[] = []
  for (let c = 0; c < meta.columns.length; c++) {
    const width = meta.columns[c]!.bytes
    if (slices.some(({ chunk, from, to }) => !isZeroSlice(chunk.ext[c]!, from * width, to * width))) named.push(c)
  }
  out.varint(named.length)
  for (const c of named) {
    const width = meta.columns[c]!.bytes
    const value = head.chunk.ext[c]!.subarray(head.from * width, (head.from + 1) * width)
    const each = !slices.every(({ chunk, from, to }) => repeats(chunk.ext[c]!, from, to, width, value))
    out.varint(c)
    out.u8(each ? EACH_VALUE : 0)
    if (!each) out.bytes(value)
    else for (const { chunk, from, to } of slices) out.bytes(chunk.ext[c]!.subarray(from * width, to * width))
  }
}

/** The same for one row, which is what a delivery appends. */
function writeAppendOne(out: ByteWriter, draft: Draft, uid: number): void {
  const { columns } = draft.meta
  const chunk = draft.chunks[chunkAtLeast(draft.chunks, uid)]!
  const row = rowAtLeast(chunk.uids, chunk.rows, uid)
  out.u8(OP_APPEND)
  out.varint(uid)
  out.varint(1)
  out.u8(0)
  out.u8(chunk.flags[row]!)
  out.varint(chunk.sets[row]!)
  const at = out.reserve(1)
  let named = 0
  for (let c = 0; c < columns.length; c++) {
    const column = chunk.ext[c]!
    const width = columns[c]!.bytes
    const from = row * width
    const to = from + width
    if (isZeroSlice(column, from, to)) continue
    named++
    out.varint(c)
    out.u8(0)
    // Bytes one by one: a view of so few would cost more.
    for (let i = from; i < to; i++) out.u8(column[i]!)
  }
  // At most COLUMNS_MAX, so one byte.
  out.patchU8(at, named)
}

function isZeroSlice(column: Uint8Array, from: number, to: number): boolean {
  if (isZeroColumn(column)) return true
  for (let i = from; i < to; i++) if (column[i] !== 0) return false
  return true
}

function repeats(column: Uint8Array, from: number, to: number, width: number, value: Uint8Array): boolean {
  for (let row = from; row < to; row++)
    for (let i = 0; i < width; i++) if (column[row * width + i] !== value[i]) return false
  return true
}

function isZero(chunk: Chunk, c: number, width: number, row: number): boolean {
  return isZeroSlice(extOf(chunk, c, width), row * width, (row + 1) * width)
}

function addUse(uses: Map<number, number>, uid: number, by: number): void {
  if (uid !== 0) uses.set(uid, (uses.get(uid) ?? 0) + by)
}

function sameBytes(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  if (a === undefined || b === undefined) return a === b
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}

/** How many of these rows a table has. */
function countOf({ draft }: Working, uids: UidSet): number {
  const { chunks } = draft
  const { ranges } = uids
  let count = 0
  for (let r = 0, at = 0; r < ranges.length; r += 2) {
    const hi = ranges[r + 1]!
    for (at = chunkAtLeast(chunks, ranges[r]!, at); at < chunks.length; at++) {
      const { uids: has, rows } = chunks[at]!
      if (has[0]! > hi) break
      const from = rowAtLeast(has, rows, ranges[r]!)
      const to = hi >= has[rows - 1]! ? rows : rowAtLeast(has, rows, hi + 1)
      count += to - from
      if (to < rows) break
    }
  }
  return count
}

/** A number as it is; for a row, the UID that it has got in this transaction. */
function uidOf(row: number | AppendedRow, column: string): number {
  if (typeof row === 'number') return row
  const assigned = row instanceof PendingRow ? row.assigned : row.uid
  if (assigned === 0) throw new TypeError(`column ${column} names a row that is not appended before`)
  return assigned
}
