/**
 * Who is told \Recent: the first session that selects a mailbox read-write after a message came (RFC 3501 §2.3.2).
 *
 * Kept in memory, for as long as the server runs, whether or not the store is open meanwhile; after a restart nothing that
 * was there is recent. Per mailbox one number: UIDs below it are not recent to anybody any more.
 */
import type { MailboxInfo } from '@mailstead/store'

export class RecentMarks {
  readonly #marks = new Map<string, number>()

  constructor(mailboxes: readonly MailboxInfo[]) {
    for (const { guid, uidNext } of mailboxes) this.#marks.set(guid, uidNext)
  }

  /** First UID that nobody has claimed. A mailbox that came later has none claimed. */
  mark(guid: string): number {
    return this.#marks.get(guid) ?? 1
  }

  /** Claims all below `uidNext`. Returns the first UID that is recent for the claimer. */
  claim(guid: string, uidNext: number): number {
    const mark = this.mark(guid)
    if (uidNext > mark) this.#marks.set(guid, uidNext)
    return mark
  }
}
