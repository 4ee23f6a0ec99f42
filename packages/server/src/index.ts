export {
  accessControl,
  type AccessControlOptions,
  mailboxAcl,
  type MailboxLists,
  readAcl,
} from './lib/access-control.ts'
export { type Recipient, recipientOf } from './lib/address.ts'
export { ServerError, type ServerErrorCode } from './lib/error.ts'
export type { OnServerEvent, ServerEvent, ServerEventLevel } from './lib/events.ts'
export { imapSession, type StoreSessionOptions } from './lib/imap-session.ts'
export {
  badNamespace,
  fullNames,
  type MailboxOf,
  type NamespaceKind,
  type NamespaceSettings,
  publicStoreName,
} from './lib/namespaces.ts'
export type { PurgeBudget } from './lib/purge-schedule.ts'
export { RecentMarks } from './lib/recent.ts'
export { hashSecret, parseSecret, type Secret, SECRET_SCHEMES, type SecretScheme, verifySecret } from './lib/secret.ts'
export { type KeptMailbox, type Shared, whatIsShared } from './lib/shared-mailboxes.ts'
export { Sharing, type SharingOptions } from './lib/sharing.ts'
export type { ListenAt, ServerOptions, SharedMailOptions, UserStorage } from './lib/server-options.ts'
export { type MailServer, startServer } from './lib/start.ts'
export { type StoreLease, StorePool, type StorePoolOptions } from './lib/store-pool.ts'
export { staticUsers, type User, type Users, usersFile, type UsersFileOptions } from './lib/users.ts'
export {
  badHome,
  badUserName,
  formatUserLine,
  type ParsedUsers,
  parseUserLine,
  parseUsers,
  type UserEntry,
  userDirectory,
  userKey,
  type UsersProblem,
} from './lib/users-file.ts'
