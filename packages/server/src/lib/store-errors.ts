/**
 * What a failure of the store is called on the wire.
 *
 * Columns are read where they lie, so damage and outages below the store are also met in the middle of a FETCH or SEARCH, as
 * errors of the index or the file system. They mean the same as when the store meets them, and are told the same.
 */
import { FsError } from '@mailstead/fs'
import { ImapError } from '@mailstead/imap'
import { IndexError } from '@mailstead/index'
import { StoreError, type StoreErrorCode } from '@mailstead/store'
import { ServerError } from './error.ts'

/** Where a mailbox that does not exist is somebody's destination, the client is to create it (RFC 3501 §7.1). */
export type NoMailboxMeans = 'NONEXISTENT' | 'TRYCREATE'

/** What the store calls a failure, whichever layer it comes from; undefined: it is no failure of storage, but a bug. */
export function storeCodeOf(error: unknown): StoreErrorCode | undefined {
  if (error instanceof StoreError) return error.code
  if (error instanceof IndexError) {
    switch (error.code) {
      case 'INDEX_CORRUPT':
        return 'STORE_CORRUPT'
      case 'INDEX_UNCERTAIN':
        return 'STORE_UNCERTAIN'
      case 'INDEX_LIMIT':
        return 'STORE_LIMIT'
      case 'INDEX_TABLE_GONE':
      case 'INDEX_CLOSED':
        return 'STORE_CLOSED'
      case 'INDEX_NOT_FOUND':
        return 'STORE_NOT_FOUND'
      case 'INDEX_TABLE_EXISTS':
        return 'STORE_EXISTS'
      case 'INDEX_CONFLICT':
      case 'INDEX_LOCKED':
      case 'INDEX_WRITE_FAILED':
        return 'STORE_UNAVAILABLE'
    }
  }
  if (error instanceof FsError) {
    if (error.code === 'FS_CORRUPT') return 'STORE_CORRUPT'
    return error.code === 'FS_UNCERTAIN' ? 'STORE_UNCERTAIN' : 'STORE_UNAVAILABLE'
  }
  // A root that is not there now was there, or nobody would be served.
  if (error instanceof ServerError && error.code === 'SERVER_NO_ROOT') return 'STORE_UNAVAILABLE'
  return boxCodeOf(error)
}

/** By name: boxes are made by whoever starts the server, and their package is none of ours. */
function boxCodeOf(error: unknown): StoreErrorCode | undefined {
  if (!(error instanceof Error) || error.name !== 'BoxError') return undefined
  switch ((error as { code?: unknown }).code) {
    case 'BOX_NOT_FOUND':
    case 'BOX_DAMAGED':
    case 'BOX_CORRUPT':
      return 'STORE_DAMAGED'
    case 'BOX_LIMIT':
      return 'STORE_LIMIT'
    case 'BOX_CLOSED':
      return 'STORE_CLOSED'
    case 'BOX_INCOMPLETE':
      return 'STORE_INCOMPLETE'
    default:
      return 'STORE_UNAVAILABLE'
  }
}

/** Somebody has to repair something: waiting does not help, as it does in an outage. */
export function isDamage(error: unknown): boolean {
  const code = storeCodeOf(error)
  return code === 'STORE_CORRUPT' || code === 'STORE_DAMAGED'
}

/** The error the engine is to be given. What is not the store's is left as it is: a bug, reported as one. */
export function imapError(error: unknown, noMailbox: NoMailboxMeans = 'NONEXISTENT'): unknown {
  if (error instanceof ServerError && error.code === 'SERVER_CLOSED')
    return new ImapError('UNAVAILABLE', 'The server is stopping', { cause: error })
  if (error instanceof ServerError && error.code === 'SERVER_USERS')
    return new ImapError('UNAVAILABLE', 'Who may log in cannot be told now', { cause: error })
  const code = storeCodeOf(error)
  if (code === undefined) return error
  switch (code) {
    case 'STORE_NO_MAILBOX':
      return new ImapError(noMailbox, 'No such mailbox', { cause: error })
    case 'STORE_DENIED':
      return new ImapError('NOPERM', 'Permission denied', { cause: error })
    case 'STORE_EXISTS':
      return new ImapError('ALREADYEXISTS', 'Mailbox already exists', { cause: error })
    case 'STORE_BAD_NAME':
      return new ImapError('CANNOT', 'This name is not possible', { cause: error })
    case 'STORE_EXPUNGED':
      return new ImapError('EXPUNGEISSUED', 'Some messages no longer exist', { cause: error })
    case 'STORE_DAMAGED':
      return new ImapError('SERVERBUG', 'Some messages are damaged and cannot be read', { cause: error })
    case 'STORE_LIMIT':
      return new ImapError('LIMIT', 'A limit of the server was reached', { cause: error })
    case 'STORE_UNAVAILABLE':
      return new ImapError('UNAVAILABLE', 'The mail store is not available now', { cause: error })
    case 'STORE_INCOMPLETE':
      return new ImapError('UNAVAILABLE', 'The mail store waits to be rebuilt', { cause: error })
    case 'STORE_UNCERTAIN':
      return new ImapError('UNAVAILABLE', 'The change may or may not have happened', { cause: error })
    case 'STORE_CORRUPT':
      return new ImapError('CORRUPTION', 'The mail store is damaged', { cause: error })
    case 'STORE_NOT_FOUND':
    case 'STORE_CLOSED':
      return new ImapError('UNAVAILABLE', 'The mailbox was closed', { cause: error })
  }
}
