export type * from './lib/contract.ts'
export { FsError, type FsErrorCode } from './lib/error.ts'
