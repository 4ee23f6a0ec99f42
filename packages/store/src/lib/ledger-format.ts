/**
 * The ledger's bytes: what the tree says of mailboxes, beside their messages.
 *
 * FORMAT   file     := header payload crc u32
 *          header   := "mailledg", version u16 (0), zero u16, length u32 (of the payload), crc u32             20 bytes
 *          payload  := version of the tree u48, count varint, value*, known u8, count varint, link*
 *          value    := key text, length varint, bytes           as in the tree (tree.ts), keys in ascending order
 *          link     := GUID 16 bytes, GUID 16 bytes             a message went from the one mailbox to the other; in ascending order
 *          known    := 1: no message went any other way; 0: that is not known, and no link is written
 *          Integers are little-endian; a text is its length in bytes (a varint) and UTF-8. Each crc is CRC-32 over what is before it, the
 *          second one seeded with the first. must not change: on disk
 *
 * INVARIANT   It is read whole or not at all: a file of which a byte is missing, or another, says nothing.
 *
 * See docs/formats/ledger.md.
 */
import { ByteReader, BytesError, ByteWriter, crc32 } from '@mailstead/bytes'

const MAGIC = 'mailledg'
const HEADER = 20
const CRC = 4
const GUID = 16
/** Longest file that is read, in bytes. Longer is damage. */
export const LEDGER_MAX: number = 1 << 30

/** Of each mailbox, by GUID, the mailboxes that messages went to from there. */
export type Links = ReadonlyMap<string, ReadonlySet<string>>

export interface LedgerState {
  /** Of the tree that it was written from. */
  readonly version: number
  /** By their keys in the tree. */
  readonly values: ReadonlyMap<string, Uint8Array>
  /** Undefined: where messages went is not known. */
  readonly links: Links | undefined
}

export function encodeLedger({ version, values, links }: LedgerState): Uint8Array {
  const out = new ByteWriter(4096)
  out.bytes(Buffer.from(MAGIC))
  out.u16(0)
  out.u16(0)
  out.reserve(8)
  out.u48(version)
  out.varint(values.size)
  for (const [key, value] of [...values].sort(([a], [b]) => (a < b ? -1 : 1))) {
    out.utf8(key)
    out.sized(value)
  }
  const pairs = [...(links ?? [])].flatMap(([from, tos]) => [...tos].map((to) => from + to)).sort()
  out.u8(links === undefined ? 0 : 1)
  out.varint(pairs.length)
  for (const pair of pairs) out.bytes(Buffer.from(pair, 'hex'))
  const length = out.view().length - HEADER
  out.patchU32(12, length)
  const head = crc32(out.view(0, HEADER - CRC))
  out.patchU32(HEADER - CRC, head)
  out.u32(crc32(out.view(HEADER), head))
  return out.finish()
}

/** Whether these bytes are meant to be a ledger, damaged or not. */
export function isLedger(bytes: Uint8Array): boolean {
  return Buffer.from(bytes.subarray(0, MAGIC.length)).toString('latin1') === MAGIC
}

/** Undefined for what `encodeLedger` does not write. */
export function decodeLedger(bytes: Uint8Array): LedgerState | undefined {
  if (bytes.length < HEADER + CRC) return undefined
  const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  if (!isLedger(bytes) || all.readUInt32LE(8) !== 0) return undefined
  const head = all.readUInt32LE(HEADER - CRC)
  const end = HEADER + all.readUInt32LE(12)
  if (head !== crc32(all.subarray(0, HEADER - CRC)) || end + CRC !== all.length) return undefined
  if (all.readUInt32LE(end) !== crc32(all.subarray(HEADER, end), head)) return undefined
  try {
    return decode(new ByteReader(bytes, HEADER, end))
  } catch (error) {
    if (error instanceof BytesError) return undefined
    throw error
  }
}

function decode(from: ByteReader): LedgerState | undefined {
  const version = from.u48()
  const values = new Map<string, Uint8Array>()
  for (let left = from.varint(); left > 0; left--) {
    const key = from.utf8()
    values.set(key, Uint8Array.from(from.sized()))
  }
  const known = from.u8()
  const links = new Map<string, Set<string>>()
  for (let left = from.varint(); left > 0; left--) {
    const one = Buffer.from(from.bytes(GUID)).toString('hex')
    const other = Buffer.from(from.bytes(GUID)).toString('hex')
    const tos = links.get(one)
    if (tos === undefined) links.set(one, new Set([other]))
    else tos.add(other)
  }
  from.expectEnd()
  return known > 1 ? undefined : { version, values, links: known === 1 ? links : undefined }
}
