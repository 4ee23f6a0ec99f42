export { serveImap } from './lib/connection.ts'
export type { CloseReason, ImapConnection, ImapEvent, ImapServerOptions } from './lib/engine-options.ts'
export { expungeRule, type ExpungeRule } from './lib/expunge-rule.ts'
export { defaultLimits, type ImapLimits } from './lib/limits.ts'
