/** What a writer may say about a file: names and values that every store which keeps them keeps unchanged (S3 sets the limits). */
import type { FsMetadata } from './contract.ts'
import { FsError } from './error.ts'

/** Longest name, in characters. */
export const METADATA_NAME_MAX = 64
/** Most bytes of all names and values of one file. */
export const METADATA_MAX_BYTES = 2048

const NAME = /^[a-z0-9-]+$/
/** Printable US-ASCII; a space neither first nor last, since headers lose those. */
const VALUE = /^(?:[!-~](?:[ -~]*[!-~])?)?$/

/**
 * A copy that nobody can change, in the order of names. FS_DENIED for a name or value that is not allowed, FS_LIMIT for
 * a name or a whole that is too long; `path` is for the error.
 */
export function checkMetadata(metadata: FsMetadata, path: string): FsMetadata {
  let size = 0
  const names = Object.keys(metadata).sort()
  for (const name of names) {
    const value: unknown = metadata[name]
    if (!NAME.test(name)) throw new FsError('FS_DENIED', `${JSON.stringify(name)} is no name of metadata`, { path })
    if (typeof value !== 'string' || !VALUE.test(value))
      throw new FsError('FS_DENIED', `metadata ${name} has a value that is not printable US-ASCII`, { path })
    if (name.length > METADATA_NAME_MAX)
      throw new FsError('FS_LIMIT', `a name of metadata is longer than ${METADATA_NAME_MAX} characters`, {
        path,
        retryable: false,
      })
    size += name.length + value.length
  }
  if (size > METADATA_MAX_BYTES)
    throw new FsError('FS_LIMIT', `${size} bytes of metadata are more than ${METADATA_MAX_BYTES}`, {
      path,
      retryable: false,
    })
  return Object.freeze(Object.fromEntries(names.map((name) => [name, metadata[name]!])))
}
