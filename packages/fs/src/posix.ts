export type { PosixNodeFs } from './lib/node-fs.ts'
export { type PosixFsOptions, posixFs } from './lib/posix.ts'
export { inProcessLocks, kernelLocks, type PosixLocks } from './lib/posix-lock.ts'
