/**
 * A model of an index: what its contract means, in memory, as simply as it can be said. Nothing is shared with the
 * implementation but the contract, so that a mistake in one shows against the other.
 */
import { UidSet } from '@mailstead/uidset'
import {
  FLAG_DELETED,
  FLAG_SEEN,
  type IndexTransaction,
  type Table,
  type TableInfo,
  type TableSpec,
} from './contract.ts'
import { formatDigest, GUID_BYTES, GUID_COLUMN, nameDigest, rowHigh, rowLow, sumGuids } from './digest.ts'
import type { IndexErrorCode } from './error.ts'

/** A change as data, so that the model and an index can both be told of it. */
export type ModelChange =
  | { readonly kind: 'create'; readonly spec: TableSpec }
  | { readonly kind: 'drop'; readonly table: string }
  | {
      readonly kind: 'append'
      readonly table: string
      readonly flags: number
      readonly keywords: readonly string[]
      readonly columns: Readonly<Record<string, number | Uint8Array>>
      /** So many rows alike. (default 1) */
      readonly count?: number
      /** Of the first row; the others follow. */
      readonly uid?: number
      /** Of the first row; each of the others has one more. */
      readonly modSeq?: number
    }
  | { readonly kind: 'raise'; readonly table: string; readonly uidNext?: number; readonly highestModSeq?: number }
  | { readonly kind: 'append-from'; readonly table: string; readonly source: string; readonly uids: UidSet }
  | {
      readonly kind: 'flags'
      readonly table: string
      readonly uids: UidSet
      readonly add: number
      readonly remove: number
      readonly addKeywords: readonly string[]
      readonly removeKeywords: readonly string[]
      readonly replace: boolean
      readonly unchangedSince?: number
    }
  | {
      readonly kind: 'expunge'
      readonly table: string
      readonly uids: UidSet
      readonly mustExist?: boolean
      readonly onlyDeleted?: boolean
      readonly onlyZero?: string
    }
  | {
      readonly kind: 'column'
      readonly table: string
      readonly column: string
      readonly uid: number
      readonly value: number
    }
  | {
      readonly kind: 'increment'
      readonly table: string
      readonly column: string
      readonly uid: number
      readonly by: number
    }
  | { readonly kind: 'value'; readonly table: string; readonly key: string; readonly value: Uint8Array | undefined }
  | { readonly kind: 'expect'; readonly table: string; readonly key: string; readonly value: Uint8Array | undefined }
  | { readonly kind: 'expect-rows'; readonly table: string; readonly uids: UidSet }

/** What an outcome holds, as text. */
export type ModelOutcome = Readonly<Record<string, string>>

export interface ModelRow {
  flags: number
  /** In lower case, sorted. */
  keywords: readonly string[]
  columns: Map<string, Uint8Array>
  modSeq: number
}

export interface ModelTable {
  readonly spec: TableSpec
  uidNext: number
  highestModSeq: number
  readonly rows: Map<number, ModelRow>
  readonly values: Map<string, Uint8Array>
  /** UID to the modseq of its expunge. */
  readonly expunged: Map<number, number>
  /** What was expunged up to this modseq is not known. */
  horizon: number
}

class Refused extends Error {
  readonly code: IndexErrorCode
  constructor(code: IndexErrorCode) {
    super(code)
    this.code = code
  }
}

export class Model {
  #tables = new Map<string, ModelTable>()

  get tables(): ReadonlyMap<string, ModelTable> {
    return this.#tables
  }

  /** Does all of it, or says with which code it is refused. */
  commit(changes: readonly ModelChange[]): { outcomes: ModelOutcome[] } | { code: IndexErrorCode } {
    const before = this.#tables
    this.#tables = new Map([...before].map(([id, table]) => [id, copyOf(table)]))
    const bumped = new Set<ModelTable>()
    const uses = new Map<string, number>()
    const dropped = new Set<string>()
    try {
      const outcomes = changes.map((change) => this.#one(change, bumped, uses, dropped))
      for (const [key, by] of uses) {
        if (by === 0) continue
        const [table, column, uid] = key.split(' ') as [string, string, string]
        const row = this.#tables.get(table)?.rows.get(Number(uid))
        if (row === undefined) {
          if (by > 0) throw new Refused('INDEX_CONFLICT')
          continue
        }
        row.columns.set(column, number(Math.max(0, value(row.columns.get(column)!) + by), 4))
      }
      return { outcomes }
    } catch (error) {
      this.#tables = before
      if (error instanceof Refused) return { code: error.code }
      throw error
    }
  }

  #table(id: string): ModelTable {
    const table = this.#tables.get(id)
    if (table === undefined) throw new Refused('INDEX_TABLE_GONE')
    return table
  }

  #one(change: ModelChange, bumped: Set<ModelTable>, uses: Map<string, number>, dropped: Set<string>): ModelOutcome {
    const bump = (table: ModelTable): number => {
      if (!bumped.has(table)) table.highestModSeq++
      bumped.add(table)
      return table.highestModSeq
    }
    const use = (table: ModelTable, columns: ReadonlyMap<string, Uint8Array>, by: number): void => {
      for (const { name, counts } of table.spec.columns) {
        const uid = counts === undefined ? 0 : value(columns.get(name)!)
        if (uid === 0) continue
        const key = `${counts!.table} ${counts!.column} ${uid}`
        uses.set(key, (uses.get(key) ?? 0) + by)
      }
    }
    switch (change.kind) {
      case 'create': {
        const { spec } = change
        if (this.#tables.has(spec.id)) throw new Refused('INDEX_TABLE_EXISTS')
        for (const { counts } of spec.columns)
          if (
            counts !== undefined &&
            !(this.#tables.get(counts.table)?.spec.columns.some((c) => c.name === counts.column) ?? false)
          )
            throw new Refused('INDEX_CONFLICT')
        this.#tables.set(spec.id, {
          spec,
          uidNext: spec.uidNext ?? 1,
          highestModSeq: 1,
          rows: new Map(),
          values: new Map(),
          expunged: new Map(),
          horizon: 0,
        })
        return {}
      }
      case 'drop': {
        const table = this.#table(change.table)
        for (const row of table.rows.values()) use(table, row.columns, -1)
        this.#tables.delete(change.table)
        dropped.add(change.table)
        return {}
      }
      case 'append': {
        const table = this.#table(change.table)
        const first = change.uid ?? table.uidNext
        if (first < table.uidNext) throw new Refused('INDEX_CONFLICT')
        const { count = 1, modSeq } = change
        table.uidNext = first
        for (let n = 0; n < count; n++) {
          const columns = new Map<string, Uint8Array>()
          for (const { name, bytes } of table.spec.columns) {
            const given = change.columns[name] ?? 0
            columns.set(name, typeof given === 'number' ? number(given, bytes) : given)
          }
          use(table, columns, 1)
          const keywords = [...new Set(change.keywords.map((k) => k.toLowerCase()))].sort()
          const own = modSeq === undefined ? bump(table) : modSeq + n
          table.highestModSeq = Math.max(table.highestModSeq, own)
          table.rows.set(table.uidNext++, { flags: change.flags, keywords, columns, modSeq: own })
        }
        return { uids: UidSet.range(first, table.uidNext - 1).toString() }
      }
      case 'raise': {
        const table = this.#table(change.table)
        const { uidNext = 0, highestModSeq = 0 } = change
        table.uidNext = Math.max(table.uidNext, uidNext)
        table.highestModSeq = Math.max(table.highestModSeq, highestModSeq)
        table.horizon = Math.max(table.horizon, highestModSeq)
        return {}
      }
      case 'append-from': {
        const table = this.#table(change.table)
        const source = this.#table(change.source)
        const first = table.uidNext
        for (const [uid, row] of sorted(source.rows)) {
          if (!change.uids.has(uid)) continue
          const columns = new Map<string, Uint8Array>()
          for (const { name, bytes } of table.spec.columns) {
            const from = row.columns.get(name)
            columns.set(name, from?.length === bytes ? from : new Uint8Array(bytes))
          }
          use(table, columns, 1)
          table.rows.set(table.uidNext++, { ...row, columns, modSeq: bump(table) })
        }
        return { uids: table.uidNext === first ? '' : UidSet.range(first, table.uidNext - 1).toString() }
      }
      case 'flags': {
        const table = this.#table(change.table)
        const changed: number[] = []
        const tooNew: number[] = []
        const missing = change.uids.subtract(UidSet.of(...table.rows.keys()))
        for (const [uid, row] of sorted(table.rows)) {
          if (!change.uids.has(uid)) continue
          if (row.modSeq > (change.unchangedSince ?? Number.POSITIVE_INFINITY)) {
            tooNew.push(uid)
            continue
          }
          const flags = (change.replace ? 0 : row.flags & ~change.remove) | change.add
          const kept = change.replace ? [] : row.keywords
          const gone = change.removeKeywords.map((k) => k.toLowerCase())
          const keywords = [...new Set([...kept, ...change.addKeywords.map((k) => k.toLowerCase())])]
            .filter((k) => !gone.includes(k))
            .sort()
          if (flags === row.flags && keywords.join(' ') === row.keywords.join(' ')) continue
          row.flags = flags
          row.keywords = keywords
          changed.push(uid)
          row.modSeq = bump(table)
        }
        return {
          changed: UidSet.of(...changed).toString(),
          failed: UidSet.of(...tooNew)
            .union(missing)
            .toString(),
        }
      }
      case 'expunge': {
        const table = this.#table(change.table)
        const { uids } = change
        if (change.mustExist === true) {
          let found = 0
          for (const [uid, row] of table.rows) if (uids.has(uid) && !stays(change, row)) found++
          if (found !== uids.size) throw new Refused('INDEX_CONFLICT')
        }
        const expunged: number[] = []
        for (const [uid, row] of sorted(table.rows)) {
          if (!uids.has(uid) || stays(change, row)) continue
          use(table, row.columns, -1)
          table.rows.delete(uid)
          table.expunged.set(uid, bump(table))
          expunged.push(uid)
        }
        return { expunged: UidSet.of(...expunged).toString() }
      }
      case 'column': {
        const table = this.#table(change.table)
        const row = table.rows.get(change.uid)
        if (row === undefined) throw new Refused('INDEX_CONFLICT')
        const before = row.columns.get(change.column)!
        const after = number(change.value, before.length)
        if (Buffer.compare(before, after) === 0) return {}
        use(table, row.columns, -1)
        row.columns.set(change.column, after)
        use(table, row.columns, 1)
        row.modSeq = bump(table)
        return {}
      }
      case 'increment': {
        const table = this.#table(change.table)
        const row = table.rows.get(change.uid)
        if (row === undefined) throw new Refused('INDEX_CONFLICT')
        const before = row.columns.get(change.column)!
        const after = value(before) + change.by
        if (after < 0 || after >= 256 ** before.length) throw new Refused('INDEX_LIMIT')
        row.columns.set(change.column, number(after, before.length))
        return {}
      }
      case 'value': {
        const { values } = this.#table(change.table)
        if (change.value === undefined) values.delete(change.key)
        else values.set(change.key, change.value)
        return {}
      }
      case 'expect': {
        const before = this.#table(change.table).values.get(change.key)
        const same =
          before === undefined || change.value === undefined
            ? before === change.value
            : Buffer.compare(before, change.value) === 0
        if (!same) throw new Refused('INDEX_CONFLICT')
        return {}
      }
      case 'expect-rows': {
        const { rows } = this.#table(change.table)
        for (const uid of change.uids) if (!rows.has(uid)) throw new Refused('INDEX_CONFLICT')
        return {}
      }
    }
  }
}

/** The same columns with bytes for each of the rows, where they are bytes. */
function eachOf(
  columns: Readonly<Record<string, Uint8Array | number>>,
  count: number,
): Record<string, Uint8Array | number> {
  const each: Record<string, Uint8Array | number> = {}
  for (const [name, given] of Object.entries(columns))
    each[name] = typeof given === 'number' ? given : Buffer.concat(Array.from({ length: count }, () => given))
  return each
}

/**
 * Tells a transaction of the changes, as `Model.commit` does them. `viewOf` gives the open table that rows are copied from. The
 * function returned reads the outcomes, after the commit: they are to be those of the model.
 */
export function request(
  transaction: IndexTransaction,
  changes: readonly ModelChange[],
  viewOf: (table: string) => Table,
): () => ModelOutcome[] {
  const outcomes = changes.map((change): (() => ModelOutcome) => {
    switch (change.kind) {
      case 'create':
        transaction.createTable(change.spec)
        return () => ({})
      case 'drop':
        transaction.dropTable(change.table)
        return () => ({})
      case 'append': {
        const { flags, keywords, columns, uid, modSeq, count = 1 } = change
        if (count > 1 && keywords.length === 0 && modSeq === undefined) {
          const given = count % 2 === 0 ? columns : eachOf(columns, count)
          const where = uid === undefined ? {} : { uid }
          const outcome = transaction.appendRows(change.table, { count, flags, columns: given, ...where })
          return () => ({ uids: outcome.uids.toString() })
        }
        const rows = Array.from({ length: count }, (_, i) =>
          transaction.append(change.table, {
            flags,
            keywords,
            columns,
            ...(uid === undefined ? {} : { uid: uid + i }),
            ...(modSeq === undefined ? {} : { modSeq: modSeq + i }),
          }),
        )
        return () => ({ uids: UidSet.of(...rows.map((row) => row.uid)).toString() })
      }
      case 'raise': {
        const { table, uidNext, highestModSeq } = change
        transaction.raise(table, {
          ...(uidNext === undefined ? {} : { uidNext }),
          ...(highestModSeq === undefined ? {} : { highestModSeq }),
        })
        return () => ({})
      }
      case 'append-from': {
        const { view } = viewOf(change.source)
        const rows: number[] = []
        for (let row = 0; row < view.count; row++) if (change.uids.has(view.uid(row))) rows.push(row)
        const outcome = transaction.appendFrom(change.table, view, Uint32Array.from(rows))
        return () => ({ uids: outcome.uids.toString() })
      }
      case 'flags': {
        const { add, remove, addKeywords, removeKeywords, replace, unchangedSince } = change
        const outcome = transaction.changeFlags(
          change.table,
          change.uids,
          { add, remove, addKeywords, removeKeywords, replace },
          unchangedSince === undefined ? {} : { unchangedSince },
        )
        return () => ({ changed: outcome.changed.toString(), failed: outcome.failed.toString() })
      }
      case 'expunge': {
        const { mustExist = false, onlyDeleted = false, onlyZero } = change
        const outcome = transaction.expunge(change.table, change.uids, {
          mustExist,
          onlyDeleted,
          ...(onlyZero === undefined ? {} : { onlyZero }),
        })
        return () => ({ expunged: outcome.expunged.toString() })
      }
      case 'column':
        transaction.setColumn(change.table, change.column, change.uid, change.value)
        return () => ({})
      case 'increment':
        transaction.increment(change.table, change.column, change.uid, change.by)
        return () => ({})
      case 'value':
        transaction.setValue(change.table, change.key, change.value)
        return () => ({})
      case 'expect':
        transaction.expectValue(change.table, change.key, change.value)
        return () => ({})
      case 'expect-rows':
        transaction.expectRows(change.table, change.uids)
        return () => ({})
    }
  })
  return () => outcomes.map((read) => read())
}

/** What a table is, as one plain value to be compared deeply with that of `describeView`; from the model. */
export function describeModel(table: ModelTable): unknown {
  let unseen = 0
  let deleted = 0
  let bytes = 0
  const summed = table.spec.columns.find((column) => column.summed === true)
  const guids = table.spec.columns.some(({ name, bytes }) => name === GUID_COLUMN && bytes === GUID_BYTES)
  let low = 0
  let high = 0
  const rows: unknown[] = []
  for (const [uid, row] of sorted(table.rows)) {
    if ((row.flags & FLAG_SEEN) === 0) unseen++
    if ((row.flags & FLAG_DELETED) !== 0) deleted++
    if (summed !== undefined) bytes += value(row.columns.get(summed.name)!)
    const columns = table.spec.columns.map(({ name }) => Buffer.from(row.columns.get(name)!).toString('hex'))
    rows.push([uid, row.flags, row.modSeq, row.keywords.join(' '), ...columns].join('|'))
    const names = row.keywords.map(nameDigest)
    low += rowLow(uid, row.flags, sumOf(names.map((name) => name.low)))
    high += rowHigh(uid, row.flags, sumOf(names.map((name) => name.high)))
    const guid = guids ? row.columns.get(GUID_COLUMN)! : undefined
    if (guid !== undefined) {
      const sums = new Int32Array(2)
      sumGuids(sums, Uint32Array.of(uid), guid, 0, 1, 1)
      low += sums[0]!
      high += sums[1]!
    }
  }
  return {
    uidValidity: table.spec.uidValidity,
    uidNext: table.uidNext,
    highestModSeq: table.highestModSeq,
    count: table.rows.size,
    unseen,
    deleted,
    bytes,
    digest: formatDigest({ low: low >>> 0, high: high >>> 0 }),
    rows,
    values: valuesOf(table.values),
  }
}

/** Of the lanes of a digest. */
function sumOf(lanes: readonly number[]): number {
  return lanes.reduce((sum, lane) => (sum + lane) | 0, 0)
}

/**
 * The same from the newest view of an open table, which was made by `spec`. Throws an Error if the view contradicts itself. Where
 * the file system cannot read synchronously, load the columns first.
 */
export function describeView(table: Table, spec: TableSpec): unknown {
  const { view } = table
  const rows: unknown[] = []
  const columns = spec.columns.map(({ name }) => view.extension(name)!)
  let first = 0
  for (const chunk of view.chunks) {
    if (chunk.first !== first) throw new Error(`a chunk begins at ${chunk.first}, not ${first}`)
    for (let i = 0; i < chunk.rows; i++) {
      const row = first + i
      const uid = chunk.uids[i]!
      if (
        view.uid(row) !== uid ||
        view.rowOf(uid) !== row ||
        view.rowsBelow(uid) !== row ||
        view.rowsBelow(uid + 1) !== row + 1
      )
        throw new Error(`row ${row} is not where UID ${uid} is`)
      if (view.flags(row) !== chunk.flags[i] || view.modSeq(row) !== chunk.modSeqs[i])
        throw new Error(`row ${row} differs`)
      const keywords = view.keywordSets[view.keywordSet(row)]!.map((k) => view.keywords[k]!.toLowerCase()).sort()
      rows.push(
        [
          uid,
          chunk.flags[i],
          chunk.modSeqs[i],
          keywords.join(' '),
          ...columns.map((column) => Buffer.from(column.value(row)).toString('hex')),
        ].join('|'),
      )
    }
    first += chunk.rows
  }
  return { ...countersOf(view), rows, values: valuesOf(view.values) }
}

/** The part of a description that is known without opening the table: compare that of `Index.info` with that of a description. */
export function countersOf(info: Omit<TableInfo, 'id'>): Omit<TableInfo, 'id'> {
  const { uidValidity, uidNext, highestModSeq, count, unseen, deleted, bytes, digest } = info
  return { uidValidity, uidNext, highestModSeq, count, unseen, deleted, bytes, digest }
}

/**
 * What is wrong with an answer of `expungedSince(modSeq)`: undefined if nothing is. Every UID expunged since is in it, and that of no
 * row. UIDs that were gone before, or never were, may be: rows that follow each other are expunged as one range.
 */
export function expungedFault(table: ModelTable, modSeq: number, answer: UidSet | undefined): string | undefined {
  if (modSeq < table.horizon) return answer === undefined ? undefined : `history begins at ${table.horizon} only`
  if (answer === undefined) return `history begins at ${table.horizon}`
  const gone = UidSet.of(...[...table.expunged].filter(([, at]) => at > modSeq).map(([uid]) => uid))
  const lacking = gone.subtract(answer)
  if (!lacking.isEmpty) return `${lacking.toString()} are not told of`
  const alive = answer.intersect(UidSet.of(...table.rows.keys()))
  if (!alive.isEmpty) return `${alive.toString()} are there`
  return answer.isEmpty || answer.last < table.uidNext ? undefined : `${answer.last} is still to come`
}

function valuesOf(values: ReadonlyMap<string, Uint8Array>): string {
  return [...values]
    .map(([key, bytes]) => `${key}=${Buffer.from(bytes).toString('hex')}`)
    .sort()
    .join(' ')
}

/** Whether the conditions of an expunge keep a row. */
function stays(
  { onlyDeleted = false, onlyZero }: { readonly onlyDeleted?: boolean; readonly onlyZero?: string },
  { flags, columns }: ModelRow,
): boolean {
  if (onlyDeleted && (flags & FLAG_DELETED) === 0) return true
  return onlyZero !== undefined && columns.get(onlyZero)!.some((byte) => byte !== 0)
}

function sorted(rows: ReadonlyMap<number, ModelRow>): [number, ModelRow][] {
  // UIDs are only ever appended, so insertion order is ascending.
  return [...rows]
}

function copyOf(table: ModelTable): ModelTable {
  return {
    ...table,
    rows: new Map([...table.rows].map(([uid, row]) => [uid, { ...row, columns: new Map(row.columns) }])),
    values: new Map(table.values),
    expunged: new Map(table.expunged),
  }
}

function number(of: number, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes)
  for (let i = 0; i < bytes && of > 0; i++) {
    out[i] = of % 256
    of = Math.floor(of / 256)
  }
  return out
}

function value(bytes: Uint8Array): number {
  let of = 0
  for (let i = bytes.length - 1; i >= 0; i--) of = of * 256 + bytes[i]!
  return of
}
