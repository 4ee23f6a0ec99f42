/** What rights mean for whoever has a mailbox selected (RFC 4314 §4, §5.2), and how he is told what he may not. */
import { ImapError, type PermanentFlags } from '@mailstead/imap'
import {
  flagsByRights,
  RIGHT_EXPUNGE,
  RIGHT_INSERT,
  RIGHT_LOOKUP,
  RIGHT_READ,
  RIGHT_WRITE,
  RIGHT_WRITE_DELETED,
  RIGHT_WRITE_SEEN,
} from '@mailstead/store'

const SYSTEM_FLAGS = 31
export const RIGHTS_OF_FLAGS: number = RIGHT_WRITE | RIGHT_WRITE_SEEN | RIGHT_WRITE_DELETED
/** Without any of these a mailbox is selected read-only. */
export const RIGHTS_TO_CHANGE: number = RIGHTS_OF_FLAGS | RIGHT_EXPUNGE | RIGHT_INSERT

/** Undefined: all of them. */
export function permanentFlags(rights: number): PermanentFlags | undefined {
  if ((rights & RIGHTS_OF_FLAGS) === RIGHTS_OF_FLAGS) return undefined
  return { flags: flagsByRights(rights) & SYSTEM_FLAGS, keywords: (rights & RIGHT_WRITE) !== 0 }
}

/** NOPERM, or NONEXISTENT: the mailbox may be read no more. */
export function mustRead(rights: number): void {
  if ((rights & RIGHT_READ) !== 0) return
  throw (rights & RIGHT_LOOKUP) === 0
    ? new ImapError('NONEXISTENT', 'No such mailbox')
    : new ImapError('NOPERM', 'Permission denied')
}

export function mayExpunge(rights: number): boolean {
  return (rights & RIGHT_READ) !== 0 && (rights & RIGHT_EXPUNGE) !== 0
}

/** NOPERM, also where the mailbox may not be known of: who has it selected knows it. */
export function mustExpunge(rights: number): void {
  mustRead(rights)
  if (!mayExpunge(rights)) throw new ImapError('NOPERM', 'Permission denied')
}
