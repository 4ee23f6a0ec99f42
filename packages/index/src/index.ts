export * from './lib/contract.ts'
export { IndexError, type IndexErrorCode } from './lib/error.ts'
export { initRoot, ROOT_FILE, type Root, type RootOptions, type RootRole, readRoot } from './lib/root.ts'
