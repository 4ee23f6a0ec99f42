/**
 * Names of files in a directory of blobs.
 *
 *   domain                                        the key of the domain (domain.ts)
 *   tmp/<16 hex>                                  what is being written, or was when its writer died
 *   <hh>/<key>-<instance>                         a blob; hh are the first two digits of its key
 *   <hh>/<key>-<instance>.<store>-<hold>          of a shared directory: this store holds the blob
 *   <hh>/<key>-<instance>.dead                    of a shared directory: nobody may begin to use this file
 *
 * key: 64 digits, instance and hold: 16, store: 32; all lower-case hex. The first 8 digits of a hold, and of an instance where the
 * directory is one store's own, are the epoch in which it was made.
 */
import { toHex } from '@mailstead/bytes'
import { BLOB_INSTANCE_BYTES, BLOB_KEY_BYTES, BLOB_REF_BYTES } from './contract.ts'

export const TMP = 'tmp'
export const DEAD = '.dead'
/** Whether a directory of this name has blobs in it: those whose key begins with this byte. */
export function isPrefix(name: string): boolean {
  return /^[0-9a-f]{2}$/.test(name)
}

const blobName = /^([0-9a-f]{64})-([0-9a-f]{16})(\.dead|\.([0-9a-f]{32})-([0-9a-f]{16}))?$/

export type ParsedName =
  | { readonly kind: 'blob'; readonly blob: string }
  | { readonly kind: 'dead'; readonly blob: string }
  | { readonly kind: 'hold'; readonly blob: string; readonly store: string; readonly hold: string }

/** What a name in a directory of blobs says; undefined if it is none of ours. `blob` is the name of the file it is about. */
export function parseName(name: string): ParsedName | undefined {
  const found = blobName.exec(name)
  if (found === null) return undefined
  const blob = name.slice(0, 2 * BLOB_REF_BYTES + 1)
  if (found[3] === undefined) return { kind: 'blob', blob }
  if (found[3] === DEAD) return { kind: 'dead', blob }
  return { kind: 'hold', blob, store: found[4]!, hold: found[5]! }
}

/** The name of the blob with this reference, without its directory. */
export function nameOfRef(ref: Uint8Array): string {
  if (ref.length !== BLOB_REF_BYTES) throw new RangeError(`a reference of ${ref.length} bytes`)
  return `${toHex(ref.subarray(0, BLOB_KEY_BYTES))}-${toHex(ref.subarray(BLOB_KEY_BYTES))}`
}

export function refOfName(name: string): Uint8Array {
  return Buffer.from(name.slice(0, 64) + name.slice(65, 65 + 2 * BLOB_INSTANCE_BYTES), 'hex')
}

/** The epoch that the first bytes of an instance or a hold tell. */
export function epochOf(id: Uint8Array): number {
  return id[0]! * 2 ** 24 + id[1]! * 2 ** 16 + id[2]! * 2 ** 8 + id[3]!
}

/** 8 bytes: the epoch, then 4 random bytes. */
export function idOf(epoch: number, random: (bytes: Uint8Array) => void): Uint8Array {
  const id = Buffer.alloc(BLOB_INSTANCE_BYTES)
  random(id)
  id.writeUInt32BE(epoch)
  return id
}
