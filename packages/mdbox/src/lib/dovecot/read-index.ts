/**
 * An index from all that Dovecot keeps of it: the snapshot and the log that goes on from it, or the log alone if it reaches back to
 * the beginning, or the backup of an earlier snapshot and the log.
 *
 * None of these files has a checksum, but much is there twice: a snapshot is compared with what the log (from the beginning, or
 * from the backup) says of the same moment, and each difference is a fault.
 */
import { compareIndexes } from './compare-index.ts'
import { u32 } from './binary.ts'
import type { Faults } from './fault.ts'
import { EXPUNGE, EXPUNGE_GUID, type LogHeader, type LogRecord, readLogHeader, walkLog } from './log.ts'
import { LOG_HEAD_AT, LOG_SEQ_AT, LOG_TAIL_AT, MailIndex } from './mail-index.ts'
import { type Part, Replay } from './replay.ts'
import { join, type NamedRoot, readIfThere } from './root.ts'
import { readSnapshot, type Snapshot } from './snapshot.ts'

/** Largest index or log that is read, in bytes. Dovecot begins a new log at one MiB. */
export const INDEX_BYTES_MAX: number = 1024 * 1024 * 1024
export const LOG_BYTES_MAX: number = 256 * 1024 * 1024

export interface ReadIndex {
  readonly index: MailIndex
  /** The last record of the log says that the mailbox was deleted. */
  readonly deleted: boolean
  /** Undefined where neither a log nor the snapshot says. */
  readonly highestModSeq: number | undefined
  /** False where the beginning is lost: messages, flags and numbers of extensions from before are not known. */
  readonly complete: boolean
  /** False where the end is lost, or part of the log: what happened last is not, or not all, in the index. */
  readonly current: boolean
  /** The newest log: bytes of it, and when it was begun (seconds). Undefined if it is lost. */
  readonly log: { readonly size: number; readonly begun: number } | undefined
}

interface LogFile {
  readonly bytes: Uint8Array
  readonly header: LogHeader
  readonly name: string
}

/** A place in the log. */
interface Position {
  readonly seq: number
  readonly offset: number
}

/** When a log was begun, in its header: seconds since the epoch. */
const BEGUN_AT = 20

/**
 * Reads `base` (such as `dovecot.index`) in a directory. Undefined if there is nothing of it, or nothing that can be read. Faults
 * are of `mailbox`.
 */
export function readIndex(
  root: NamedRoot,
  base: string,
  faults: Faults,
  mailbox?: string,
): Promise<ReadIndex | undefined> {
  return new Reader(root, base, faults, mailbox).read()
}

class Reader {
  readonly #root: NamedRoot
  readonly #base: string
  readonly #faults: Faults
  readonly #mailbox: string | undefined
  #logs: readonly LogFile[] = []

  constructor(root: NamedRoot, base: string, faults: Faults, mailbox: string | undefined) {
    this.#root = root
    this.#base = base
    this.#faults = faults
    this.#mailbox = mailbox
  }

  async read(): Promise<ReadIndex | undefined> {
    const base = this.#base
    await this.#readLogs()
    const snapshot = await this.#readSnapshot(base)
    const backup = await this.#readSnapshot(`${base}.backup`)
    const logs = this.#logs
    const fromStart = logs[0]?.header.prevSeq === 0
    if (snapshot !== undefined && this.#belongs(snapshot)) {
      if (fromStart || backup !== undefined) this.#compare(snapshot, fromStart ? undefined : backup)
      return this.#goOn(snapshot)
    }
    if (fromStart) {
      if (snapshot === undefined && backup !== undefined)
        this.#fault('index-lost', 'the snapshot is lost; the log has everything from the beginning', base)
      return this.#goOn(undefined)
    }
    if (snapshot !== undefined) return this.#goOn(snapshot)
    const rest = backup ?? (await this.#readSnapshot(base, true))
    if (rest === undefined && logs.length === 0) return undefined
    let what = 'only the end of the log is known'
    if (rest !== undefined) what = rest === backup ? 'the backup of an older one is read' : 'what is left of it is read'
    this.#fault('index-lost', `the snapshot is lost: ${what}`, base)
    return this.#goOn(rest)
  }

  #fault(kind: string, message: string, name: string, offset?: number): void {
    this.#faults.add(kind, message, { file: join(this.#root.shown, name), offset, mailbox: this.#mailbox })
  }

  async #readSnapshot(name: string, lenient = false): Promise<Snapshot | undefined> {
    const bytes = await readIfThere(this.#root, name, INDEX_BYTES_MAX, this.#faults)
    if (bytes === undefined) return undefined
    const read = readSnapshot(bytes, { lenient })
    if (!('index' in read)) {
      this.#fault('index-damaged', `the index cannot be read: ${read.message}`, name, read.offset)
      return undefined
    }
    for (const { message, offset, uid } of read.problems)
      this.#faults.add('index-damaged', message, {
        file: join(this.#root.shown, name),
        offset,
        mailbox: this.#mailbox,
        uid,
      })
    return read
  }

  /** The files of the log, oldest first, each the continuation of the one before. */
  async #readLogs(): Promise<void> {
    const newest = await this.#readLog(`${this.#base}.log`)
    const older = await this.#readLog(`${this.#base}.log.2`)
    if (newest === undefined) this.#logs = older === undefined ? [] : [older]
    else if (older === undefined) this.#logs = [newest]
    else {
      const follows = newest.header.prevSeq === older.header.seq && newest.header.indexId === older.header.indexId
      this.#logs = follows ? [older, newest] : [newest]
    }
  }

  async #readLog(name: string): Promise<LogFile | undefined> {
    const bytes = await readIfThere(this.#root, name, LOG_BYTES_MAX, this.#faults)
    if (bytes === undefined) return undefined
    const header = readLogHeader(bytes)
    if (header === undefined) {
      this.#fault('log-damaged', 'the log has no header', name, 0)
      return undefined
    }
    if (header.indexId === 0) this.#fault('log-damaged', 'Dovecot has marked the log as damaged', name, 4)
    return { bytes, header, name }
  }

  /** Whether the snapshot is to be believed where the log has the id of another index. */
  #belongs({ index, indexId }: Snapshot): boolean {
    const header = this.#logs[0]?.header
    if (header === undefined || header.indexId === indexId) return true
    this.#fault('index-differs', `the index has the id ${indexId}, its log ${header.indexId}`, this.#base, 16)
    // Either one was made anew, or one is damaged: whichever has everything is read.
    return header.prevSeq !== 0 && index.count > 0
  }

  /** What the snapshot and the log after it say; without a snapshot, all of the log. */
  #goOn(snapshot: Snapshot | undefined): ReadIndex {
    const newest = this.#logs.at(-1)
    if (newest === undefined || newest.name !== `${this.#base}.log`)
      this.#fault('log-lost', 'the log is lost: what happened last is not known', `${this.#base}.log`)
    const index = snapshot?.index ?? new MailIndex(newest?.header.little ?? true)
    const { modSeq, deleted, whole } = this.#replay(index, snapshot, undefined)
    return {
      index,
      deleted,
      highestModSeq:
        newest !== undefined || index.highestModSeq > 0 ? Math.max(modSeq, index.highestModSeq) : undefined,
      complete: snapshot !== undefined || this.#logs[0]?.header.prevSeq === 0,
      current: whole && newest?.name === `${this.#base}.log`,
      log:
        newest === undefined
          ? undefined
          : { size: newest.bytes.length, begun: u32(newest.bytes, BEGUN_AT, newest.header.little) },
    }
  }

  /** Compares a snapshot with what the log says of the same moment. */
  #compare(snapshot: Snapshot, history: Snapshot | undefined): void {
    const until = headOf(snapshot.index)
    const index = history?.index ?? new MailIndex(snapshot.index.little)
    if (history !== undefined) {
      const from = headOf(history.index)
      if (from.seq > until.seq || (from.seq === until.seq && from.offset > until.offset)) return
    }
    if (!this.#replay(index, history, until).whole) return
    compareIndexes(snapshot.index, index, (message, uid) =>
      this.#faults.add('index-differs', message, {
        file: join(this.#root.shown, this.#base),
        mailbox: this.#mailbox,
        uid,
      }),
    )
  }

  /** Applies the log to `index` from the place of its snapshot on, to `until` (then in silence) or to its end. */
  #replay(index: MailIndex, snapshot: Snapshot | undefined, until: Position | undefined): Replayed {
    const logs = this.#logs
    let whole = true
    let name = ''
    const bad = (kind: string, message: string, offset: number): void => {
      whole = false
      if (until === undefined) this.#fault(kind, message, name, offset)
    }
    const machine = new Replay(index, (message, offset) => bad('log-damaged', message, offset))
    const start = snapshot === undefined ? undefined : headOf(snapshot.index)
    const first = start === undefined ? 0 : firstFile(logs, start.seq)
    if (start !== undefined && logs[first]?.header.seq !== start.seq) {
      name = `${this.#base}.log`
      if (logs.length > 0) bad('log-lost', 'the part of the log that the snapshot goes on with is lost', 0)
      whole = false
    }
    for (let i = first; i < logs.length; i++) {
      const { bytes, header } = logs[i]!
      if (until !== undefined && header.seq > until.seq) break
      name = logs[i]!.name
      machine.begin(bytes, header)
      const end = walkLog(bytes, header, header.headerSize, (record) => {
        if (until !== undefined && header.seq === until.seq && record.offset >= until.offset) return
        machine.apply(record, start?.seq === header.seq ? partOf(record, snapshot!, header.seq) : 'all')
      })
      const needed = Math.max(
        start?.seq === header.seq ? start.offset : 0,
        until?.seq === header.seq ? until.offset : 0,
        logs[i + 1]?.header.prevOffset ?? 0,
      )
      if (end.offset < needed) bad('log-short', `the log goes on to ${needed} at least`, end.offset)
      else if (until === undefined && end.state === 'damaged')
        bad('log-damaged', `${end.message}: what follows is not known`, end.offset)
      else if (until === undefined && end.state === 'torn') bad('log-torn', end.message, end.offset)
    }
    return { modSeq: machine.modSeq, deleted: machine.deleted, whole }
  }
}

interface Replayed {
  readonly modSeq: number
  readonly deleted: boolean
  /** Whether all of it was there and made sense. */
  readonly whole: boolean
}

/** Everything before this is in the snapshot. */
function headOf(index: MailIndex): Position {
  return { seq: index.headerField(LOG_SEQ_AT), offset: index.headerField(LOG_HEAD_AT) }
}

/** The first file that is not older than `seq`. */
function firstFile(logs: readonly LogFile[], seq: number): number {
  const found = logs.findIndex(({ header }) => header.seq >= seq)
  return found < 0 ? logs.length : found
}

/** What of a record is still to be done to a snapshot of this file of the log. */
function partOf(record: LogRecord, { index, modSeqLog, modSeqOffset }: Snapshot, seq: number): Part {
  if (record.offset >= index.headerField(LOG_HEAD_AT)) return 'all'
  // Between tail and head are wishes that nobody may have fulfilled.
  if (record.type === EXPUNGE || record.type === EXPUNGE_GUID)
    return record.offset >= index.headerField(LOG_TAIL_AT) ? 'expunges' : 'nothing'
  if (modSeqLog === 0 || modSeqLog > seq) return 'nothing'
  return modSeqLog < seq || record.offset >= modSeqOffset ? 'modseqs' : 'nothing'
}
