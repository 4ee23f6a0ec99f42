/**
 * The expunge journal: a file beside the message files that keeps expunged mail expunged when the index is lost.
 *
 * WHAT     A place is dead if the bytes there are nobody's: of a message that was expunged; of one that lives on
 *          elsewhere, where a purge or an altmove copied it to; of one that never came to have a row. Each place
 *          stands for itself, so that two messages of the same bytes are two, and the last copy of one that was
 *          expunged is no more alive than the first.
 *
 * HOW      It is written from what the box's table says: rows without uses are dead. `write` compares the whole table
 *          with it, at a checkpoint, when the box is closed, and before a purge; `add` notes the rows that a purge is
 *          about to drop, and the places that rows are about to leave.
 *          What it has once it keeps while the file of the message is there, unless a row with uses has the place: a
 *          table that was lost, and has no row for it, says nothing. Rows have left no place after all, where the
 *          transaction failed or never came: nothing gives the copies away before the next `write` has set that
 *          right. A purge whose transaction left a place somebody's sees to that at once.
 *          It is appended to, and written anew when something is taken back, when it is damaged, or when most of it
 *          is about files that are gone.
 *
 * INVARIANTS
 *   1. What `write` and `add` resolved for is durable.
 *   2. Writers take turns (a kernel lock on `journal.lock`). Readers may come at any time: what is not finished is
 *   not read.
 *   3. What was taken back is in no part of it, so that no damage can bring it back.
 *   4. A message is dead only if file, offset and sum are those that were written down: a file number may come again.
 */
import { randomBytes } from 'node:crypto'
import { BOX_USES_COLUMN } from '@mailstead/box'
import { type Fs, FsError } from '@mailstead/fs'
import {
  type Dead,
  type JournalChange,
  type ReadJournal,
  readJournal,
  writeJournalHeader,
  writeRecords,
} from './journal-format.ts'
import { column, type Places, type PlaceTable } from './place.ts'

/** must not change: on disk */
export const JOURNAL = 'journal'
/** Up to this size a journal is not written anew to make it smaller, in bytes. */
const COMPACT_MIN: number = 64 * 1024
/** Longest journal that is read: a billion messages. Longer is damage. */
const JOURNAL_MAX: number = 1 << 30

const NONE: Dead = new Map()

function nothing(): ReadJournal {
  return { salt: undefined, dead: new Map(), sequence: 0, end: 0, damage: [] }
}

export class Journal {
  readonly #fs: Fs
  readonly #path: string
  readonly #directory: string
  /** What was read or written last, and how long the file was then. */
  #known: (ReadJournal & { readonly size: number }) | undefined
  #turn: Promise<unknown> = Promise.resolve()

  constructor(fs: Fs, directory: string) {
    this.#fs = fs
    this.#directory = directory
    this.#path = `${directory}/${JOURNAL}`
  }

  /** What it says now. A missing one says nothing. */
  async read(): Promise<ReadJournal & { readonly size: number }> {
    const stat = await this.#fs.stat(this.#path)
    if (stat === undefined) return { ...nothing(), size: 0 }
    if (stat.size > JOURNAL_MAX)
      return { ...nothing(), size: stat.size, damage: [{ offset: 0, message: 'the journal is longer than any is' }] }
    const bytes = await this.#fs.readFile(this.#path)
    return { ...readJournal(bytes), size: bytes.length }
  }

  /**
   * Takes down what the table says. `files`: numbers of the message files that are there; undefined while not all can
   * be seen. Without it nothing is said to be gone.
   * `strays`: messages that no row of the table names, in files that nobody appends to.
   */
  async write(
    table: PlaceTable,
    files?: () => Promise<ReadonlySet<number> | undefined>,
    strays: Dead = NONE,
  ): Promise<void> {
    await this.#inTurn(async () => {
      // Nothing was ever expunged.
      if (strays.size === 0 && !(await hasDead(table.newest)) && (await this.#fs.stat(this.#path)) === undefined) return
      const places = await table.loaded()
      const uses = await usesOf(places)
      await this.#change((known) => {
        const change = compare(places, uses, known.dead)
        unknownOf(known.dead, strays, change.dead)
        return change
      }, files)
    })
  }

  /** These are dead, by file, offset and sum. */
  async add(messages: Dead): Promise<void> {
    if (messages.size === 0) return
    await this.#inTurn(() =>
      this.#change(({ dead }) => {
        const fresh: Dead = new Map()
        unknownOf(dead, messages, fresh)
        return { dead: fresh, alive: new Map(), named: undefined }
      }),
    )
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    const run = this.#turn.then(work)
    this.#turn = run.catch(() => {})
    return run
  }

  async #change(
    decide: (journal: ReadJournal) => { dead: Dead; alive: Dead; named: ReadonlySet<number> | undefined },
    files?: () => Promise<ReadonlySet<number> | undefined>,
  ): Promise<void> {
    await using lock = await this.#fs.lock(`${this.#path}.lock`)
    await lock.acquire()
    const stat = await this.#fs.stat(this.#path)
    const known = this.#known?.size === (stat?.size ?? 0) ? this.#known : await this.read()
    this.#known = undefined
    const { dead, alive, named } = decide(known)
    const gone = new Set<number>()
    if (named !== undefined && files !== undefined) {
      const there = await files()
      for (const file of known.dead.keys())
        if (there !== undefined && !named.has(file) && !there.has(file)) gone.add(file)
    }
    const changes: JournalChange[] = []
    if (gone.size > 0) changes.push({ kind: 'gone', files: gone })
    if (dead.size > 0) changes.push({ kind: 'dead', messages: dead })
    const isSound = known.damage.length === 0 && known.salt !== undefined
    if (changes.length === 0 && alive.size === 0 && (isSound || known.size === 0)) {
      this.#known = known
      return
    }
    for (const file of gone) known.dead.delete(file)
    for (const [file, list] of alive) for (const offset of list.keys()) drop(known.dead, file, offset)
    for (const [file, list] of dead) for (const [offset, sum] of list) put(known.dead, file, offset, sum)
    const records = isSound ? writeRecords(known.salt!, known.sequence + 1, changes) : []
    const length = known.end + lengthOf(records)
    if (isSound && alive.size === 0 && (length <= COMPACT_MIN || length <= 4 * roughSize(known.dead)))
      await this.#append(known, records)
    else await this.#renew(known.dead)
  }

  async #append(known: ReadJournal & { readonly size: number }, records: readonly Uint8Array[]): Promise<void> {
    await using file = await this.#fs.open(this.#path, 'write')
    if (known.size > known.end) await file.truncate(known.end)
    let end = known.end
    for (const record of records) {
      const at = await file.append([record])
      if (at !== end) throw new FsError('FS_CONFLICT', `${this.#path} grew by another hand`, { path: this.#path })
      end += record.length
      // One by one: a whole record behind one that is torn would look like damage.
      await file.sync()
    }
    this.#known = { ...known, sequence: known.sequence + records.length, end, size: end }
  }

  async #renew(dead: Dead): Promise<void> {
    const salt = randomBytes(8)
    const records = writeRecords(salt, 1, [{ kind: 'dead', messages: dead }])
    const bytes = Buffer.concat([writeJournalHeader(salt), ...records])
    await this.#fs.writeFile(this.#path, bytes)
    await this.#fs.syncDirectory(this.#directory)
    this.#known = { salt, dead, sequence: records.length, end: bytes.length, size: bytes.length, damage: [] }
  }
}

/** Adds those that are not known yet. */
function unknownOf(known: Dead, messages: Dead, to: Dead): void {
  for (const [file, list] of messages)
    for (const [offset, sum] of list) if (known.get(file)?.get(offset) !== sum) put(to, file, offset, sum)
}

export function isDead(dead: Dead, file: number, offset: number, sum: number): boolean {
  return dead.get(file)?.get(offset) === sum
}

export function put(dead: Dead, file: number, offset: number, sum: number): void {
  const list = dead.get(file)
  if (list === undefined) dead.set(file, new Map([[offset, sum]]))
  else list.set(offset, sum)
}

function drop(dead: Dead, file: number, offset: number): void {
  const list = dead.get(file)
  list?.delete(offset)
  if (list?.size === 0) dead.delete(file)
}

interface Uses {
  number(row: number): number
}

async function usesOf({ view }: Places): Promise<Uses> {
  await view.load?.([BOX_USES_COLUMN])
  return column(view, BOX_USES_COLUMN)
}

async function hasDead(places: Places): Promise<boolean> {
  const uses = await usesOf(places)
  for (let row = 0; row < places.view.count; row++) if (uses.number(row) === 0) return true
  return false
}

/** What the table knows and the journal does not, and the files that rows name. */
function compare(
  { view, file, offset, sum }: Places,
  uses: Uses,
  known: Dead,
): { dead: Dead; alive: Dead; named: ReadonlySet<number> } {
  const dead: Dead = new Map()
  const alive: Dead = new Map()
  const named = new Set<number>()
  for (let row = 0; row < view.count; row++) {
    const id = file.number(row)
    const list = known.get(id)
    named.add(id)
    if (uses.number(row) === 0) {
      if (list?.get(offset.number(row)) !== sum.number(row)) put(dead, id, offset.number(row), sum.number(row))
    } else if (list?.get(offset.number(row)) === sum.number(row)) put(alive, id, offset.number(row), sum.number(row))
  }
  return { dead, alive, named }
}

function lengthOf(records: readonly Uint8Array[]): number {
  return records.reduce((bytes, record) => bytes + record.length, 0)
}

/** What writing it anew takes, more or less. */
function roughSize(dead: Dead): number {
  let messages = 0
  for (const list of dead.values()) messages += list.size
  return COMPACT_MIN / 4 + 8 * messages
}
