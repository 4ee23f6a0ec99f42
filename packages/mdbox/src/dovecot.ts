export type * from './lib/dovecot/contract.ts'
export { readAttachments } from './lib/dovecot/attachment-tree.ts'
export { openDovecot } from './lib/dovecot/open-dovecot.ts'
