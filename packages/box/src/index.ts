export * from './lib/attachments.ts'
export { mustBeComplete } from './lib/complete.ts'
export * from './lib/contract.ts'
export { BoxError, type BoxErrorCode } from './lib/error.ts'
