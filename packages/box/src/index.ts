export * from './lib/attachments.ts'
export * from './lib/contract.ts'
export { BoxError, type BoxErrorCode } from './lib/error.ts'
