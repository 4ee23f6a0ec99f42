/**
 * The references of a store of attachments that is used alone: a table of blobs over one small file (journal-format.ts).
 *
 * A commit is decided under a lock, against all that others committed, and is one frame, written and flushed; commits that wait together
 * share it. Where the driver has neither locks nor appends (object stores), each commit replaces the file under the condition that nobody
 * else did (`ifMatch`), so it costs a write of all rows: for more than some ten thousand blobs there, use a store's index.
 *
 * A CRASH leaves a last frame that is torn: nobody was told that it is there, and the next writer rewrites the file without it. A frame that
 * is damaged with others behind it, or before the seal of who closed the journal, is damage: SIS_CORRUPT, and `salvage` reads what is left.
 */
import { ByteWriter, compareBytes } from '@mailstead/bytes'
import { type Fs, FsError, type FsLock } from '@mailstead/fs'
import { readOrUndefined } from './domain.ts'
import { SisError } from './error.ts'
import {
  FRAME_HEADER_BYTES,
  isPayload,
  JOURNAL_HEADER_BYTES,
  type JournalChange,
  readChanges,
  readFrameHeader,
  readJournalHeader,
  writeChange,
  writeJournalFrame,
  readSeal,
  writeJournalHeader,
  writeSeal,
} from './journal-format.ts'
import { columnBytes, columnNumber, JournalState, rowBytes } from './journal-state.ts'
import type { ReferenceHost, ReferenceSweepTransaction, ReferenceTransaction, ReferenceView } from './references.ts'
import { VALUE_SALVAGED } from './references.ts'

/** Must not change: on disk. */
export const JOURNAL_FILE = 'journal'
const LOCK_FILE = 'journal.lock'
const SEAL_FILE = 'journal.seal'
const TABLE = 'blobs'
/** The journal is rewritten when it is longer than this, in bytes, and than four times what its rows need. */
const REWRITE_BYTES: number = 1 << 20
/** Rows of one frame of a journal that is rewritten. */
const FRAME_ROWS = 4096
/** Tries against others who replace the journal all the time. */
const ATTEMPTS = 1000
export interface JournalOptions {
  readonly create: boolean
  /** Read a damaged journal as far as it can be read, and write it anew; make one if it is lost. */
  readonly salvage: boolean
  /** A new journal is one that lost everything. */
  readonly lost: boolean
  readonly lockWaitMs: number
  readonly random: (bytes: Uint8Array) => void
}

interface Waiting {
  readonly changes: Change[]
  resolve(): void
  reject(error: unknown): void
}

type Change =
  | { readonly kind: 'append'; readonly pending: { uid: number }; readonly columns: Uint8Array }
  | {
      readonly kind: 'set'
      readonly uid: number | { uid: number }
      readonly column: number
      readonly value: Uint8Array
    }
  | { readonly kind: 'increment'; readonly uid: number; readonly by: number }
  | { readonly kind: 'value'; readonly name: string; readonly value: Uint8Array | undefined }
  | { readonly kind: 'expect'; readonly name: string; readonly value: Uint8Array | undefined }
  | { readonly kind: 'drop'; readonly uids: readonly number[] }

/** Of rows that are being written. Nobody is told before they are: another process may be first, and take the UID. */
type Uids = Map<{ uid: number }, number>

const USES = columnNumber('uses')

export class Journal implements ReferenceHost, AsyncDisposable {
  readonly table: { readonly id: string; readonly view: ReferenceView }
  readonly #fs: Fs
  readonly #path: string
  readonly #options: JournalOptions
  readonly #state = new JournalState()
  /** Frames are appended under a lock; else the file is replaced on a condition. */
  readonly #appends: boolean
  #lock: FsLock | undefined
  #store: Uint8Array = new Uint8Array(16)
  /** What was read: the generation, the frames of it, and where they end. Undefined: nothing yet, or nothing that can be relied on. */
  #read: { generation: Uint8Array; frames: number; end: number } | undefined
  #tag: string | undefined
  /** The file goes on behind the last whole frame: with what a crash tore. */
  #torn = false
  /** What is behind the last whole frame may be read and not be durable. */
  #suspect = false
  #wrote = false
  #waiting: Waiting[] = []
  #running: Promise<void> | undefined
  #turn: Promise<unknown> = Promise.resolve()
  #closed = false

  private constructor(fs: Fs, path: string, options: JournalOptions) {
    this.#fs = fs
    this.#path = path
    this.#options = options
    this.#appends = fs.supports.append && fs.supports.lock
    this.table = { id: TABLE, view: this.#state }
  }

  /** SIS_NO_STORE if there is none and `create` is not given; SIS_CORRUPT if it is damaged and `salvage` is not given. */
  static async open(fs: Fs, path: string, options: JournalOptions): Promise<Journal> {
    const journal = new Journal(fs, path, options)
    if (!options.create && (await fs.stat(journal.#file)) === undefined) throw journal.#absent()
    try {
      if (journal.#appends) journal.#lock = await fs.lock(`${path}/${LOCK_FILE}`)
      await journal.#exclusive(() => journal.#begin())
      return journal
    } catch (error) {
      await journal.#lock?.[Symbol.asyncDispose]()
      throw error
    }
  }

  get storeId(): Uint8Array {
    return this.#store
  }

  async refresh(): Promise<void> {
    this.#check()
    await this.#exclusive(() => this.#load())
  }

  async transact(body: (tx: ReferenceSweepTransaction) => void): Promise<void> {
    this.#check()
    const changes: Change[] = []
    body(transactionOn(changes))
    if (changes.length === 0) return
    await new Promise<void>((resolve, reject) => {
      this.#waiting.push({ changes, resolve, reject })
      this.#running ??= this.#run()
    })
  }

  /** Waits for what is under way, and seals the journal. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#running
    try {
      if (this.#wrote)
        await this.#exclusive(async () => {
          await this.#load()
          if (!this.#torn) await this.#fs.writeFile(`${this.#path}/${SEAL_FILE}`, writeSeal(this.#read!))
        })
    } finally {
      await this.#lock?.[Symbol.asyncDispose]()
    }
  }

  #check(): void {
    if (this.#closed) throw new SisError('SIS_CLOSED', 'the journal is closed')
  }

  get #file(): string {
    return `${this.#path}/${JOURNAL_FILE}`
  }

  /** One at a time in this process, and under the lock where there is one. */
  async #exclusive<T>(body: () => Promise<T>): Promise<T> {
    const before = this.#turn
    let done: () => void = () => {}
    this.#turn = new Promise<void>((resolve) => {
      done = resolve
    })
    try {
      await before
      await this.#lock?.acquire({ waitMs: this.#options.lockWaitMs })
      try {
        return await body()
      } finally {
        this.#lock?.release()
      }
    } finally {
      done()
    }
  }

  async #begin(): Promise<void> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      if ((await this.#fs.stat(this.#file)) !== undefined) return this.#load()
      if (!this.#options.create) throw this.#absent()
      this.#options.random(this.#store)
      if (this.#options.lost) this.#state.values.set(VALUE_SALVAGED, Uint8Array.of(1))
      try {
        return await this.#rewrite({ ifAbsent: true })
      } catch (error) {
        if (!(error instanceof FsError) || (error.code !== 'FS_EXISTS' && error.code !== 'FS_UNCERTAIN')) throw error
      }
    }
    throw new SisError('SIS_WRITE_FAILED', `${this.#file} is replaced all the time`, { file: this.#file })
  }

  /** Takes in what others committed. */
  async #load(): Promise<void> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const stat = await this.#fs.stat(this.#file)
      if (stat === undefined)
        throw new SisError('SIS_NO_STORE', `the journal ${this.#file} is gone`, { file: this.#file })
      if (!this.#appends && this.#read !== undefined && stat.tag === this.#tag) return
      if (await this.#readOn(stat.size, stat.tag)) return
    }
    throw new SisError('SIS_WRITE_FAILED', `${this.#file} is replaced all the time`, { file: this.#file })
  }

  /** False if the file changed on the way, which only drivers without locks see. */
  async #readOn(size: number, tag: string): Promise<boolean> {
    const header = await this.#bytes(0, Math.min(size, JOURNAL_HEADER_BYTES))
    const parsed = readJournalHeader(header)
    if (parsed === undefined) {
      if (!this.#appends && (await this.#fs.stat(this.#file))?.tag !== tag) return false
      if (!this.#options.salvage) throw this.#corrupt(0)
      this.#state.clear()
      this.#options.random(this.#store)
      this.#state.values.set(VALUE_SALVAGED, Uint8Array.of(1))
      this.#tag = tag
      await this.#rewrite(this.#condition())
      return true
    }
    const known = this.#read
    const same = known !== undefined && compareBytes(known.generation, parsed.generation) === 0
    if (same && known.end === size) return true
    const from = same ? known : { generation: parsed.generation, frames: 0, end: JOURNAL_HEADER_BYTES }
    const bytes = await this.#bytes(from.end, size)
    if (!this.#appends && (await this.#fs.stat(this.#file))?.tag !== tag) return false
    if (!same) {
      this.#state.clear()
      this.#store = parsed.store.slice()
    }
    this.#state.nextUid = Math.max(this.#state.nextUid, parsed.nextUid)
    this.#read = { generation: parsed.generation.slice(), frames: from.frames, end: from.end }
    this.#tag = tag
    await this.#replay(bytes, same ? 0 : await this.#sealed(parsed.generation))
    return true
  }

  /** Where a journal of this generation ends at least. */
  async #sealed(generation: Uint8Array): Promise<number> {
    const file = `${this.#path}/${SEAL_FILE}`
    const bytes = await readOrUndefined(this.#fs, file)
    if (bytes === undefined) return 0
    const seal = readSeal(bytes)
    if (seal === undefined && !this.#options.salvage) throw new SisError('SIS_CORRUPT', `${file} is damaged`, { file })
    return seal !== undefined && compareBytes(seal.generation, generation) === 0 ? seal.end : 0
  }

  async #replay(bytes: Buffer, sealed: number): Promise<void> {
    const read = this.#read!
    const start = read.end
    let at = 0
    let salvaged = false
    this.#torn = false
    while (at < bytes.length) {
      const number = read.frames + 1
      const length = readFrameHeader(bytes.subarray(at, at + FRAME_HEADER_BYTES), read.generation, number)
      const end = at + FRAME_HEADER_BYTES + length
      const payload = length < 0 || end > bytes.length ? undefined : bytes.subarray(at + FRAME_HEADER_BYTES, end)
      const header = bytes.subarray(at, at + FRAME_HEADER_BYTES)
      const valid = payload !== undefined && isPayload(header, payload, read.generation, number)
      const changes = valid ? readChanges(payload) : undefined
      if (changes !== undefined && this.#apply(changes)) {
        read.frames = number
        read.end = start + end
        at = end
        continue
      }
      // Behind a torn frame there is nothing, and nobody sealed it.
      const next = nextFrame(bytes, at + 1, read.generation, number)
      const damaged = valid || next !== undefined || (payload !== undefined && end < bytes.length)
      if (!damaged && start + at >= sealed) {
        this.#torn = true
        return
      }
      if (!this.#options.salvage) throw this.#corrupt(start + at)
      salvaged = true
      if (next === undefined) break
      read.frames = next.number - 1
      at = next.at
    }
    if (!salvaged && start + at < sealed) {
      if (!this.#options.salvage) throw this.#corrupt(start + at)
      salvaged = true
    }
    if (!salvaged) return
    this.#state.values.set(VALUE_SALVAGED, Uint8Array.of(1))
    await this.#rewrite(this.#condition())
  }

  #apply(changes: readonly JournalChange[]): boolean {
    const dropped = new Set<number>()
    for (const change of changes) {
      switch (change.kind) {
        case 'row':
          if (!this.#state.append(change.uid, change.columns) && !this.#options.salvage) return false
          break
        case 'set':
          if (!this.#state.set(change.uid, change.column, change.value) && !this.#options.salvage) return false
          break
        case 'drop':
          dropped.add(change.uid)
          break
        case 'value':
          if (change.value === undefined) this.#state.values.delete(change.name)
          else this.#state.values.set(change.name, change.value.slice())
      }
    }
    this.#state.drop(dropped)
    return true
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0) {
      const group = this.#waiting
      this.#waiting = []
      try {
        const refused = await this.#exclusive(() => this.#commit(group))
        for (const one of group) {
          const error = refused.get(one)
          if (error === undefined) one.resolve()
          else one.reject(error)
        }
      } catch (error) {
        for (const one of group) one.reject(error)
      }
    }
    this.#running = undefined
  }

  /** Decides, applies and writes a group. Resolves to those that conflicted. */
  async #commit(group: readonly Waiting[]): Promise<ReadonlyMap<Waiting, unknown>> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      await this.#load()
      const refused = new Map<Waiting, unknown>()
      const changes: JournalChange[] = []
      const uids: Uids = new Map()
      for (const one of group) {
        const conflict = this.#conflict(one.changes)
        if (conflict === undefined) this.#decide(one.changes, changes, uids)
        else refused.set(one, conflict)
      }
      if (changes.length === 0) return refused
      try {
        await this.#write(payloadOf(changes))
        this.#wrote = true
        for (const [pending, uid] of uids) pending.uid = uid
        return refused
      } catch (error) {
        // What was applied is not so: the file is read anew.
        this.#read = undefined
        if (!(error instanceof FsError && error.code === 'FS_CONFLICT' && !this.#appends)) throw error
      }
    }
    throw new SisError('SIS_WRITE_FAILED', `${this.#file} is replaced all the time`, { file: this.#file })
  }

  #conflict(changes: readonly Change[]): SisError | undefined {
    const uses = new Map<number, number>()
    for (const change of changes) {
      if (change.kind === 'expect') {
        const value = this.#state.values.get(change.name)
        const same =
          value === undefined || change.value === undefined
            ? value === change.value
            : compareBytes(value, change.value) === 0
        if (!same) return conflict(`${change.name} is not what was expected`)
      } else if (change.kind === 'set' && typeof change.uid === 'number') {
        if (this.#state.rowOf(change.uid) < 0) return conflict(`row ${change.uid} is gone`)
      } else if (change.kind === 'increment') {
        const row = this.#state.rowOf(change.uid)
        if (row < 0) return conflict(`row ${change.uid} is gone`)
        const after = (uses.get(change.uid) ?? this.#usesOf(row)) + change.by
        if (after < 0 || after >= 2 ** 32) return conflict(`row ${change.uid} cannot have ${after} uses`)
        uses.set(change.uid, after)
      }
    }
    return undefined
  }

  #usesOf(row: number): number {
    return this.#state.extension('uses')!.number(row)
  }

  #decide(changes: readonly Change[], out: JournalChange[], uids: Uids): void {
    const set = (uid: number, column: number, value: Uint8Array): void => {
      this.#state.set(uid, column, value)
      out.push({ kind: 'set', uid, column, value })
    }
    for (const change of changes) {
      switch (change.kind) {
        case 'append': {
          const uid = this.#state.nextUid
          if (uid >= 2 ** 32 - 1) throw new SisError('SIS_LIMIT', 'the journal has no UIDs left')
          uids.set(change.pending, uid)
          this.#state.append(uid, change.columns)
          out.push({ kind: 'row', uid, columns: change.columns })
          break
        }
        case 'set':
          set(typeof change.uid === 'number' ? change.uid : uids.get(change.uid)!, change.column, change.value)
          break
        case 'increment':
          set(change.uid, USES, columnBytes(USES, this.#usesOf(this.#state.rowOf(change.uid)) + change.by))
          break
        case 'value':
          if (change.value === undefined) this.#state.values.delete(change.name)
          else this.#state.values.set(change.name, change.value)
          out.push({ kind: 'value', name: change.name, value: change.value })
          break
        case 'drop': {
          const dropped = new Set<number>()
          for (const uid of change.uids) {
            const row = this.#state.rowOf(uid)
            if (row < 0 || this.#usesOf(row) > 0) continue
            dropped.add(uid)
            out.push({ kind: 'drop', uid })
          }
          this.#state.drop(dropped)
        }
      }
    }
  }

  async #write(payload: Uint8Array): Promise<void> {
    const { end } = this.#read!
    const long = end > REWRITE_BYTES && end > 4 * 80 * this.#state.count
    if (!this.#appends || this.#torn || this.#suspect || long) return this.#rewrite(this.#condition())
    try {
      await this.#append(payload)
    } catch (error) {
      await this.#takeBack(end, error)
      throw error
    }
  }

  /** The frame after `end` may be on the disk or not: a new file without it says that it is not. FS_UNCERTAIN if that fails. */
  async #takeBack(end: number, cause: unknown): Promise<void> {
    this.#suspect = true
    this.#read = undefined
    try {
      await this.#readOn(end, '')
      await this.#rewrite({})
    } catch {
      this.#read = undefined
      throw new FsError('FS_UNCERTAIN', `${this.#file} may have the last change or not`, { path: this.#file, cause })
    }
  }

  async #append(payload: Uint8Array): Promise<void> {
    const read = this.#read!
    const frame = writeJournalFrame(read.generation, read.frames + 1, payload)
    await using file = await this.#fs.open(this.#file, 'append')
    await file.append([frame])
    await file.sync()
    read.frames++
    read.end += frame.length
  }

  #condition(): { readonly ifMatch?: string } {
    return this.#appends || this.#tag === undefined ? {} : { ifMatch: this.#tag }
  }

  /** Writes the file anew from what is in memory. */
  async #rewrite(condition: { readonly ifMatch?: string; readonly ifAbsent?: boolean }): Promise<void> {
    const generation = new Uint8Array(8)
    this.#options.random(generation)
    const state = this.#state
    let frames = 0
    let end = JOURNAL_HEADER_BYTES
    const store = this.#store
    const frame = (changes: readonly JournalChange[]): Uint8Array => {
      const bytes = writeJournalFrame(generation, ++frames, payloadOf(changes))
      end += bytes.length
      return bytes
    }
    const source = async function* (): AsyncGenerator<Uint8Array> {
      yield writeJournalHeader({ store, generation, nextUid: state.nextUid })
      const values = [...state.values].map(([name, value]) => ({ kind: 'value' as const, name, value }))
      if (values.length > 0) yield frame(values)
      for (let row = 0; row < state.count; ) {
        const changes: JournalChange[] = []
        for (const first = row; row < state.count && row < first + FRAME_ROWS; row++)
          changes.push({ kind: 'row', uid: state.uid(row), columns: state.bytesOf(row) })
        yield frame(changes)
      }
    }
    const stat = await this.#fs.writeFile(this.#file, source(), condition)
    this.#read = { generation, frames, end }
    this.#tag = stat.tag
    this.#torn = false
    this.#suspect = false
  }

  async #bytes(start: number, end: number): Promise<Buffer> {
    const bytes = await this.#fs.readFile(this.#file, { start, end })
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  #absent(): SisError {
    return new SisError('SIS_NO_STORE', `${this.#path} has no journal of references`, { file: this.#file })
  }

  #corrupt(at: number): SisError {
    return new SisError('SIS_CORRUPT', `${this.#file} is damaged at ${at}`, { file: this.#file })
  }
}

function conflict(why: string): SisError {
  return new SisError('SIS_STALE', why)
}

function payloadOf(changes: readonly JournalChange[]): Uint8Array {
  const out = new ByteWriter()
  for (const change of changes) writeChange(out, change)
  return out.finish()
}

/** Frames that are looked for behind one that is damaged. */
const FRAMES_AHEAD = 64

/** The next frame that is valid, at `from` or behind it: one of those that follow `number`. */
function nextFrame(
  bytes: Buffer,
  from: number,
  generation: Uint8Array,
  number: number,
): { readonly at: number; readonly number: number } | undefined {
  for (let at = from; at + FRAME_HEADER_BYTES <= bytes.length; at++) {
    const length = bytes.readUInt32LE(at)
    const end = at + FRAME_HEADER_BYTES + length
    if (length === 0 || end > bytes.length) continue
    for (let ahead = number + 1; ahead <= number + FRAMES_AHEAD; ahead++) {
      const header = bytes.subarray(at, at + FRAME_HEADER_BYTES)
      if (readFrameHeader(header, generation, ahead) !== length) continue
      if (isPayload(header, bytes.subarray(at + FRAME_HEADER_BYTES, end), generation, ahead))
        return { at, number: ahead }
    }
  }
  return undefined
}

/** Takes down what a transaction asks for. */
function transactionOn(changes: Change[]): ReferenceSweepTransaction {
  const mine = (table: string): void => {
    if (table !== TABLE) throw new TypeError(`the journal has no table ${table}`)
  }
  const tx: ReferenceTransaction = {
    append: (table, { columns }) => {
      mine(table)
      const pending = { uid: 0 }
      changes.push({ kind: 'append', pending, columns: rowBytes(columns) })
      return pending
    },
    setColumn: (table, name, uid, value) => {
      mine(table)
      const column = columnNumber(name)
      if (typeof value !== 'number' && !(value instanceof Uint8Array)) throw new TypeError(`a row in column ${name}`)
      changes.push({ kind: 'set', uid: uid as number | { uid: number }, column, value: columnBytes(column, value) })
    },
    increment: (table, name, uid, by) => {
      mine(table)
      if (columnNumber(name) !== USES) throw new TypeError(`column ${name} is not counted`)
      if (!Number.isSafeInteger(by)) throw new RangeError(`increment by ${by}`)
      changes.push({ kind: 'increment', uid, by })
    },
    setValue: (table, name, value) => {
      mine(table)
      changes.push({ kind: 'value', name, value })
    },
    expectValue: (table, name, value) => {
      mine(table)
      changes.push({ kind: 'expect', name, value })
    },
  }
  return {
    ...tx,
    dropUnused: (table, uids) => {
      mine(table)
      changes.push({ kind: 'drop', uids })
    },
  }
}
