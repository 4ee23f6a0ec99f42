/**
 * The expunge journal's bytes: which messages no mailbox has any more, whatever becomes of the index.
 *
 * FORMAT   file      := header record*
 *          header    := "mailjrnl", version u16 (0), zero u16, salt 8 bytes, crc u32           24 bytes
 *          record    := "jrec", length u32, sequence u32, crc u32, payload, crc u32            length: of the payload
 *          payload   := kind u8, count of files varint, file*
 *          file      := number varint (from the second on: its distance from the one before)
 *                       of kind 1: count varint, ( offset varint, as distance from the one before; sum u32 )*
 *          kind      1 dead: these bytes are nobody's; 3 gone: the files are no more
 *          Nothing takes a message of kind 1 back: a journal that does not say it any more is another one, written anew. So what is
 *          damaged costs verdicts, and never brings back one that was taken back.
 *          A message is named by its file, offset and sum, as its row has them (place.ts).
 *          Integers are little-endian. The header's crc is CRC-32 over what is before it. Those of a record are seeded with that
 *          over the salt: the first over what is before it in the record, the second over sequence and payload.
 *          Sequences count from 1. must not change: on disk
 *
 * INVARIANTS
 *   1. Every byte is covered. A record that fails its checksums costs what it says, not what comes after it: the next one is
 *      found by its marker and proved by its checksum.
 *   2. What is cut off at the end is what a crash leaves; a gap in the sequence, or a record that fails, is damage.
 *
 * See docs/formats/journal.md.
 */
import { ByteReader, BytesError, ByteWriter, crc32 } from '@mailstead/bytes'

export const JOURNAL_HEADER = 24
/** Bytes of a record besides its payload. */
const RECORD_FRAME = 20
const RECORD_HEAD = 16
/** Largest payload. A longer one is damage. */
export const PAYLOAD_MAX: number = 64 * 1024
const MAGIC = 'mailjrnl'
const MARKER = 'jrec'
const DEAD = 1
const GONE = 3
/** An entry takes at most so many bytes. */
const ENTRY_MAX = 24
/** Entries that always fit a payload. */
const ENTRIES_MAX: number = Math.floor(PAYLOAD_MAX / ENTRY_MAX) - 1
const FILE_MAX = 0xffff_ffff

/** Of each file, by its number: offset and sum of each message that nobody has. */
export type Dead = Map<number, Map<number, number>>

export type JournalChange =
  | { readonly kind: 'dead'; readonly messages: Dead }
  | { readonly kind: 'gone'; readonly files: Iterable<number> }

export function writeJournalHeader(salt: Uint8Array): Buffer {
  const out = Buffer.alloc(JOURNAL_HEADER)
  out.write(MAGIC, 0, 'latin1')
  out.set(salt, 12)
  out.writeUInt32LE(crc32(out.subarray(0, 20)), 20)
  return out
}

/** Whether these bytes are meant to be a journal, damaged or not. */
export function isJournal(bytes: Uint8Array): boolean {
  return Buffer.from(bytes.subarray(0, MAGIC.length)).toString('latin1') === MAGIC
}

/** The salt; undefined if this is no header of version 0. */
export function readJournalHeader(bytes: Uint8Array): Uint8Array | undefined {
  if (bytes.length < JOURNAL_HEADER) return undefined
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, JOURNAL_HEADER)
  if (head.toString('latin1', 0, 8) !== MAGIC || head.readUInt32LE(8) !== 0) return undefined
  return head.readUInt32LE(20) === crc32(head.subarray(0, 20)) ? Uint8Array.from(head.subarray(12, 20)) : undefined
}

/** Records, each of at most PAYLOAD_MAX, numbered from `sequence`. */
export function writeRecords(salt: Uint8Array, sequence: number, changes: readonly JournalChange[]): Uint8Array[] {
  const records: Uint8Array[] = []
  for (const change of changes)
    for (const payload of payloadsOf(change)) records.push(writeRecord(salt, sequence + records.length, payload))
  return records
}

function writeRecord(salt: Uint8Array, sequence: number, payload: Uint8Array): Uint8Array {
  const out = Buffer.alloc(RECORD_FRAME + payload.length)
  const seed = crc32(salt)
  out.write(MARKER, 0, 'latin1')
  out.writeUInt32LE(payload.length, 4)
  out.writeUInt32LE(sequence, 8)
  out.writeUInt32LE(crc32(out.subarray(0, 12), seed), 12)
  out.set(payload, RECORD_HEAD)
  out.writeUInt32LE(crc32(payload, crc32(out.subarray(8, 12), seed)), RECORD_HEAD + payload.length)
  return out
}

function* payloadsOf(change: JournalChange): Generator<Uint8Array, void, undefined> {
  if (change.kind === 'gone') {
    const files = [...change.files].sort((a, b) => a - b)
    for (let at = 0; at < files.length; at += ENTRIES_MAX) {
      const part = files.slice(at, at + ENTRIES_MAX)
      const out = new ByteWriter()
      out.u8(GONE)
      out.varint(part.length)
      for (const [i, file] of part.entries()) out.varint(i === 0 ? file : file - part[i - 1]!)
      yield out.finish()
    }
    return
  }
  const files = [...change.messages].filter(([, messages]) => messages.size > 0).sort(([a], [b]) => a - b)
  // Parts of files, as many as fit.
  let part: { file: number; messages: [number, number][] }[] = []
  let room = ENTRIES_MAX
  for (const [file, messages] of files) {
    const sorted = [...messages].sort(([a], [b]) => a - b)
    for (let at = 0; at < sorted.length; ) {
      // The file itself is an entry.
      if (room < 2) {
        yield payloadOf(part)
        part = []
        room = ENTRIES_MAX
      }
      const piece = sorted.slice(at, at + room - 1)
      part.push({ file, messages: piece })
      room -= piece.length + 1
      at += piece.length
    }
  }
  if (part.length > 0) yield payloadOf(part)
}

function payloadOf(
  part: readonly { readonly file: number; readonly messages: readonly (readonly [number, number])[] }[],
): Uint8Array {
  const out = new ByteWriter()
  out.u8(DEAD)
  out.varint(part.length)
  let before = 0
  for (const { file, messages } of part) {
    out.varint(file - before)
    before = file
    out.varint(messages.length)
    let last = 0
    for (const [offset, sum] of messages) {
      out.varint(offset - last)
      last = offset
      out.u32(sum)
    }
  }
  return out.finish()
}

export interface ReadJournal {
  /** Undefined if the header is damaged: then nothing can be told. */
  readonly salt: Uint8Array | undefined
  readonly dead: Dead
  /** Of the last record. */
  readonly sequence: number
  /** Where the last good record ends: what follows is cut off before more is written. */
  readonly end: number
  readonly damage: readonly { readonly offset: number; readonly message: string }[]
}

export function readJournal(bytes: Uint8Array): ReadJournal {
  const dead: Dead = new Map()
  const damage: { offset: number; message: string }[] = []
  const salt = readJournalHeader(bytes)
  if (salt === undefined) {
    damage.push({ offset: 0, message: 'the header of the journal is damaged' })
    return { salt, dead, sequence: 0, end: 0, damage }
  }
  const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  const seed = crc32(salt)
  let sequence = 0
  let end = JOURNAL_HEADER
  for (let at = JOURNAL_HEADER; ; ) {
    const found = nextRecord(all, at, seed)
    if (found === undefined) break
    if (found.at !== at || (found.sequence !== sequence + 1 && found.at === at))
      damage.push({ offset: at, message: `records of the journal are lost before offset ${found.at}` })
    const { payload } = found
    if (payload === undefined || !apply(payload, dead))
      damage.push({ offset: found.at, message: `record ${found.sequence} of the journal is damaged` })
    sequence = found.sequence
    at = found.end
    end = at
  }
  return { salt, dead, sequence, end, damage }
}

interface FoundRecord {
  readonly at: number
  readonly sequence: number
  readonly end: number
  /** Undefined if it is damaged. */
  readonly payload: Uint8Array | undefined
}

/** The first record at or after `from` whose head is whole. One that goes on beyond the end was not finished. */
function nextRecord(all: Buffer, from: number, seed: number): FoundRecord | undefined {
  for (let at = all.indexOf(MARKER, from, 'latin1'); at >= 0; at = all.indexOf(MARKER, at + 1, 'latin1')) {
    if (at + RECORD_FRAME > all.length) return undefined
    const length = all.readUInt32LE(at + 4)
    const end = at + RECORD_FRAME + length
    if (length > PAYLOAD_MAX || all.readUInt32LE(at + 12) !== crc32(all.subarray(at, at + 12), seed)) continue
    if (end > all.length) continue
    const payload = all.subarray(at + RECORD_HEAD, end - 4)
    const fits = all.readUInt32LE(end - 4) === crc32(payload, crc32(all.subarray(at + 8, at + 12), seed))
    // A write that was cut short may have left its length, and nothing or something else of the rest.
    if (!fits && end === all.length) continue
    return { at, sequence: all.readUInt32LE(at + 8), end, payload: fits ? payload : undefined }
  }
  return undefined
}

/** Whether the payload could be read to its end. */
function apply(payload: Uint8Array, dead: Dead): boolean {
  try {
    const reader = new ByteReader(payload)
    const kind = reader.u8()
    let file = 0
    for (let files = reader.varint(); files > 0; files--) {
      file += reader.varint()
      if (file > FILE_MAX) return false
      if (kind === GONE) {
        dead.delete(file)
        continue
      }
      if (kind !== DEAD) return false
      let messages = dead.get(file)
      if (messages === undefined) dead.set(file, (messages = new Map()))
      let offset = 0
      for (let count = reader.varint(); count > 0; count--) {
        offset += reader.varint()
        const sum = reader.u32()
        messages.set(offset, sum)
      }
      if (messages.size === 0) dead.delete(file)
    }
    reader.expectEnd()
    return true
  } catch (error) {
    if (error instanceof BytesError) return false
    throw error
  }
}
