export type * from './lib/contract.ts'
export { FsError, type FsErrorCode } from './lib/error.ts'
export { checkPath, PATH_MAX_BYTES, PATH_PART_MAX_BYTES } from './lib/path.ts'
export { requireSupport } from './lib/require-support.ts'
