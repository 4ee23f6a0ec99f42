export * from './lib/contract.ts'
export { StoreError, type StoreErrorCode } from './lib/error.ts'
export { checkName, DELIMITER, INBOX, NAME_DEPTH_MAX, NAME_LEVEL_MAX, NAME_MAX } from './lib/name.ts'
export { INDEX_PATH, openStore } from './lib/store.ts'
