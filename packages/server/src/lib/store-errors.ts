/** What a failure of the store is called on the wire of IMAP. */
import { ImapError } from '@mailstead/imap'
import { StoreError } from '@mailstead/store'
import { ServerError } from './error.ts'

/** Where a mailbox that does not exist is somebody's destination, the client is to create it (RFC 3501 §7.1). */
export type NoMailboxMeans = 'NONEXISTENT' | 'TRYCREATE'

/** The error the engine is to be given. What is not the store's is left as it is: a bug, reported as one. */
export function imapError(error: unknown, noMailbox: NoMailboxMeans = 'NONEXISTENT'): unknown {
  if (error instanceof ServerError && error.code === 'SERVER_CLOSED')
    return new ImapError('UNAVAILABLE', 'The server is stopping', { cause: error })
  if (!(error instanceof StoreError)) return error
  switch (error.code) {
    case 'STORE_NO_MAILBOX':
      return new ImapError(noMailbox, 'No such mailbox', { cause: error })
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
    case 'STORE_UNCERTAIN':
      return new ImapError('UNAVAILABLE', 'The change may or may not have happened', { cause: error })
    case 'STORE_CORRUPT':
      return new ImapError('CORRUPTION', 'The mail store is damaged', { cause: error })
    case 'STORE_NOT_FOUND':
    case 'STORE_CLOSED':
      return new ImapError('UNAVAILABLE', 'The mailbox was closed', { cause: error })
  }
}

/** Runs `work`, its failures renamed. */
export async function renamed<T>(work: () => Promise<T>, noMailbox?: NoMailboxMeans): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw imapError(error, noMailbox)
  }
}
