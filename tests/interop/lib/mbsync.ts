/** Configuration of mbsync, for one account of a server under test. */

export interface MbsyncAccount {
  readonly user: string
  readonly password: string
  readonly port: number
  /** Directory for the maildirs: INBOX and the rest in `mail/`, or the one mailbox in `Team/`. */
  readonly home: string
}

/**
 * All mailboxes under `mail/`, or the one that is named as `Team`, both ways. `keepDates`: files have the date of arrival
 * (default: that of the copy).
 */
export function mbsyncConfiguration(
  { user, password, port, home }: MbsyncAccount,
  { only, keepDates = false }: { readonly only?: string; readonly keepDates?: boolean } = {},
): string {
  const near =
    only === undefined
      ? `Path ${home}/mail/
Inbox ${home}/mail/INBOX
SubFolders Verbatim`
      : `Path ${home}/`
  const channel =
    only === undefined
      ? `Channel all
Far :far:
Near :near:
Patterns *
Create Both
SyncState *`
      : `Channel team
Far :far:${only}
Near :near:Team
Create Near
SyncState ${home}/state-`
  return `
IMAPAccount server
Host 127.0.0.1
Port ${port}
User ${user}
Pass ${password}
SSLType None
AuthMechs LOGIN

IMAPStore far
Account server

MaildirStore near
${near}

${channel}
Expunge Both${keepDates ? '\nCopyArrivalDate yes' : ''}
`
}
