/**
 * Cache field `thread`: what THREAD=REFERENCES needs (RFC 5256 §2.2, §3), beside `sort`.
 *
 * FORMAT   version(1 byte, 0) count(u16le) then for each id: u16le length and bytes           must not change: on disk
 *          The first id is the message's own (length 0: it has none that is valid), the others its references, oldest first:
 *          those of References, or if it has none that is valid the first of In-Reply-To.
 *          Ids are normalised (`messageIds`): equal ids are equal bytes, each byte one character.
 *
 * An empty record: ask the message.
 */
import { messageIds } from '@mailstead/message'

const VERSION = 0
/** References kept of one message: the newest, which are at the end. */
const REFERENCES_MAX = 1000
const ID_MAX = 0xffff

export interface ThreadInput {
  readonly messageId: string | undefined
  readonly references: readonly string[]
  readonly inReplyTo: string | undefined
}

export interface ThreadField {
  /** Empty if the message has no valid one. */
  readonly messageId: string
  readonly references: readonly string[]
}

export function writeThreadField(input: ThreadInput): Uint8Array {
  const own = input.messageId === undefined ? '' : (messageIds(input.messageId)[0] ?? '')
  let references: readonly string[]
  if (input.references.length === 1) references = messageIds(input.references[0]!)
  else references = input.references.flatMap((value) => messageIds(value))
  if (references.length === 0 && input.inReplyTo !== undefined) references = messageIds(input.inReplyTo).slice(0, 1)
  if (references.length > REFERENCES_MAX) references = references.slice(-REFERENCES_MAX)
  let text = `${String.fromCharCode(VERSION)}${u16(references.length + 1)}${sized(own)}`
  for (const id of references) text += sized(id)
  return Buffer.from(text, 'latin1')
}

/** Little-endian, one byte in each character. */
function u16(value: number): string {
  return String.fromCharCode(value & 0xff, value >>> 8)
}

function sized(id: string): string {
  const kept = id.length > ID_MAX ? id.slice(0, ID_MAX) : id
  return u16(kept.length) + kept
}

/** Throws a RangeError for bytes that are no such record. */
export function readThreadField(record: Uint8Array): ThreadField {
  const bytes = Buffer.from(record.buffer, record.byteOffset, record.length)
  if (bytes.length < 5 || bytes[0] !== VERSION) throw new RangeError('no thread record')
  const count = bytes.readUInt16LE(1)
  const ids: string[] = []
  let at = 3
  for (let i = 0; i < count; i++) {
    const length = bytes.readUInt16LE(at)
    if (at + 2 + length > bytes.length) throw new RangeError('no thread record')
    ids.push(bytes.toString('latin1', at + 2, at + 2 + length))
    at += 2 + length
  }
  const [messageId = '', ...references] = ids
  return { messageId, references }
}
