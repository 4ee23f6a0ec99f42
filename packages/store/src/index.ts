export {
  type AccessControl,
  type AccessSubject,
  ALL_RIGHTS,
  flagsByRights,
  type MailboxAccess,
  RIGHT_ADMIN,
  RIGHT_CREATE,
  RIGHT_DELETE,
  RIGHT_EXPUNGE,
  RIGHT_INSERT,
  RIGHT_LOOKUP,
  RIGHT_POST,
  RIGHT_READ,
  RIGHT_WRITE,
  RIGHT_WRITE_DELETED,
  RIGHT_WRITE_SEEN,
} from './lib/access.ts'
export type { StoreAltmoveOptions } from './lib/altmove.ts'
export {
  type AltmoveMessage,
  type AltmovePredicate,
  type AltmoveQuery,
  parseAltmoveQuery,
} from './lib/altmove-query.ts'
export * from './lib/contract.ts'
export * from './lib/import-contract.ts'
export { decodePop3, type Pop3Entry } from './lib/import-pop3.ts'
export { StoreError, type StoreErrorCode } from './lib/error.ts'
export { dumpLedger } from './lib/ledger-dump.ts'
export { MOVE_UNDER_WAY_MS } from './lib/moves.ts'
export { checkName, DELIMITER, INBOX, NAME_DEPTH_MAX, NAME_LEVEL_MAX, NAME_MAX } from './lib/name.ts'
export { INDEX_PATH } from './lib/path.ts'
export { type RebuildOptions, rebuildStore } from './lib/rebuild.ts'
export type { RebuildRecord } from './lib/rebuild-record.ts'
export { openStore } from './lib/store.ts'
