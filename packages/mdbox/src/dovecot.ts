export type * from './lib/dovecot/contract.ts'
export { openDovecot } from './lib/dovecot/open-dovecot.ts'
