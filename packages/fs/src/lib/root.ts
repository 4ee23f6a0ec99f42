/**
 * The marker of a root: that this directory was made for Mailstead, and for what.
 *
 * A root is a directory that may be a mount of its own: data, indexes, an alternate storage, attachments. An empty
 * directory may be one whose mount is missing; with its marker missing too, nothing is created in it. The marker is
 * written by an explicit init and never changes.
 *
 * FILE     `mailstead-root`, exactly 32 bytes
 *          offset  size  field
 *          0       8     magic    "mailroot"
 *          8       2     version  u16le  0
 *          10      2     role     u16le  1 data, 2 index, 3 alternate, 4 attachments
 *          12      16    uuid
 *          28      4     crc      u32le  CRC-32 of the 28 bytes before it
 *
 * See docs/formats/root.md.
 */
import { randomFillSync } from 'node:crypto'
import { crc32 } from 'node:zlib'
import type { Fs } from './contract.ts'
import { FsError } from './error.ts'

export type RootRole = 'data' | 'index' | 'alternate' | 'attachments'

export interface Root {
  /** 16 bytes. */
  readonly uuid: Uint8Array
  readonly role: RootRole
}

export interface RootOptions {
  /** Fills a buffer with randomness. (default node:crypto) */
  readonly random?: (bytes: Uint8Array) => void
}

/** Must not change: on disk. */
export const ROOT_FILE = 'mailstead-root'
const MAGIC: Buffer = Buffer.from('mailroot')
const VERSION = 0
const ROOT_BYTES = 32
/** Must not change: on disk. */
const roles: Readonly<Record<RootRole, number>> = { data: 1, index: 2, alternate: 3, attachments: 4 }

export function encodeRoot({ uuid, role }: Root): Uint8Array {
  if (uuid.length !== 16) throw new RangeError(`a root's UUID of ${uuid.length} bytes`)
  const out = Buffer.alloc(ROOT_BYTES)
  out.set(MAGIC, 0)
  out.writeUInt16LE(VERSION, 8)
  out.writeUInt16LE(roles[role], 10)
  out.set(uuid, 12)
  out.writeUInt32LE(crc32(out.subarray(0, 28)), 28)
  return out
}

/** FS_CORRUPT for anything that `encodeRoot` does not write. */
export function decodeRoot(bytes: Uint8Array): Root {
  const marker = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  if (marker.length !== ROOT_BYTES) throw damaged(`it has ${marker.length} bytes`)
  if (marker.readUInt32LE(28) !== crc32(marker.subarray(0, 28))) throw damaged('its checksum does not fit')
  if (!marker.subarray(0, 8).equals(MAGIC)) throw damaged('it is something else')
  if (marker.readUInt16LE(8) !== VERSION) throw damaged(`its version is ${marker.readUInt16LE(8)}, not ${VERSION}`)
  const code = marker.readUInt16LE(10)
  for (const role of Object.keys(roles) as RootRole[])
    if (roles[role] === code) return { uuid: Uint8Array.from(marker.subarray(12, 28)), role }
  throw damaged(`its role is ${code}`)
}

function damaged(why: string): FsError {
  return new FsError('FS_CORRUPT', `the root marker ${ROOT_FILE} is damaged: ${why}`, { path: ROOT_FILE })
}

/** Marks a root, durably. FS_EXISTS if it is marked already. */
export async function initRoot(fs: Fs, role: RootRole, options: RootOptions = {}): Promise<Root> {
  const uuid = new Uint8Array(16)
  ;(options.random ?? randomFillSync)(uuid)
  const root: Root = { uuid, role }
  await fs.writeFile(ROOT_FILE, encodeRoot(root), { ifAbsent: true })
  return root
}

/** Undefined if there is no marker. FS_CORRUPT if it is damaged. */
export async function readRoot(fs: Fs): Promise<Root | undefined> {
  let bytes: Uint8Array
  try {
    // One byte more than it may have.
    bytes = await fs.readFile(ROOT_FILE, { start: 0, end: ROOT_BYTES + 1 })
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
    throw error
  }
  return decodeRoot(bytes)
}
