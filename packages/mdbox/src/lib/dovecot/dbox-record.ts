/**
 * One message of an m.N or u.N file: its header, where its body is, and its metadata. See docs/formats/dovecot.md.
 *
 * Nothing of it has a checksum, so everything has to be as Dovecot writes it: what is not is named in `problems`, and what
 * is so wrong that the message cannot be told is no record.
 */
import { createHash } from 'node:crypto'
import { isPost, latin1, LINE_MAX, METADATA_MAX, POST_BYTES, readHeader } from '../format.ts'
import { type OpenedFile, readAt } from './root.ts'

/** Headers are 30 bytes; a file may say that they are longer. */
const HEADER_BYTES = 30
const HEADER_MAX = 4096
const FIRST_METADATA_READ = 512
/** Records up to this size are read at once. */
const WHOLE_BYTES = 8192
/** Most parts of one message that are kept elsewhere. */
const REFERENCES_MAX = 4096
const REFERENCE_PATH_MAX = 1024
const LF = 0x0a
const SPACE = 0x20

export interface FileHead {
  /** Bytes of the first line: where the first message is. */
  readonly length: number
  readonly headerBytes: number
}

/** The first line of a file, version 1 or 2; undefined if it is none. */
export async function readFileHead(file: OpenedFile): Promise<FileHead | undefined> {
  const bytes = await readAt(file.file, 0, LINE_MAX)
  const end = bytes.indexOf(LF)
  if (end < 0) return undefined
  const match = /^[12](?: [A-Z][^ ]*)*$/.exec(latin1(bytes, 0, end))
  const size = match === null ? null : / M([0-9a-fA-F]{1,4})(?: |$)/.exec(match[0])
  if (size === null) return undefined
  const headerBytes = Number.parseInt(size[1]!, 16)
  if (headerBytes < HEADER_BYTES || headerBytes > HEADER_MAX) return undefined
  return { length: end + 1, headerBytes }
}

/** A part of a message that is in a file of its own. */
export interface ExternalPart {
  /** Of its bytes in the message. */
  readonly start: number
  readonly size: number
  /** Characters in a line if the file holds decoded base64; 0 if it holds the bytes as they are. */
  readonly lineLength: number
  readonly crlf: boolean
  /** Below the root of attachments. */
  readonly path: string
}

export interface DboxRecord {
  readonly offset: number
  /** Where the next record begins. */
  readonly end: number
  readonly bodyAt: number
  readonly storedSize: number
  /** Z: the size as a message, with lines as Dovecot keeps them. */
  readonly plainSize: number
  /** V: the size with each line ended by CRLF; undefined if it is not there. */
  readonly virtualSize: number | undefined
  /** G, as 16 bytes. */
  readonly guid: Uint8Array | undefined
  readonly receivedMs: number | undefined
  readonly pop3Uidl: string | undefined
  readonly pop3Order: number | undefined
  /** B: the name in modified UTF-7 of the mailbox it was first saved to. */
  readonly mailbox: string | undefined
  /** X; undefined where it cannot be told what it says. */
  readonly parts: readonly ExternalPart[] | undefined
  /** For people. */
  readonly problems: readonly string[]
}

/** The record at `offset`, or what is wrong there. */
export async function readRecord(file: OpenedFile, offset: number, headerBytes: number): Promise<DboxRecord | string> {
  const { size } = file
  if (offset >= size) return 'the file ends before the message'
  let bytes = await readAt(file.file, offset, Math.min(WHOLE_BYTES, size - offset))
  if (bytes.length < headerBytes) return 'the file ends within a message header'
  const storedSize = readHeader(bytes, 0, headerBytes)
  if (storedSize < 0)
    return bytes.subarray(0, headerBytes).every((byte) => byte === 0)
      ? 'a message was begun here and never finished'
      : 'no message header'
  const bodyAt = offset + headerBytes
  const postAt = bodyAt + storedSize
  if (postAt + POST_BYTES > size) return 'the file ends within the message'
  let start = offset
  if (postAt + POST_BYTES > offset + bytes.length) {
    start = postAt
    bytes = await readAt(file.file, start, Math.min(FIRST_METADATA_READ, size - start))
  }
  if (!isPost(bytes, postAt - start)) return 'no metadata where the message must end'
  for (let wanted = FIRST_METADATA_READ; ; ) {
    const found = readMetadata(bytes, postAt - start + POST_BYTES)
    if (typeof found === 'string') return found
    if (found !== undefined) return recordOf(found, start + found.end, offset, bodyAt, storedSize)
    if (start + bytes.length >= size) return 'the file ends within the metadata'
    if (wanted > METADATA_MAX) return 'the metadata does not end'
    wanted *= 4
    start = postAt
    bytes = await readAt(file.file, start, Math.min(wanted, size - start))
  }
}

/** Values by the character code of their keys; the first of each counts. */
interface Metadata {
  readonly values: readonly (Uint8Array | undefined)[]
  readonly unknown: boolean
  readonly end: number
}

/** Undefined if it goes on behind these bytes; what is wrong, as text. */
function readMetadata(bytes: Uint8Array, at: number): Metadata | string | undefined {
  const values: (Uint8Array | undefined)[] = []
  let unknown = false
  for (let line = at; ; ) {
    if (line >= bytes.length) return undefined
    const key = bytes[line]!
    if (key === LF) return { values, unknown, end: line + 1 }
    const stop = bytes.indexOf(LF, line)
    if (key === SPACE) return stop < 0 ? undefined : { values, unknown, end: endOfPadding(bytes, line) }
    if (key < SPACE) return 'the metadata has a control character for a key'
    if (stop < 0) return undefined
    if (key < 0x41 || key > 0x5a) unknown = true
    values[key] ??= bytes.subarray(line + 1, stop)
    line = stop + 1
  }
}

/** Old versions filled up with spaces up to an empty line. */
function endOfPadding(bytes: Uint8Array, at: number): number {
  let end = at
  while (end < bytes.length && bytes[end] === SPACE) end++
  while (end < bytes.length && bytes[end] === LF) end++
  return end
}

function recordOf(
  { values, unknown }: Metadata,
  end: number,
  offset: number,
  bodyAt: number,
  storedSize: number,
): DboxRecord {
  const problems: string[] = []
  if (unknown) problems.push('a key that Dovecot does not have')
  const text = (key: string): string | undefined => {
    const value = values[key.charCodeAt(0)]
    return value === undefined ? undefined : latin1(value, 0, value.length)
  }
  const hex = (key: string, needed: boolean): number | undefined => {
    const value = text(key)
    if (value !== undefined && /^[0-9a-f]{1,13}$/.test(value)) return Number.parseInt(value, 16)
    if (value !== undefined) problems.push(`${key} is no number`)
    else if (needed) problems.push(`there is no ${key}`)
    return undefined
  }
  const received = hex('R', true)
  const virtualSize = hex('V', true)
  const plainSize = hex('Z', false) ?? storedSize
  const guid = values[0x47]
  if (guid === undefined || guid.length === 0) problems.push('there is no GUID')
  const order = text('O')
  if (order !== undefined && !/^[0-9]{1,10}$/.test(order)) problems.push('O is no number')
  const references = text('X')
  const parts = references === undefined ? [] : readReferences(references, plainSize)
  if (parts === undefined) problems.push('the references to attachments cannot be read')
  const uidl = values[0x50]
  return {
    offset,
    end,
    bodyAt,
    storedSize,
    plainSize,
    virtualSize,
    guid: guid === undefined || guid.length === 0 ? undefined : guidBytes(guid),
    receivedMs: received === undefined ? undefined : received * 1000,
    pop3Uidl: uidl === undefined || uidl.length === 0 ? undefined : Buffer.from(uidl).toString(),
    pop3Order: order === undefined || !/^[0-9]{1,10}$/.test(order) || Number(order) === 0 ? undefined : Number(order),
    mailbox: text('B'),
    parts,
    problems,
  }
}

/** 32 hex digits as 16 bytes; of any other text the last 16 bytes of its SHA-1, as Dovecot has it. */
export function guidBytes(text: Uint8Array): Uint8Array {
  const digits = latin1(text, 0, text.length)
  if (/^[0-9a-fA-F]{32}$/.test(digits)) return Buffer.from(digits, 'hex')
  return createHash('sha1').update(text).digest().subarray(4)
}

/** Groups of start, size, options and path. Undefined if any of it makes no sense, or leads out of the root. */
export function readReferences(text: string, plainSize: number): readonly ExternalPart[] | undefined {
  const fields = text.split(' ')
  if (fields.length % 4 !== 0 || fields.length > REFERENCES_MAX * 4) return undefined
  const parts: ExternalPart[] = []
  let before = 0
  for (let i = 0; i < fields.length; i += 4) {
    const numbers = `${fields[i]} ${fields[i + 1]}`
    const options = /^(?:-|(C?)(?:B([0-9]{1,7}))?)$/.exec(fields[i + 2]!)
    if (!/^[0-9]{1,15} [0-9]{1,15}$/.test(numbers) || options === null || fields[i + 2] === '') return undefined
    const [start, size] = numbers.split(' ').map(Number) as [number, number]
    const lineLength = Number(options[2] ?? 0)
    if (start < before || start + size > plainSize || lineLength % 4 !== 0) return undefined
    if (options[2] !== undefined && lineLength === 0) return undefined
    const path = fields[i + 3]!
    if (!isBelow(path)) return undefined
    parts.push({ start, size, lineLength, crlf: options[1] === 'C', path })
    before = start + size
  }
  return parts
}

function isBelow(path: string): boolean {
  if (path.length === 0 || path.length > REFERENCE_PATH_MAX || !/^[\x21-\x7e]+$/.test(path)) return false
  return path.split('/').every((name) => name !== '' && name !== '.' && name !== '..')
}
