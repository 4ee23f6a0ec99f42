export * from './lib/contract.ts'
export { StoreError, type StoreErrorCode } from './lib/error.ts'
