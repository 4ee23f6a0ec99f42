/**
 * A box's table in memory, with transactions: what a format's tests use in place of an index.
 *
 * Each `process` sees the rows as they were when it last committed or refreshed, as processes that share an index do.
 */
import type {
  BoxColumn,
  BoxColumnSpec,
  BoxHost,
  BoxPending,
  BoxPurgeTransaction,
  BoxRef,
  BoxSaved,
  BoxTableView,
  BoxTransaction,
} from './contract.ts'
import { BOX_USES_COLUMN } from './contract.ts'

type Row = ReadonlyMap<string, Uint8Array>
interface State {
  readonly rows: ReadonlyMap<number, Row>
  readonly values: ReadonlyMap<string, Uint8Array>
  readonly next: number
}

/** One opener of the table. */
export interface MemoryProcess {
  readonly host: BoxHost
  /** Runs `body` and applies what it asked for, all or (if it throws) nothing. */
  commit(body: (tx: BoxTransaction & BoxPurgeTransaction) => void): Promise<void>
  /** Commits a row with one use for each; resolves to their references. */
  keep(...saved: readonly BoxSaved[]): Promise<BoxRef[]>
  /** Sets the uses of rows, as expunging or copying messages does. */
  setUses(refs: readonly BoxRef[], uses: number): Promise<void>
}

export interface MemoryTable {
  process(): MemoryProcess
  /** Changes a row behind everybody's back, as damage does. */
  overwrite(ref: BoxRef, column: string, value: number): void
  /** Called before each transaction is applied; what it throws fails the transaction. */
  onTransact: (() => void) | undefined
}

export function memoryTable(format: readonly BoxColumnSpec[]): MemoryTable {
  const columns = [...format, { name: BOX_USES_COLUMN, bytes: 4 }]
  let shared: State = { rows: new Map(), values: new Map(), next: 1 }

  const encode = (name: string, value: Uint8Array | number): Uint8Array => {
    const spec = columns.find((column) => column.name === name)
    if (spec === undefined) throw new TypeError(`no column ${name}`)
    if (typeof value === 'number') {
      const out = Buffer.alloc(spec.bytes)
      out.writeUIntLE(value, 0, spec.bytes)
      return out
    }
    if (value.length !== spec.bytes) throw new TypeError(`${name} has ${spec.bytes} bytes, not ${value.length}`)
    return Uint8Array.from(value)
  }

  const table: MemoryTable = {
    onTransact: undefined,
    overwrite(ref, column, value) {
      const rows = new Map(shared.rows)
      rows.set(ref, new Map([...rows.get(ref)!, [column, encode(column, value)]]))
      shared = { ...shared, rows }
    },
    process() {
      let view = viewOf(shared, columns)
      const commit = (body: (tx: BoxTransaction & BoxPurgeTransaction) => void): Promise<void> => {
        const rows = new Map(shared.rows)
        const values = new Map(shared.values)
        let next = shared.next
        const pending: { uid: number }[] = []
        const assigned: number[] = []
        body({
          append(id, row): BoxPending {
            checkId(id)
            const cells = new Map<string, Uint8Array>(columns.map(({ name, bytes }) => [name, new Uint8Array(bytes)]))
            for (const [name, value] of Object.entries(row.columns)) cells.set(name, encode(name, value))
            const one = { uid: 0 }
            pending.push(one)
            assigned.push(next)
            rows.set(next, cells)
            next++
            return one
          },
          setColumn(id, column, uid, value) {
            checkId(id)
            const row = rows.get(uid)
            if (row === undefined) throw new Error(`setColumn of row ${uid}, which is not there`)
            rows.set(uid, new Map([...row, [column, encode(column, value)]]))
          },
          dropUnused(id, refs) {
            checkId(id)
            for (const ref of refs)
              if (
                rows
                  .get(ref)
                  ?.get(BOX_USES_COLUMN)
                  ?.every((byte) => byte === 0) === true
              )
                rows.delete(ref)
          },
          setValue(id, key, value) {
            checkId(id)
            if (value === undefined) values.delete(key)
            else values.set(key, Uint8Array.from(value))
          },
        })
        table.onTransact?.()
        for (const [i, one] of pending.entries()) one.uid = assigned[i]!
        shared = { rows, values, next }
        view = viewOf(shared, columns)
        return Promise.resolve()
      }
      return {
        commit: async (body) => commit(body),
        keep: async (...saved) => {
          const placed: BoxPending[] = []
          await commit((tx) => {
            for (const one of saved) placed.push(one.place(tx))
          })
          const refs = placed.map(({ uid }) => uid)
          await commit((tx) => {
            for (const ref of refs) tx.setColumn(TABLE, BOX_USES_COLUMN, ref, 1)
          })
          return refs
        },
        setUses: async (refs, uses) =>
          commit((tx) => {
            for (const ref of refs) tx.setColumn(TABLE, BOX_USES_COLUMN, ref, uses)
          }),
        host: {
          table: {
            id: TABLE,
            get view() {
              return view
            },
          },
          transact: async (body) => commit(body),
          refresh: () => {
            if ((view as MemoryView).state !== shared) view = viewOf(shared, columns)
            return Promise.resolve()
          },
        },
      }
    },
  }
  return table
}

const TABLE = 'box'

function checkId(id: string): void {
  if (id !== TABLE) throw new TypeError(`no table ${id}`)
}

interface MemoryView extends BoxTableView {
  readonly state: State
}

function viewOf(state: State, columns: readonly BoxColumnSpec[]): MemoryView {
  const uids = [...state.rows.keys()].sort((a, b) => a - b)
  const rowByUid = new Map(uids.map((uid, row) => [uid, row]))
  const byName = new Map<string, BoxColumn>()
  for (const { name } of columns) {
    const value = (row: number): Uint8Array => state.rows.get(uids[row]!)!.get(name)!
    byName.set(name, {
      value,
      number: (row) => {
        let number = 0
        for (const byte of value(row).toReversed()) number = number * 256 + byte
        return number
      },
    })
  }
  return {
    state,
    count: uids.length,
    uid: (row) => uids[row]!,
    rowOf: (uid) => rowByUid.get(uid) ?? -1,
    extension: (name) => byName.get(name),
    values: state.values,
  }
}
