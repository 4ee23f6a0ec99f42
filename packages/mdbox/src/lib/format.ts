/**
 * The bytes of a message file (dbox v2), as a real Dovecot reads and writes them, with a checksum of our own.
 *
 * FORMAT   file     := line record*
 *          line     := "2 M1e C" hex [ " H" crc ] LF           C: creation, unix time; H: ours, over all before " H"
 *          record   := header body post metadata
 *          header   := 01 02 "N" SP 8*SP SP size LF             30 bytes; size: stored bytes, 16 upper-case hex digits
 *          body     := size bytes, exactly as they came, or compressed
 *          post     := LF 01 03 LF
 *          metadata := ( key value LF )* LF                     key: one letter A–Z; value: anything but LF
 *
 *          Keys we write, in this order:
 *          V  hex      size with every lone LF as CRLF, before compression; Dovecot's repair rewrites it
 *          Z  hex      size of the message as it came; only where the body is not that
 *          R  hex      received, unix time
 *          G  32 hex   GUID
 *          B  text     mailbox it was first saved to (modified UTF-7), for rebuilds; may be absent
 *          M  40 hex   the same mailbox's GUID (32 digits) and UIDVALIDITY (8), lower-case; may be absent
 *          C  text     how the body is compressed (compress.ts); absent if it is not
 *          A  text     what of the message lies elsewhere (attached.ts); absent if nothing does
 *          X  text     only beside A: what Dovecot refuses to resolve, so that it never serves what is left as the message
 *          H  "0" crc* sum   our checksum: CRC-32 of each 64 KiB of the body, then `sum`
 *          crc and sum are CRC-32 (as in zlib) in 8 lower-case hex digits.
 *          sum covers the header and every metadata line with its LF, except V lines, and the last 8 digits and the LF
 *          of H. What it leaves out is fixed (post, final LFs), recomputable (V), or itself.
 *
 * INVARIANTS
 *   1. Every byte is covered: the line by its H, the body by H's chunks, header and metadata by sum, V by recomputation.
 *   2. A record depends on nothing outside it, so that a raw copy elsewhere (a purge, ours or Dovecot's) stays valid.
 *   3. A record without H was written by somebody else: its body is unknown, not bad. A row that names a record holds
 *      its sum, so an H that was there and is not any more is noticed.
 *   4. No reader trusts a size: what it names must lie inside the file and end as a record ends.
 *
 * See docs/formats/dbox.md.
 */
import { createHash } from 'node:crypto'
import { crc32 } from '@mailstead/bytes'

/** Bytes of a record's header. must not change: on disk */
export const HEADER_BYTES = 30
/** Bytes of the body that one checksum covers. must not change: on disk */
export const CHUNK_BYTES: number = 64 * 1024
/** LF 01 03 LF, between body and metadata. */
export const POST_BYTES = 4
/** Longest metadata block that is read, in bytes: enough for the checksums of 4 GiB and much else. Longer is damage. */
export const METADATA_MAX: number = 1024 * 1024
/** Largest body whose size is believed. */
export const BODY_MAX: number = 4 * 1024 * 1024 * 1024
/** Longest first line of a file, in bytes. */
export const LINE_MAX = 256

const LF = 0x0a
/** The first key; ours of attachments. */
const KEY_A = 0x41
const KEY_B = 0x42
const KEY_C = 0x43
const KEY_G = 0x47
const KEY_H = 0x48
const KEY_M = 0x4d
const KEY_R = 0x52
const KEY_V = 0x56
const KEY_Z = 0x5a
const SUM_DIGITS = 8
const VERSION_0 = 0x30

/** `2 M1e C<hex> H<crc>\n`. */
export function writeFileLine(createdMs: number): Buffer {
  const line = `2 M1e C${Math.max(0, Math.floor(createdMs / 1000)).toString(16)}`
  return Buffer.from(`${line} H${hex8(crc32(Buffer.from(line, 'latin1')))}\n`, 'latin1')
}

export interface FileLine {
  /** Bytes of the line, LF included: offset of the first record. */
  readonly length: number
  /** Bytes of each record's header (M). */
  readonly headerBytes: number
  readonly createdMs: number
  /** Whether the line has a checksum of ours, and it fits. */
  readonly verified: boolean
}

/** Dovecot's own line, or ours with the right checksum; else undefined: damage. `bytes` is the beginning of the file. */
export function readFileLine(bytes: Uint8Array): FileLine | undefined {
  const end = bytes.subarray(0, LINE_MAX).indexOf(LF)
  if (end < 0) return undefined
  const text = latin1(bytes, 0, end)
  const match = /^2 M([0-9a-fA-F]{1,4}) C([0-9a-fA-F]{1,12})(?: H([0-9a-f]{8}))?$/.exec(text)
  if (match === null) return undefined
  if (match[3] !== undefined && Number.parseInt(match[3], 16) !== crc32(bytes.subarray(0, end - 10))) return undefined
  const headerBytes = Number.parseInt(match[1]!, 16)
  if (headerBytes < HEADER_BYTES) return undefined
  const createdMs = Number.parseInt(match[2]!, 16) * 1000
  return { length: end + 1, headerBytes, createdMs, verified: match[3] !== undefined }
}

/** Writes the 30 bytes of a header at `at`. */
export function writeHeader(out: Buffer, at: number, size: number): void {
  out.write('\x01\x02N          ', at, 'latin1')
  out.write(size.toString(16).toUpperCase().padStart(16, '0'), at + 13, 'latin1')
  out[at + HEADER_BYTES - 1] = LF
}

/** Size of the body that the header at `at` announces, or -1 if there is no header. */
export function readHeader(bytes: Uint8Array, at: number, headerBytes: number = HEADER_BYTES): number {
  if (at + headerBytes > bytes.length) return -1
  if (bytes[at] !== 1 || bytes[at + 1] !== 2 || bytes[at + headerBytes - 1] !== LF) return -1
  let size = 0
  for (let i = at + 13; i < at + 29; i++) {
    const digit = hexDigit(bytes[i]!)
    if (digit < 0) return -1
    size = size * 16 + digit
    if (size > BODY_MAX) return -1
  }
  return size
}

/** Whether the LF 01 03 LF is at `at`. */
export function isPost(bytes: Uint8Array, at: number): boolean {
  return bytes[at] === LF && bytes[at + 1] === 1 && bytes[at + 2] === 3 && bytes[at + 3] === LF
}

/** How many CRC-32s a body of this size has. */
export function chunkCount(size: number): number {
  return Math.ceil(size / CHUNK_BYTES)
}

export interface TrailerFields {
  /** Size with every lone LF as CRLF. */
  readonly size: number
  readonly receivedMs: number
  /** 16 bytes. */
  readonly guid: Uint8Array
  /** Modified UTF-7, without control characters; '' for none. */
  readonly mailbox: string
  /** GUID and UIDVALIDITY of the mailbox, 40 hex digits; absent for none. */
  readonly origin?: string | undefined
  /** CRC-32 of each 64 KiB of the body as it is stored. */
  readonly chunks: readonly number[]
  /** Bytes of the message as it came, where the body is not that. */
  readonly plainSize?: number | undefined
  /** Of a compressed body: the value of C. */
  readonly codec?: string | undefined
  /** Of a body of which parts lie elsewhere: the value of A. */
  readonly attached?: string | undefined
}

/** must not change: on disk. An option letter that Dovecot does not know, and a path that it never makes. */
const UNRESOLVABLE = 'X0 1 M mailstead\n'

/**
 * Header and trailer (post and metadata) in one buffer: the first HEADER_BYTES go before the body, the rest after it.
 * `sumOf` reads the record's sum from it.
 */
export function writeFrame(physicalSize: number, fields: TrailerFields): Buffer {
  const virtual = `V${fields.size.toString(16)}\n`
  let text = fields.plainSize === undefined ? '' : `Z${fields.plainSize.toString(16)}\n`
  text += `R${Math.max(0, Math.floor(fields.receivedMs / 1000)).toString(16)}\nG${guidText(fields.guid)}\n`
  if (fields.mailbox !== '') text += `B${fields.mailbox}\n`
  if (fields.origin !== undefined) text += `M${fields.origin}\n`
  if (fields.codec !== undefined) text += `C${fields.codec}\n`
  if (fields.attached !== undefined) text += `A${fields.attached}\n${UNRESOLVABLE}`
  text += 'H0'
  for (const crc of fields.chunks) text += hex8(crc)
  const covered = HEADER_BYTES + POST_BYTES + virtual.length
  const sumAt = covered + text.length
  const out = Buffer.allocUnsafe(sumAt + SUM_DIGITS + 2)
  writeHeader(out, 0, physicalSize)
  out.write(`\n\x01\x03\n${virtual}${text}`, HEADER_BYTES, 'latin1')
  const sum = crc32(out.subarray(covered, sumAt), crc32(out.subarray(0, HEADER_BYTES)))
  out.write(`${hex8(sum)}\n\n`, sumAt, 'latin1')
  return out
}

/** The sum at the end of a frame that `writeFrame` made. */
export function sumOf(frame: Uint8Array): number {
  return readHex8(frame, frame.length - SUM_DIGITS - 2)
}

/** What `readTrailer` found; offsets are into the bytes it was given. Reused, so that reading allocates nothing. */
export class Trailer {
  /** CRC-32 over header and metadata as described above: what H's last digits must be, and what rows keep. */
  sum = 0
  /** What H says the sum is, or -1 without an H of version 0. */
  stated = -1
  /** Offset of the first chunk's digits in H; -1 without H. */
  chunksAt = -1
  /** Number of chunks in H. */
  chunks = 0
  /** There is an H line, whether or not we know its version. */
  hasHash = false
  guidAt = -1
  guidEnd = -1
  /** Milliseconds since the epoch; 0 without R, as Dovecot has it. */
  receivedMs = 0
  /** V; -1 without, SIZE_BAD if it is not as everybody writes it. */
  size = -1
  /** Z, what Dovecot says the size was before compression or moving attachments out; -1 without. */
  plainSize = -1
  mailboxAt = -1
  mailboxEnd = -1
  /** M; -1 without. */
  originAt = -1
  originEnd = -1
  /** C; -1 without. */
  codecAt = -1
  codecEnd = -1
  /** A; -1 without. */
  attachedAt = -1
  attachedEnd = -1
}

/** A V that is no lower-case hex number: since no sum covers V, nothing but the exact text is believed. */
export const SIZE_BAD = -2
/** The metadata goes on behind the bytes given. */
export const TRAILER_CUT = -2
/** This is no post-magic with metadata. */
export const TRAILER_BAD = -1

/**
 * Reads post-magic and metadata at `at`. `headerSum` is the CRC-32 of the record's header. Returns the offset behind
 * the record, TRAILER_CUT or TRAILER_BAD. Does not judge the sum: compare `sum` with `stated` and with the row.
 */
export function readTrailer(bytes: Uint8Array, at: number, end: number, headerSum: number, out: Trailer): number {
  out.stated = -1
  out.chunksAt = -1
  out.chunks = 0
  out.hasHash = false
  out.guidAt = -1
  out.guidEnd = -1
  out.receivedMs = 0
  out.size = -1
  out.plainSize = -1
  out.mailboxAt = -1
  out.mailboxEnd = -1
  out.originAt = -1
  out.originEnd = -1
  out.codecAt = -1
  out.codecEnd = -1
  out.attachedAt = -1
  out.attachedEnd = -1
  if (at + POST_BYTES > end) return TRAILER_CUT
  if (!isPost(bytes, at)) return TRAILER_BAD
  let sum = headerSum
  let line = at + POST_BYTES
  let run = line
  let received = -1
  for (;;) {
    if (line >= end) return TRAILER_CUT
    const key = bytes[line]!
    if (key === LF) break
    if (key < KEY_A || key > KEY_Z) return TRAILER_BAD
    // Lines are short: a native search costs more to call than it saves.
    let stop = line + 1
    while (stop < end && bytes[stop] !== LF) stop++
    if (stop >= end) return TRAILER_CUT
    const value = line + 1
    if (key === KEY_V) {
      if (line > run) sum = crc32(bytes.subarray(run, line), sum)
      run = stop + 1
      if (out.size === -1) out.size = readSize(bytes, value, stop)
    } else if (key === KEY_H && !out.hasHash) {
      out.hasHash = true
      const digits = stop - value - 1
      if (bytes[value] === VERSION_0 && digits >= SUM_DIGITS && digits % SUM_DIGITS === 0) {
        sum = crc32(bytes.subarray(run, stop - SUM_DIGITS), sum)
        run = stop + 1
        out.stated = readHex8(bytes, stop - SUM_DIGITS)
        out.chunksAt = value + 1
        out.chunks = digits / SUM_DIGITS - 1
      }
    } else if (key === KEY_G && out.guidAt < 0) {
      out.guidAt = value
      out.guidEnd = stop
    } else if (key === KEY_R && received < 0) received = readHex(bytes, value, stop)
    else if (key === KEY_B && out.mailboxAt < 0) {
      out.mailboxAt = value
      out.mailboxEnd = stop
    } else if (key === KEY_M && out.originAt < 0) {
      out.originAt = value
      out.originEnd = stop
    } else if (key === KEY_C && out.codecAt < 0) {
      out.codecAt = value
      out.codecEnd = stop
    } else if (key === KEY_A && out.attachedAt < 0) {
      out.attachedAt = value
      out.attachedEnd = stop
    } else if (key === KEY_Z && out.plainSize < 0) out.plainSize = readHex(bytes, value, stop)
    line = stop + 1
  }
  out.sum = line > run ? crc32(bytes.subarray(run, line), sum) : sum
  if (received > 0) out.receivedMs = received * 1000
  return line + 1
}

/** CRC-32 of chunk `index` as H has it, or -1 if its digits are none. */
export function chunkSum(bytes: Uint8Array, trailer: Trailer, index: number): number {
  return readHex8(bytes, trailer.chunksAt + index * SUM_DIGITS)
}

/**
 * The GUID as 16 bytes. What is not 32 hex digits (any text may have been migrated) is, as Dovecot has it, the last 16
 * bytes of the SHA-1 of the text. Undefined without G.
 */
export function readGuid(bytes: Uint8Array, trailer: Trailer): Uint8Array | undefined {
  if (trailer.guidAt < 0) return undefined
  const out = Buffer.allocUnsafe(16)
  if (trailer.guidEnd - trailer.guidAt === 32) {
    let i = 0
    for (; i < 16; i++) {
      const high = hexDigit(bytes[trailer.guidAt + 2 * i]!)
      const low = hexDigit(bytes[trailer.guidAt + 2 * i + 1]!)
      if (high < 0 || low < 0) break
      out[i] = high * 16 + low
    }
    if (i === 16) return out
  }
  return createHash('sha1').update(bytes.subarray(trailer.guidAt, trailer.guidEnd)).digest().subarray(4)
}

/** Bytes of `text`, as one character each. */
export function latin1(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString('latin1')
}

export function hex8(value: number): string {
  return (value >>> 0).toString(16).padStart(8, '0')
}

function guidText(guid: Uint8Array): string {
  if (guid.length !== 16) throw new TypeError(`a GUID has 16 bytes, not ${guid.length}`)
  return Buffer.from(guid.buffer, guid.byteOffset, 16).toString('hex')
}

function hexDigit(byte: number): number {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30
  if (byte >= 0x61 && byte <= 0x66) return byte - 0x57
  if (byte >= 0x41 && byte <= 0x46) return byte - 0x37
  return -1
}

/** Eight lower-case digits, as we write them: an upper-case one is a flipped bit. -1 if they are none. */
function readHex8(bytes: Uint8Array, at: number): number {
  let value = 0
  for (let i = at; i < at + SUM_DIGITS; i++) {
    const byte = bytes[i]!
    if (byte >= 0x30 && byte <= 0x39) value = value * 16 + byte - 0x30
    else if (byte >= 0x61 && byte <= 0x66) value = value * 16 + byte - 0x57
    else return -1
  }
  return value
}

function readSize(bytes: Uint8Array, start: number, end: number): number {
  for (let i = start; i < end; i++) if (bytes[i]! >= 0x41 && bytes[i]! <= 0x46) return SIZE_BAD
  const size = readHex(bytes, start, end)
  return size < 0 || (bytes[start] === 0x30 && end - start > 1) ? SIZE_BAD : size
}

/** A hex number that ends the line, or -1. */
function readHex(bytes: Uint8Array, start: number, end: number): number {
  if (end === start || end - start > 13) return -1
  let value = 0
  for (let i = start; i < end; i++) {
    const digit = hexDigit(bytes[i]!)
    if (digit < 0) return -1
    value = value * 16 + digit
  }
  return value
}
