export type * from './lib/contract.ts'
export { MountError, type MountErrorCode } from './lib/error.ts'
export { guardedFs } from './lib/guarded.ts'
