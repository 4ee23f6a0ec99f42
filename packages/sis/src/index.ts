export * from './lib/contract.ts'
export { SisError, type SisErrorCode } from './lib/error.ts'
