export * from './lib/contract.ts'
export { IndexError, type IndexErrorCode } from './lib/error.ts'
