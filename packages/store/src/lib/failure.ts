/** What a failure below is called by a store. Whatever is not of a layer below is left as it is. */
import { BoxError } from '@mailstead/box'
import { FsError } from '@mailstead/fs'
import { IndexError } from '@mailstead/index'
import { StoreError, type StoreErrorCode } from './error.ts'

/** The error to throw in place of `error`: never wrapped twice, always with its cause. */
export function storeError(error: unknown, mailbox?: string): unknown {
  const code = codeOf(error)
  if (code === undefined) return error
  return new StoreError(
    code,
    (error as Error).message,
    mailbox === undefined ? { cause: error } : { mailbox, cause: error },
  )
}

function codeOf(error: unknown): StoreErrorCode | undefined {
  if (error instanceof IndexError) {
    switch (error.code) {
      case 'INDEX_NOT_FOUND':
        return 'STORE_NOT_FOUND'
      case 'INDEX_TABLE_EXISTS':
        return 'STORE_EXISTS'
      case 'INDEX_TABLE_GONE':
        return 'STORE_NO_MAILBOX'
      case 'INDEX_LIMIT':
        return 'STORE_LIMIT'
      case 'INDEX_UNCERTAIN':
        return 'STORE_UNCERTAIN'
      case 'INDEX_CORRUPT':
        return 'STORE_CORRUPT'
      case 'INDEX_CLOSED':
        return 'STORE_CLOSED'
      // Somebody else changed the same again and again: as good as a lock that is held too long.
      case 'INDEX_CONFLICT':
      case 'INDEX_LOCKED':
      case 'INDEX_WRITE_FAILED':
        return 'STORE_UNAVAILABLE'
    }
  }
  if (error instanceof BoxError) {
    switch (error.code) {
      case 'BOX_NOT_FOUND':
      case 'BOX_DAMAGED':
      case 'BOX_CORRUPT':
      case 'BOX_UNSUPPORTED':
        return 'STORE_DAMAGED'
      case 'BOX_LIMIT':
        return 'STORE_LIMIT'
      case 'BOX_INCOMPLETE':
        return 'STORE_INCOMPLETE'
      case 'BOX_WRITE_FAILED':
        return 'STORE_UNAVAILABLE'
      case 'BOX_CLOSED':
        return 'STORE_CLOSED'
    }
  }
  if (error instanceof FsError) {
    switch (error.code) {
      case 'FS_CORRUPT':
        return 'STORE_CORRUPT'
      case 'FS_UNCERTAIN':
        return 'STORE_UNCERTAIN'
      // A file that should be there and is not is an outage until somebody finds otherwise.
      default:
        return 'STORE_UNAVAILABLE'
    }
  }
  return undefined
}
