/** The closed set of failures. Branch on the code; the message is for people and may change. */
export type StoreErrorCode =
  /** The directory holds no store (and `create` was not given). */
  | 'STORE_NOT_FOUND'
  /** No mailbox has this name. */
  | 'STORE_NO_MAILBOX'
  /** The subject's rights on the mailbox do not suffice. Who may not know of it hears STORE_NO_MAILBOX instead. */
  | 'STORE_DENIED'
  /** A mailbox of this name exists. */
  | 'STORE_EXISTS'
  /** The name is not one a mailbox may have. */
  | 'STORE_BAD_NAME'
  /** The message was expunged and its bytes are gone; or one was that had to be there. */
  | 'STORE_EXPUNGED'
  /** The message's bytes are missing or fail their checksum. It stays listed; others are not affected. */
  | 'STORE_DAMAGED'
  /** A named limit was reached: message size, mailboxes, name length. */
  | 'STORE_LIMIT'
  /** The storage cannot be used now: unmounted, full, failing, locked too long. Nothing was changed. Retry later. */
  | 'STORE_UNAVAILABLE'
  /** The change may or may not have happened; open again to learn which. */
  | 'STORE_UNCERTAIN'
  /** What is asked for needs to know which messages nobody has, and a repair of the index may have lost rows: rebuild the store first. */
  | 'STORE_INCOMPLETE'
  /** The index or the tree is damaged beyond its redundancy. */
  | 'STORE_CORRUPT'
  /** The store or the mailbox is closed (or was removed by somebody else). */
  | 'STORE_CLOSED'

/** Every failure of this package. */
export class StoreError extends Error {
  override readonly name = 'StoreError'
  readonly code: StoreErrorCode
  readonly mailbox: string | undefined
  constructor(code: StoreErrorCode, message: string, details: { mailbox?: string; cause?: unknown } = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
    this.mailbox = details.mailbox
  }
}

export function noMailbox(name: string): StoreError {
  return new StoreError('STORE_NO_MAILBOX', `there is no mailbox ${JSON.stringify(name)}`, { mailbox: name })
}
