export type * from './lib/acl-session.ts'
export { ImapError, type ImapErrorCode } from './lib/error.ts'
export type * from './lib/session.ts'
export * from './lib/vocabulary.ts'
