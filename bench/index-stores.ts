/**
 * One message store, three times: over `@mailstead/index`, node:sqlite and lmdb. Each keeps the same of a message (UID, flags,
 * keyword, modseq, GUID, time, size), the counters of its mailbox and what was expunged, in one durable transaction a
 * change, and opens a mailbox as what a session needs: the columns of all messages, in order, as they were then.
 *
 * SQLite runs in WAL mode with synchronous=FULL; every change is a transaction of its own, since it has no way to let
 * several wait together. lmdb resolves a transaction when it was flushed, and lets those that wait share one commit.
 */
import { DatabaseSync, type StatementSync } from 'node:sqlite'
import { posixFs } from '@mailstead/fs/posix'
import { FLAG_DELETED, FLAG_SEEN, openIndex, type TableView } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { open as openLmdb, type RootDatabase } from 'lmdb'

export type StoreName = 'ours' | 'sqlite' | 'lmdb'
export const STORE_NAMES: readonly StoreName[] = ['ours', 'sqlite', 'lmdb']

export interface Counters {
  readonly uidNext: number
  readonly modSeq: number
  readonly count: number
  readonly unseen: number
  readonly deleted: number
  readonly bytes: number
}

/** Every message of a mailbox at one time. */
export interface MailboxView {
  readonly count: number
  /** A number that depends on UID, flags, keyword and modseq (less `from`) of every row: what tests compare. */
  sum(from: number): number
  /** UIDs of the messages without a flag. */
  without(flag: number): Uint32Array
}

export interface MailStore extends AsyncDisposable {
  /** Creates mailboxes `first` … `end` - 1, empty, in one transaction. */
  create(first: number, end: number): Promise<void>
  /** Appends messages, in one transaction. */
  append(mailbox: number, count: number): Promise<void>
  /** Sets or clears a flag of UIDs `first` … `last`, in one transaction. */
  flag(mailbox: number, first: number, last: number, flag: number, set: boolean): Promise<void>
  /** Expunges one message; says whether it was there. */
  expunge(mailbox: number, uid: number): Promise<boolean>
  /** Opens a mailbox, or looks at it again: as it is now. */
  view(mailbox: number): Promise<MailboxView>
  /** Counters alone. */
  counters(mailbox: number): Promise<Counters>
  /** Takes in what other processes committed. */
  refresh(): Promise<void>
  /** Brings the files into the form in which a store at rest has them: checkpoint. */
  settle(): Promise<void>
}

/** What a made message is: the same for every store. Every third is seen, every fifth has a keyword. */
export function madeFlags(uid: number): number {
  return uid % 3 === 0 ? FLAG_SEEN : 0
}

function madeKeyword(uid: number): boolean {
  return uid % 5 === 0
}

export function madeSize(uid: number): number {
  return 1000 + ((uid * 7919) % 50_000)
}

const FIRST_TIME = 1_712_345_678
const GUID_BYTES = 16

function madeGuid(mailbox: number, uid: number): Buffer {
  const guid = Buffer.alloc(GUID_BYTES)
  guid.writeUInt32LE(mailbox, 0)
  guid.writeUInt32LE(uid, 4)
  guid.writeUInt32LE(Math.imul(uid, 2_654_435_761) >>> 0, 8)
  return guid
}

/** Mixes one row into a sum. The same for all stores. */
function mixed(sum: number, uid: number, flags: number, keyword: boolean, modSeq: number): number {
  return (Math.imul(sum, 31) + uid * 7 + flags * 131 + (keyword ? 3 : 0) + modSeq * 17) >>> 0
}

export async function openStore(name: StoreName, directory: string): Promise<MailStore> {
  if (name === 'ours') return openOurs(directory)
  return name === 'sqlite' ? new SqliteStore(`${directory}/mail.sqlite`) : new LmdbStore(`${directory}/mail.lmdb`)
}

const KEYWORD = '$label1'

function tableOf(mailbox: number): string {
  return `mailbox-${mailbox}`
}

async function openOurs(directory: string): Promise<MailStore> {
  const fs = await posixFs(directory)
  const index = await openIndex(fs, 'index', { create: true })
  const opened = new Map<number, Promise<TableView>>()
  const tables: AsyncDisposable[] = []
  const views = new Map<number, () => TableView>()
  /** UIDs after those of appends that are under way. */
  const expected = new Map<number, number>()

  async function firstView(mailbox: number): Promise<TableView> {
    const table = await index.open(tableOf(mailbox))
    if (table === undefined) throw new Error(`no mailbox ${mailbox}`)
    tables.push(table)
    views.set(mailbox, () => table.view)
    return table.view
  }

  return {
    async create(first, end) {
      await using tx = index.begin()
      for (let mailbox = first; mailbox < end; mailbox++)
        tx.createTable({
          id: tableOf(mailbox),
          uidValidity: 1,
          columns: [
            { name: 'guid', bytes: GUID_BYTES },
            { name: 'received', bytes: 6 },
            { name: 'size', bytes: 6, summed: true },
          ],
        })
      await tx.commit()
    },
    async append(mailbox, count) {
      const id = tableOf(mailbox)
      // What is made depends on the UID, which is known after the commit: no other process appends.
      const first = Math.max(index.info(id)!.uidNext, expected.get(mailbox) ?? 0)
      expected.set(mailbox, first + count)
      await using tx = index.begin()
      for (let uid = first; uid < first + count; uid++)
        tx.append(id, {
          flags: madeFlags(uid),
          ...(madeKeyword(uid) ? { keywords: [KEYWORD] } : {}),
          columns: { guid: madeGuid(mailbox, uid), received: FIRST_TIME + uid, size: madeSize(uid) },
        })
      await tx.commit()
    },
    async flag(mailbox, first, last, flag, set) {
      await using tx = index.begin()
      tx.changeFlags(tableOf(mailbox), UidSet.range(first, last), set ? { add: flag } : { remove: flag })
      await tx.commit()
    },
    async expunge(mailbox, uid) {
      await using tx = index.begin()
      const outcome = tx.expunge(tableOf(mailbox), UidSet.of(uid))
      await tx.commit()
      return outcome.expunged.size === 1
    },
    async view(mailbox) {
      const again = views.get(mailbox)
      if (again !== undefined) return oursView(again())
      let opening = opened.get(mailbox)
      if (opening === undefined) {
        opening = firstView(mailbox)
        opened.set(mailbox, opening)
      }
      return oursView(await opening)
    },
    async counters(mailbox) {
      const { uidNext, highestModSeq: modSeq, count, unseen, deleted, bytes } = index.info(tableOf(mailbox))!
      return { uidNext, modSeq, count, unseen, deleted, bytes }
    },
    refresh: () => index.refresh(),
    async settle() {
      await index.checkpoint()
    },
    async [Symbol.asyncDispose]() {
      for (const table of tables) await table[Symbol.asyncDispose]()
      await index[Symbol.asyncDispose]()
      await fs[Symbol.asyncDispose]()
    },
  }
}

function oursView(view: TableView): MailboxView {
  return {
    count: view.count,
    sum(from) {
      let sum = 0
      for (const { rows, uids, flags, modSeqs, keywordSets } of view.chunks)
        for (let at = 0; at < rows; at++)
          sum = mixed(sum, uids[at]!, flags[at]!, view.keywordSets[keywordSets[at]!]!.length > 0, modSeqs[at]! - from)
      return sum
    },
    without(flag) {
      const found = new Uint32Array(view.count)
      let end = 0
      for (const { rows, uids, flags } of view.chunks)
        for (let at = 0; at < rows; at++) if ((flags[at]! & flag) === 0) found[end++] = uids[at]!
      return found.slice(0, end)
    },
  }
}

/** What a session over a peer holds: columns that grow as they are read. */
class Columns implements MailboxView {
  count = 0
  uids: Uint32Array
  flags: Uint8Array
  keywords: Uint8Array
  modSeqs: Float64Array

  constructor(rows: number) {
    this.uids = new Uint32Array(rows)
    this.flags = new Uint8Array(rows)
    this.keywords = new Uint8Array(rows)
    this.modSeqs = new Float64Array(rows)
  }

  add(uid: number, flags: number, keywords: number, modSeq: number): void {
    const at = this.count++
    this.uids[at] = uid
    this.flags[at] = flags
    this.keywords[at] = keywords
    this.modSeqs[at] = modSeq
  }

  sum(from: number): number {
    let sum = 0
    for (let at = 0; at < this.count; at++)
      sum = mixed(sum, this.uids[at]!, this.flags[at]!, this.keywords[at] !== 0, this.modSeqs[at]! - from)
    return sum
  }

  without(flag: number): Uint32Array {
    const found = new Uint32Array(this.count)
    let end = 0
    for (let at = 0; at < this.count; at++) if ((this.flags[at]! & flag) === 0) found[end++] = this.uids[at]!
    return found.slice(0, end)
  }
}

const SCHEMA = `
  PRAGMA journal_mode = WAL;
  PRAGMA synchronous = FULL;
  PRAGMA busy_timeout = 30000;
  CREATE TABLE IF NOT EXISTS mailboxes (
    id INTEGER PRIMARY KEY, uidnext INTEGER NOT NULL, modseq INTEGER NOT NULL,
    count INTEGER NOT NULL, unseen INTEGER NOT NULL, deleted INTEGER NOT NULL, bytes INTEGER NOT NULL);
  CREATE TABLE IF NOT EXISTS messages (
    mailbox INTEGER NOT NULL, uid INTEGER NOT NULL, flags INTEGER NOT NULL, modseq INTEGER NOT NULL,
    keywords INTEGER NOT NULL, guid BLOB NOT NULL, received INTEGER NOT NULL, size INTEGER NOT NULL,
    PRIMARY KEY (mailbox, uid)) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS expunged (
    mailbox INTEGER NOT NULL, uid INTEGER NOT NULL, modseq INTEGER NOT NULL,
    PRIMARY KEY (mailbox, uid)) WITHOUT ROWID;
`

const UNSEEN = `(flags & ${FLAG_SEEN} = 0)`
const DELETED = `(flags & ${FLAG_DELETED} <> 0)`

class SqliteStore implements MailStore {
  readonly #db: DatabaseSync
  readonly #statements = new Map<string, StatementSync>()

  constructor(path: string) {
    this.#db = new DatabaseSync(path)
    this.#db.exec(SCHEMA)
  }

  #sql(text: string): StatementSync {
    let statement = this.#statements.get(text)
    if (statement === undefined) {
      statement = this.#db.prepare(text)
      this.#statements.set(text, statement)
    }
    return statement
  }

  #atOnce<T>(change: () => T): T {
    this.#sql('BEGIN IMMEDIATE').run()
    try {
      const result = change()
      this.#sql('COMMIT').run()
      return result
    } catch (error) {
      this.#sql('ROLLBACK').run()
      throw error
    }
  }

  #counters(mailbox: number): Record<'uidnext' | 'modseq' | 'count' | 'unseen' | 'deleted' | 'bytes', number> {
    return this.#sql('SELECT uidnext, modseq, count, unseen, deleted, bytes FROM mailboxes WHERE id = ?').get(
      mailbox,
    ) as never
  }

  async create(first: number, end: number): Promise<void> {
    this.#atOnce(() => {
      for (let mailbox = first; mailbox < end; mailbox++)
        this.#sql('INSERT INTO mailboxes VALUES (?, 1, 1, 0, 0, 0, 0)').run(mailbox)
    })
  }

  async append(mailbox: number, count: number): Promise<void> {
    this.#atOnce(() => {
      const { uidnext: first, modseq } = this.#counters(mailbox)
      const insert = this.#sql('INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?)')
      let unseen = 0
      let bytes = 0
      for (let uid = first; uid < first + count; uid++) {
        const flags = madeFlags(uid)
        const size = madeSize(uid)
        if ((flags & FLAG_SEEN) === 0) unseen++
        bytes += size
        const keywords = madeKeyword(uid) ? 1 : 0
        insert.run(mailbox, uid, flags, modseq + 1, keywords, madeGuid(mailbox, uid), FIRST_TIME + uid, size)
      }
      this.#sql(
        'UPDATE mailboxes SET uidnext = uidnext + ?1, modseq = modseq + 1, count = count + ?1, unseen = unseen + ?2, bytes = bytes + ?3 WHERE id = ?4',
      ).run(count, unseen, bytes, mailbox)
    })
  }

  async flag(mailbox: number, first: number, last: number, flag: number, set: boolean): Promise<void> {
    this.#atOnce(() => {
      const { modseq } = this.#counters(mailbox)
      const differs = `mailbox = ?1 AND uid BETWEEN ?2 AND ?3 AND flags & ?4 ${set ? '= 0' : '<> 0'}`
      const { changes } = this.#sql(
        `UPDATE messages SET flags = flags ${set ? '| ?4' : '& ~?4'}, modseq = ?5 WHERE ${differs}`,
      ).run(mailbox, first, last, flag, modseq + 1)
      const by = set ? Number(changes) : -Number(changes)
      const unseen = flag === FLAG_SEEN ? -by : 0
      const deleted = flag === FLAG_DELETED ? by : 0
      if (by !== 0)
        this.#sql(
          'UPDATE mailboxes SET modseq = modseq + 1, unseen = unseen + ?, deleted = deleted + ? WHERE id = ?',
        ).run(unseen, deleted, mailbox)
    })
  }

  async expunge(mailbox: number, uid: number): Promise<boolean> {
    return this.#atOnce(() => {
      const gone = this.#sql(
        `DELETE FROM messages WHERE mailbox = ? AND uid = ? RETURNING size, ${UNSEEN} AS unseen, ${DELETED} AS deleted`,
      ).get(mailbox, uid) as { size: number; unseen: number; deleted: number } | undefined
      if (gone === undefined) return false
      this.#sql(
        'UPDATE mailboxes SET modseq = modseq + 1, count = count - 1, unseen = unseen - ?, deleted = deleted - ?, bytes = bytes - ? WHERE id = ?',
      ).run(gone.unseen, gone.deleted, gone.size, mailbox)
      this.#sql('INSERT INTO expunged SELECT id, ?, modseq FROM mailboxes WHERE id = ?').run(uid, mailbox)
      return true
    })
  }

  async view(mailbox: number): Promise<MailboxView> {
    // One state of both: a read transaction.
    this.#sql('BEGIN').run()
    try {
      const columns = new Columns(this.#counters(mailbox).count)
      const select = this.#sql('SELECT uid, flags, keywords, modseq FROM messages WHERE mailbox = ? ORDER BY uid')
      // Arrays are what node:sqlite makes with the least work.
      select.setReturnArrays(true)
      for (const row of select.iterate(mailbox) as Iterable<unknown> as Iterable<[number, number, number, number]>)
        columns.add(row[0], row[1], row[2], row[3])
      return columns
    } finally {
      this.#sql('COMMIT').run()
    }
  }

  async counters(mailbox: number): Promise<Counters> {
    const { uidnext: uidNext, modseq: modSeq, count, unseen, deleted, bytes } = this.#counters(mailbox)
    return { uidNext, modSeq, count, unseen, deleted, bytes }
  }

  /** Every read looks at the file. */
  async refresh(): Promise<void> {}

  async settle(): Promise<void> {
    this.#db.exec('PRAGMA wal_checkpoint(TRUNCATE)')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#db.close()
  }
}

/** Offsets in the value of a message, and of a mailbox (six numbers of 8 bytes in the order of `Counters`). */
const FLAGS_AT = 0
const KEYWORDS_AT = 1
const MODSEQ_AT = 8
const RECEIVED_AT = 16
const SIZE_AT = 24
const GUID_AT = 32
const ROW_BYTES = GUID_AT + GUID_BYTES
const COUNTERS_BYTES = 6 * 8
/** After all UIDs, so that a range of messages has none of these. */
const COUNTERS_KEY = 2 ** 32 - 1
/** Added to a mailbox number: where its expunged UIDs are. */
const EXPUNGED = 2 ** 31

function keyOf(mailbox: number, uid: number): Buffer {
  const key = Buffer.allocUnsafe(8)
  key.writeUInt32BE(mailbox, 0)
  key.writeUInt32BE(uid, 4)
  return key
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] }

class LmdbStore implements MailStore {
  readonly #db: RootDatabase<Buffer, Buffer>

  constructor(path: string) {
    // Without overlappingSync a transaction resolves when it was flushed.
    this.#db = openLmdb({ path, encoding: 'binary', keyEncoding: 'binary', overlappingSync: false })
  }

  #counters(mailbox: number): Mutable<Counters> {
    const value = this.#db.get(keyOf(mailbox, COUNTERS_KEY))!
    const at = (place: number): number => value.readDoubleLE(place * 8)
    return { uidNext: at(0), modSeq: at(1), count: at(2), unseen: at(3), deleted: at(4), bytes: at(5) }
  }

  #putCounters(mailbox: number, { uidNext, modSeq, count, unseen, deleted, bytes }: Counters): void {
    const value = Buffer.allocUnsafe(COUNTERS_BYTES)
    for (const [place, number] of [uidNext, modSeq, count, unseen, deleted, bytes].entries())
      value.writeDoubleLE(number, place * 8)
    void this.#db.put(keyOf(mailbox, COUNTERS_KEY), value)
  }

  async create(first: number, end: number): Promise<void> {
    await this.#db.transaction(() => {
      for (let mailbox = first; mailbox < end; mailbox++)
        this.#putCounters(mailbox, { uidNext: 1, modSeq: 1, count: 0, unseen: 0, deleted: 0, bytes: 0 })
    })
  }

  async append(mailbox: number, count: number): Promise<void> {
    await this.#db.transaction(() => {
      const counters = this.#counters(mailbox)
      counters.modSeq++
      for (let i = 0; i < count; i++) {
        const uid = counters.uidNext++
        const size = madeSize(uid)
        const value = Buffer.alloc(ROW_BYTES)
        value[FLAGS_AT] = madeFlags(uid)
        value[KEYWORDS_AT] = madeKeyword(uid) ? 1 : 0
        value.writeDoubleLE(counters.modSeq, MODSEQ_AT)
        value.writeDoubleLE(FIRST_TIME + uid, RECEIVED_AT)
        value.writeDoubleLE(size, SIZE_AT)
        value.set(madeGuid(mailbox, uid), GUID_AT)
        void this.#db.put(keyOf(mailbox, uid), value)
        if ((value[FLAGS_AT] & FLAG_SEEN) === 0) counters.unseen++
        counters.count++
        counters.bytes += size
      }
      this.#putCounters(mailbox, counters)
    })
  }

  async flag(mailbox: number, first: number, last: number, flag: number, set: boolean): Promise<void> {
    await this.#db.transaction(() => {
      const counters = this.#counters(mailbox)
      let changes = 0
      const change = (key: Buffer, value: Buffer | undefined): void => {
        if (value === undefined || ((value[FLAGS_AT]! & flag) !== 0) === set) return
        value[FLAGS_AT]! ^= flag
        value.writeDoubleLE(counters.modSeq + 1, MODSEQ_AT)
        void this.#db.put(key, value)
        changes++
      }
      if (first === last) change(keyOf(mailbox, first), this.#db.get(keyOf(mailbox, first)))
      else {
        // What is written while a range is read moves under it.
        const rows = [...this.#db.getRange({ start: keyOf(mailbox, first), end: keyOf(mailbox, last + 1) })]
        for (const { key, value } of rows) change(key, value)
      }
      if (changes === 0) return
      counters.modSeq++
      if (flag === FLAG_SEEN) counters.unseen += set ? -changes : changes
      if (flag === FLAG_DELETED) counters.deleted += set ? changes : -changes
      this.#putCounters(mailbox, counters)
    })
  }

  async expunge(mailbox: number, uid: number): Promise<boolean> {
    return this.#db.transaction(() => {
      const value = this.#db.get(keyOf(mailbox, uid))
      if (value === undefined) return false
      const counters = this.#counters(mailbox)
      counters.modSeq++
      counters.count--
      if ((value[FLAGS_AT]! & FLAG_SEEN) === 0) counters.unseen--
      if ((value[FLAGS_AT]! & FLAG_DELETED) !== 0) counters.deleted--
      counters.bytes -= value.readDoubleLE(SIZE_AT)
      void this.#db.remove(keyOf(mailbox, uid))
      const modSeq = Buffer.allocUnsafe(8)
      modSeq.writeDoubleLE(counters.modSeq)
      void this.#db.put(keyOf(EXPUNGED + mailbox, uid), modSeq)
      this.#putCounters(mailbox, counters)
      return true
    })
  }

  async view(mailbox: number): Promise<MailboxView> {
    // Nothing else runs between the two reads of this process; those of another process may, and then a row is missing.
    const columns = new Columns(this.#counters(mailbox).count)
    for (const { key, value } of this.#db.getRange({ start: keyOf(mailbox, 0), end: keyOf(mailbox, COUNTERS_KEY) }))
      columns.add(key.readUInt32BE(4), value[FLAGS_AT]!, value[KEYWORDS_AT]!, value.readDoubleLE(MODSEQ_AT))
    return columns
  }

  async counters(mailbox: number): Promise<Counters> {
    return this.#counters(mailbox)
  }

  /** Within a turn of the event loop all reads see one state; each turn begins with the newest. */
  async refresh(): Promise<void> {
    this.#db.resetReadTxn()
  }

  async settle(): Promise<void> {
    await this.#db.flushed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#db.close()
  }
}
