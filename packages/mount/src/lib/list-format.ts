/**
 * The two files of the list of mounts: `mounts`, which lasts, and `mounts.seen`, what was seen last.
 *
 * FORMAT   offset  size  field
 *          0       8     magic    "mailmnts"
 *          8       2     version  u16le  0
 *          10      2     kind     u16le  1 the list, 2 what was seen
 *          12      …     count    varint, at most MOUNTS_MAX
 *          …       …     entries  in ascending order of their paths' bytes, no path twice
 *          end-4   4     crc      u32le  CRC-32 of everything before it
 *
 *   entry of the list        path, origin u8, state u8, mail u8 (0, 1), known u8 (0, 1); if known: type, source, root, uuid, fsid
 *   entry of what was seen   path, state u8, observed u8, since u48le (milliseconds since the epoch), why
 *
 * Texts are UTF-8 after their length in bytes, a varint. Nothing follows. See docs/formats/mounts.md.
 */
import { ByteReader, BytesError, ByteWriter, compareBytes, crc32 } from '@mailstead/bytes'
import type { Mount, MountObserved, MountState, MountStatus, MountVolume } from './contract.ts'
import { MountError } from './error.ts'

/** Most entries of a list. */
export const MOUNTS_MAX = 4096
/** Longest path of a mount point, in bytes: Linux's PATH_MAX. */
export const MOUNT_PATH_MAX_BYTES = 4096
/** Longest other text, in bytes; what is longer is cut when it is written. */
const TEXT_MAX_BYTES = 1024
/** Longest file, in bytes: what is longer is none. */
export const LIST_MAX_BYTES: number = 64 * 1024 * 1024

// must not change: on disk
const MAGIC = 'mailmnts'
const VERSION = 0
const HEAD_BYTES = 12
const CRC_BYTES = 4
const kinds = { list: 1, seen: 2 } as const
const origins: Readonly<Record<Mount['origin'], number>> = { added: 1, found: 2 }
const states: Readonly<Record<MountState, number>> = { online: 1, offline: 2, failover: 3, ignore: 4 }
const observations: Readonly<Record<MountObserved, number>> = { mounted: 1, absent: 2, changed: 3, unguarded: 4 }

/** What of a mount is in the file of what was seen. */
export type MountSeen = Pick<MountStatus, 'path' | 'state' | 'observed' | 'sinceMs' | 'why'>

export function encodeList(mounts: Iterable<Mount>): Uint8Array {
  return encode('list', mounts, (writer, { origin, state, mail, volume }) => {
    writer.u8(origins[origin])
    writer.u8(states[state])
    writer.u8(mail ? 1 : 0)
    writer.u8(volume === undefined ? 0 : 1)
    if (volume === undefined) return
    for (const text of [volume.type, volume.source, volume.root, volume.uuid, volume.fsid]) writer.utf8(cut(text))
  })
}

/** MOUNT_DAMAGED for anything that `encodeList` does not write; `file` is for the error. */
export function decodeList(bytes: Uint8Array, file: string): Mount[] {
  return decode('list', bytes, file, (reader, path) => {
    const origin = named(reader, origins)
    const state = named(reader, states)
    const mail = flag(reader)
    const volume: MountVolume | undefined = flag(reader)
      ? { type: reader.utf8(), source: reader.utf8(), root: reader.utf8(), uuid: reader.utf8(), fsid: reader.utf8() }
      : undefined
    return { path, origin, state, mail, volume }
  })
}

export function encodeSeen(mounts: Iterable<MountSeen>): Uint8Array {
  return encode('seen', mounts, (writer, { state, observed, sinceMs, why }) => {
    writer.u8(states[state])
    writer.u8(observations[observed])
    writer.u48(Math.floor(sinceMs))
    writer.utf8(cut(why))
  })
}

/** As `decodeList`. */
export function decodeSeen(bytes: Uint8Array, file: string): MountSeen[] {
  return decode('seen', bytes, file, (reader, path) => {
    const state = named(reader, states)
    const observed = named(reader, observations)
    const sinceMs = reader.u48()
    return { path, state, observed, sinceMs, why: reader.utf8() }
  })
}

function encode<T extends { readonly path: string }>(
  kind: keyof typeof kinds,
  mounts: Iterable<T>,
  write: (writer: ByteWriter, mount: T) => void,
): Uint8Array {
  const sorted = [...mounts].sort((a, b) => compareBytes(Buffer.from(a.path), Buffer.from(b.path)))
  const writer = new ByteWriter()
  writer.bytes(Buffer.from(MAGIC))
  writer.u16(VERSION)
  writer.u16(kinds[kind])
  writer.varint(sorted.length)
  for (const mount of sorted) {
    writer.utf8(mount.path)
    write(writer, mount)
  }
  writer.u32(crc32(writer.view(0)))
  return writer.finish()
}

function decode<T>(
  kind: keyof typeof kinds,
  bytes: Uint8Array,
  file: string,
  read: (reader: ByteReader, path: string) => T,
): T[] {
  const damaged = (why: string, cause?: unknown): MountError =>
    new MountError('MOUNT_DAMAGED', `${file} is damaged: ${why}`, { path: file, cause })
  if (bytes.length < HEAD_BYTES + 1 + CRC_BYTES) throw damaged(`it has ${bytes.length} bytes`)
  const end = bytes.length - CRC_BYTES
  if (new ByteReader(bytes.subarray(end)).u32() !== crc32(bytes.subarray(0, end)))
    throw damaged('its checksum does not fit')
  const reader = new ByteReader(bytes.subarray(0, end))
  if (Buffer.from(reader.bytes(MAGIC.length)).toString('latin1') !== MAGIC) throw damaged('it is something else')
  const version = reader.u16()
  if (version !== VERSION) throw damaged(`its version is ${version}, not ${VERSION}`)
  if (reader.u16() !== kinds[kind]) throw damaged('it is the other file of a list')
  try {
    const count = reader.varint()
    if (count > MOUNTS_MAX) throw damaged(`it has ${count} entries`)
    const mounts: T[] = []
    let last: Uint8Array | undefined
    for (let i = 0; i < count; i++) {
      const path = reader.utf8()
      const key = Buffer.from(path)
      if (!path.startsWith('/') || (last !== undefined && compareBytes(last, key) >= 0))
        throw damaged(`entry ${i} is out of place`)
      last = key
      mounts.push(read(reader, path))
    }
    reader.expectEnd()
    return mounts
  } catch (error) {
    if (error instanceof BytesError) throw damaged(error.message, error)
    throw error
  }
}

function named<T extends string>(reader: ByteReader, names: Readonly<Record<T, number>>): T {
  const code = reader.u8()
  for (const name of Object.keys(names) as T[]) if (names[name] === code) return name
  throw reader.malformed(`no such code: ${code}`)
}

function flag(reader: ByteReader): boolean {
  const code = reader.u8()
  if (code > 1) throw reader.malformed(`no flag: ${code}`)
  return code === 1
}

function cut(text: string): string {
  if (Buffer.byteLength(text) <= TEXT_MAX_BYTES) return text.toWellFormed()
  return Buffer.from(text.toWellFormed())
    .subarray(0, TEXT_MAX_BYTES)
    .toString()
    .replace(/\uFFFD+$/, '')
}
