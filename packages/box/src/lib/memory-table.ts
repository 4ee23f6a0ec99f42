/**
 * A box's table in memory, and mailboxes beside it, with transactions: what a format's tests use in place of a store.
 *
 * Each `process` sees the rows as they were when it last committed or refreshed, as processes that share an index do.
 */
import type { AttachmentTransaction } from './attachments.ts'
import type {
  Box,
  BoxColumn,
  BoxColumnSpec,
  BoxHost,
  BoxMailbox,
  BoxMailboxView,
  BoxNamingTransaction,
  BoxPending,
  BoxPurgeTransaction,
  BoxRef,
  BoxSaved,
  BoxTableView,
} from './contract.ts'
import { BOX_REF_COLUMN, BOX_USES_COLUMN } from './contract.ts'

type Row = ReadonlyMap<string, Uint8Array>
interface State {
  readonly rows: ReadonlyMap<number, Row>
  readonly values: ReadonlyMap<string, Uint8Array>
  readonly next: number
}
interface MailboxState extends State {
  readonly mailbox: BoxMailbox
}
interface World {
  readonly box: State
  /** By GUID. */
  readonly mailboxes: ReadonlyMap<string, MailboxState>
}

export type MemoryTransaction = AttachmentTransaction & BoxPurgeTransaction & BoxNamingTransaction

/** One opener of the tables. */
export interface MemoryProcess {
  readonly host: BoxHost
  /** Runs `body` and applies what it asked for, all or (if it throws) nothing. */
  commit(body: (tx: MemoryTransaction) => void): Promise<void>
  /** Commits a row with one use for each; resolves to their references. */
  keep(...saved: readonly BoxSaved[]): Promise<BoxRef[]>
  /** Sets the uses of rows, as expunging or copying messages does. */
  setUses(refs: readonly BoxRef[], uses: number): Promise<void>
  /** What a store does with a box: one transaction each, the box told of it, and its names given. */
  readonly mail: MemoryMail
}

export interface MemoryMail {
  create(guid: string, name?: string): Promise<BoxMailbox>
  /** The rows of a mailbox as this process sees them: references by UID. */
  rows(guid: string): ReadonlyMap<number, BoxRef>
  /** Each message into all of the mailboxes, the first of which was its `origin`. */
  keep(box: Box, saved: readonly BoxSaved[], into: readonly string[]): Promise<void>
  copy(box: Box, from: string, uids: readonly number[], to: string): Promise<void>
  move(box: Box, from: string, uids: readonly number[], to: string): Promise<void>
  expunge(box: Box, from: string, uids: readonly number[]): Promise<void>
  remove(box: Box, guid: string): Promise<void>
}

export interface MemoryTable {
  process(): MemoryProcess
  /** Changes a row behind everybody's back, as damage does. */
  overwrite(ref: BoxRef, column: string, value: number): void
  /** Called before each transaction is applied; what it throws fails the transaction. */
  onTransact: (() => void) | undefined
  /** Called once a transaction is applied, before whoever asked hears of it. */
  onApplied: (() => void) | undefined
}

const TABLE = 'box'
const MAILBOX = 'mailbox-'
const REF_COLUMNS: readonly BoxColumnSpec[] = [{ name: BOX_REF_COLUMN, bytes: 4 }]

/** Rows of one table while a transaction changes them. */
interface Draft {
  readonly rows: Map<number, Row>
  readonly values: Map<string, Uint8Array>
  next: number
}
interface MemoryPending {
  uid: number
  assigned: number
}

export function memoryTable(format: readonly BoxColumnSpec[]): MemoryTable {
  const columns = [...format, { name: BOX_USES_COLUMN, bytes: 4 }]
  let shared: World = { box: { rows: new Map(), values: new Map(), next: 1 }, mailboxes: new Map() }

  const table: MemoryTable = {
    onTransact: undefined,
    onApplied: undefined,
    overwrite(ref, column, value) {
      const rows = new Map(shared.box.rows)
      rows.set(ref, new Map([...rows.get(ref)!, [column, encode(columns, column, value)]]))
      shared = { ...shared, box: { ...shared.box, rows } }
    },
    process() {
      let seen = shared
      let view = viewOf(seen.box, columns)
      const look = (): void => {
        seen = shared
        view = viewOf(seen.box, columns)
      }
      const apply = (body: (tx: Draftings) => void, more?: (world: Map<string, MailboxState>) => void): void => {
        const world = new Draftings(shared, columns)
        body(world)
        table.onTransact?.()
        const next = world.finish()
        const mailboxes = new Map(next.mailboxes)
        more?.(mailboxes)
        shared = { box: next.box, mailboxes }
        look()
        table.onApplied?.()
      }
      const commit = async (body: (tx: MemoryTransaction) => void): Promise<void> => {
        await Promise.resolve()
        apply(body)
      }
      return {
        commit,
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
        mail: memoryMail(() => seen, apply),
        host: {
          table: {
            id: TABLE,
            get view() {
              return view
            },
          },
          transact: commit,
          refresh: () => {
            if (seen !== shared) look()
            return Promise.resolve()
          },
          mailboxes: {
            find: (guid) => seen.mailboxes.get(guid)?.mailbox,
            list: () => [...seen.mailboxes.values()].map(({ mailbox, rows }) => ({ ...mailbox, count: rows.size })),
            open: (guid) =>
              Promise.resolve(
                seen.mailboxes.has(guid)
                  ? {
                      get view(): BoxMailboxView {
                        const state = seen.mailboxes.get(guid) ?? { rows: new Map(), values: new Map(), next: 1 }
                        return { ...viewOf(state, REF_COLUMNS), uidNext: state.next }
                      },
                      [Symbol.asyncDispose]: () => Promise.resolve(),
                    }
                  : undefined,
              ),
          },
        },
      }
    },
  }
  return table
}

/** The tables as one transaction changes them. */
class Draftings implements MemoryTransaction {
  readonly #before: World
  readonly #columns: readonly BoxColumnSpec[]
  readonly #drafts = new Map<string, Draft>()
  readonly #pending: MemoryPending[] = []

  constructor(before: World, columns: readonly BoxColumnSpec[]) {
    this.#before = before
    this.#columns = columns
  }

  append(
    id: string,
    row: { readonly columns: Readonly<Record<string, Uint8Array | number | BoxPending>> },
  ): BoxPending {
    const draft = this.#draft(id)
    const columns = this.#columnsOf(id)
    const cells = new Map<string, Uint8Array>(columns.map(({ name, bytes }) => [name, new Uint8Array(bytes)]))
    for (const [name, value] of Object.entries(row.columns)) cells.set(name, encode(columns, name, resolved(value)))
    const one = { uid: 0, assigned: draft.next }
    this.#pending.push(one)
    draft.rows.set(draft.next++, cells)
    return one
  }
  setColumn(id: string, column: string, uid: number | BoxPending, value: Uint8Array | number | BoxPending): void {
    const { rows } = this.#draft(id)
    const at = resolved(uid) as number
    const row = rows.get(at)
    if (row === undefined) throw new Error(`setColumn of row ${at}, which is not there`)
    rows.set(at, new Map([...row, [column, encode(this.#columnsOf(id), column, resolved(value))]]))
  }
  increment(id: string, column: string, uid: number, by: number): void {
    const row = this.#draft(id).rows.get(uid)
    if (row === undefined) throw new Error(`increment of row ${uid}, which is not there`)
    const sum = Buffer.from(row.get(column)!).readUInt32LE() + by
    if (sum < 0) throw new Error(`${column} of row ${uid} would be ${sum}`)
    this.setColumn(id, column, uid, sum)
  }
  dropUnused(id: string, refs: readonly BoxRef[], { all = false }: { readonly all?: boolean } = {}): void {
    const { rows } = this.#draft(id)
    for (const ref of refs) {
      const isUnused =
        rows
          .get(ref)
          ?.get(BOX_USES_COLUMN)
          ?.every((byte) => byte === 0) === true
      if (isUnused) rows.delete(ref)
      else if (all) throw Object.assign(new Error(`row ${ref} is to stay`), { code: 'INDEX_CONFLICT' })
    }
  }
  setValue(id: string, key: string, value: Uint8Array | undefined): void {
    const { values } = this.#draft(id)
    if (value === undefined) values.delete(key)
    else values.set(key, Uint8Array.from(value))
  }

  expectValue(id: string, key: string, value: Uint8Array | undefined): void {
    const state = id === TABLE ? this.#before.box : this.#before.mailboxes.get(id.slice(MAILBOX.length))
    const found = state?.values.get(key)
    const isSame = found === undefined || value === undefined ? found === value : Buffer.compare(found, value) === 0
    if (!isSame) throw new Error(`the value ${key} is another`)
  }

  addUses(by: ReadonlyMap<BoxRef, number>): void {
    for (const [ref, count] of by) this.increment(TABLE, BOX_USES_COLUMN, ref, count)
  }

  finish(): World {
    for (const one of this.#pending) one.uid = one.assigned
    const mailboxes = new Map(this.#before.mailboxes)
    let { box } = this.#before
    for (const [id, draft] of this.#drafts)
      if (id === TABLE) box = draft
      else
        mailboxes.set(id.slice(MAILBOX.length), { ...draft, mailbox: mailboxes.get(id.slice(MAILBOX.length))!.mailbox })
    return { box, mailboxes }
  }

  #draft(id: string): Draft {
    let draft = this.#drafts.get(id)
    if (draft === undefined) {
      const state = id === TABLE ? this.#before.box : this.#before.mailboxes.get(id.slice(MAILBOX.length))
      if (state === undefined) throw new TypeError(`no table ${id}`)
      draft = { rows: new Map(state.rows), values: new Map(state.values), next: state.next }
      this.#drafts.set(id, draft)
    }
    return draft
  }
  #columnsOf(id: string): readonly BoxColumnSpec[] {
    return id === TABLE ? this.#columns : REF_COLUMNS
  }
}

function resolved(value: Uint8Array | number | BoxPending): Uint8Array | number {
  return typeof value === 'number' || value instanceof Uint8Array ? value : (value as MemoryPending).assigned
}

function encode(columns: readonly BoxColumnSpec[], name: string, value: Uint8Array | number): Uint8Array {
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

function refOf(row: Row): BoxRef {
  return Buffer.from(row.get(BOX_REF_COLUMN)!).readUInt32LE()
}

function memoryMail(
  world: () => World,
  apply: (body: (tx: Draftings) => void, more?: (mailboxes: Map<string, MailboxState>) => void) => void,
): MemoryMail {
  const mailboxOf = (guid: string): BoxMailbox => world().mailboxes.get(guid)!.mailbox
  const rowsOf = (guid: string): ReadonlyMap<number, Row> => world().mailboxes.get(guid)?.rows ?? new Map<number, Row>()
  /** `begin` decides what to write into the transaction before it is made: its wishes are kept, and done in it. */
  const names = async (box: Box, mailboxes: readonly string[]) => {
    const wishes: ((tx: MemoryTransaction) => void)[] = []
    const tx: BoxNamingTransaction = {
      append: () => {
        throw new TypeError('nothing is appended by names')
      },
      setColumn: (...args) => wishes.push((real) => real.setColumn(...args)),
      setValue: (...args) => wishes.push((real) => real.setValue(...args)),
    }
    const turn = await box.naming?.begin(tx, mailboxes.map(mailboxOf))
    return { turn, wish: (real: MemoryTransaction) => wishes.splice(0).forEach((one) => one(real)) }
  }
  const counted = (refs: Iterable<BoxRef>, by: number, into = new Map<BoxRef, number>()): Map<BoxRef, number> => {
    for (const ref of refs) into.set(ref, (into.get(ref) ?? 0) + by)
    return into
  }
  const transfer = async (box: Box, from: string, uids: readonly number[], to: string, gone: boolean) => {
    const { turn, wish } = await names(box, [from, to])
    const refs = uids.map((uid) => refOf(rowsOf(from).get(uid)!))
    const copies: BoxPending[] = []
    apply(
      (tx) => {
        for (const ref of refs) copies.push(tx.append(MAILBOX + to, { columns: { [BOX_REF_COLUMN]: ref } }))
        if (!gone) tx.addUses(counted(refs, 1))
        wish(tx)
      },
      (mailboxes) => {
        if (gone) drop(mailboxes, from, uids)
      },
    )
    for (const [i, { uid }] of copies.entries()) turn?.appended(mailboxOf(to), uid, refs[i]!)
    if (gone) turn?.expunged(mailboxOf(from), uids)
    await turn?.settle()
  }
  return {
    // oxlint-disable-next-line require-await
    create: async (guid, name = `mailbox ${guid.slice(0, 4)}`) => {
      const mailbox: BoxMailbox = { guid, name, uidValidity: 1000 + world().mailboxes.size }
      apply(
        () => {},
        (mailboxes) => mailboxes.set(guid, { mailbox, rows: new Map(), values: new Map(), next: 1 }),
      )
      return mailbox
    },
    rows: (guid) => new Map([...rowsOf(guid)].map(([uid, row]) => [uid, refOf(row)])),
    keep: async (box, saved, into) => {
      const { turn, wish } = await names(box, into)
      const placed: [message: BoxPending, rows: BoxPending[]][] = []
      apply((tx) => {
        for (const one of saved) {
          const message = one.place(tx)
          tx.setColumn(TABLE, BOX_USES_COLUMN, message, into.length)
          const rows = into.map((guid) =>
            tx.append(MAILBOX + guid, { columns: { [BOX_REF_COLUMN]: message as never } }),
          )
          turn?.first(message, rows[0]!)
          placed.push([message, rows])
        }
        wish(tx)
      })
      for (const [{ uid: ref }, rows] of placed)
        for (const [i, { uid }] of rows.entries()) turn?.appended(mailboxOf(into[i]!), uid, ref)
      await turn?.settle()
    },
    copy: (box, from, uids, to) => transfer(box, from, uids, to, false),
    move: (box, from, uids, to) => transfer(box, from, uids, to, true),
    expunge: async (box, from, uids) => {
      const { turn, wish } = await names(box, [from])
      const refs = uids.map((uid) => refOf(rowsOf(from).get(uid)!))
      apply(
        (tx) => {
          tx.addUses(counted(refs, -1))
          wish(tx)
        },
        (mailboxes) => drop(mailboxes, from, uids),
      )
      turn?.expunged(mailboxOf(from), uids)
      await turn?.settle()
    },
    remove: async (box, guid) => {
      const { turn, wish } = await names(box, [guid])
      const mailbox = mailboxOf(guid)
      const refs = [...rowsOf(guid).values()].map(refOf)
      apply(
        (tx) => {
          tx.addUses(counted(refs, -1))
          wish(tx)
        },
        (mailboxes) => mailboxes.delete(guid),
      )
      turn?.removed(mailbox)
      await turn?.settle()
    },
  }
}

function drop(mailboxes: Map<string, MailboxState>, guid: string, uids: readonly number[]): void {
  const state = mailboxes.get(guid)!
  const rows = new Map(state.rows)
  for (const uid of uids) rows.delete(uid)
  mailboxes.set(guid, { ...state, rows })
}

function viewOf(state: State, columns: readonly BoxColumnSpec[]): BoxTableView {
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
    count: uids.length,
    uid: (row) => uids[row]!,
    rowOf: (uid) => rowByUid.get(uid) ?? -1,
    extension: (name) => byName.get(name),
    values: state.values,
  }
}
