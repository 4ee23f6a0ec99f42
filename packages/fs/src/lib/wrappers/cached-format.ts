/**
 * Local copies of remote objects: one file each, of the `checksummed` layout, so that every byte read is verified.
 *
 * FORMAT   0      4  length   u32le  bytes of the description
 *          4      n  JSON     what it is a copy of: path, size, modifiedMs, tag, metadata
 *          4 + n  …  the object
 *
 * INVARIANTS
 *   1. A copy appears under its name when it is complete: it is written as `fill/<number>`, flushed, and renamed.
 *   2. The name is made of path and tag, and the description repeats them: a file in the wrong place is no copy.
 *
 * See docs/formats/fs-cache.md.
 */
import { createHash } from 'node:crypto'
import type { FsMetadata, FsStat } from '../contract.ts'

// All of these must not change: on disk.
const LENGTH_BYTES = 4
export const OBJECTS = 'objects'
export const FILL = 'fill'
export const LOCK = 'lock'
/** Longest description: a path and metadata of the most bytes that the contract allows, escaped. */
export const DESCRIPTION_BYTES_MAX = 65_536

export interface CachedObject {
  readonly path: string
  readonly stat: FsStat
  /** Names of this kind never change: what is stored does not say whether it still is what the remote has. */
  readonly immutable: boolean
}

/** Where the copy of `path`, as it was under `tag`, is; `undefined`: of a name that never changes. */
export function objectPath(path: string, tag: string | undefined): string {
  const digest = createHash('sha256')
    .update(JSON.stringify([path, tag ?? null]))
    .digest('hex')
  return `${OBJECTS}/${digest.slice(0, 2)}/${digest.slice(2)}`
}

export function isObjectName(name: string): boolean {
  return /^[0-9a-f]{62}$/.test(name)
}

export function encodeDescription({ path, stat, immutable }: CachedObject): Buffer {
  const { size, modifiedMs, tag, metadata } = stat
  const text = Buffer.from(JSON.stringify({ path, immutable, size, modifiedMs, tag, metadata }))
  const length = Buffer.alloc(LENGTH_BYTES)
  length.writeUInt32LE(text.length)
  return Buffer.concat([length, text])
}

/** How many bytes a description has, given its first four; undefined if that is nonsense. */
export function descriptionBytes(first: Buffer): number | undefined {
  if (first.length < LENGTH_BYTES) return undefined
  const length = first.readUInt32LE(0)
  return length > DESCRIPTION_BYTES_MAX ? undefined : LENGTH_BYTES + length
}

/** Undefined if it is not a description. */
export function decodeDescription(bytes: Buffer): CachedObject | undefined {
  let value: unknown
  try {
    value = JSON.parse(bytes.toString('utf8', LENGTH_BYTES))
  } catch {
    return undefined
  }
  if (typeof value !== 'object' || value === null) return undefined
  const { path, immutable, size, modifiedMs, tag, metadata } = value as Record<string, unknown>
  if (typeof path !== 'string' || typeof size !== 'number' || typeof modifiedMs !== 'number') return undefined
  if (typeof tag !== 'string' || typeof immutable !== 'boolean') return undefined
  if (metadata !== undefined && (typeof metadata !== 'object' || metadata === null)) return undefined
  const stat = { kind: 'file' as const, size, modifiedMs, tag }
  return {
    path,
    immutable,
    stat: metadata === undefined ? stat : { ...stat, metadata: metadata as FsMetadata },
  }
}
