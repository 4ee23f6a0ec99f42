export { type CachedFs, type CachedOptions, cached } from './lib/wrappers/cached.ts'
export type { CacheCounters } from './lib/wrappers/cached-copies.ts'
export { type ChecksummedOptions, checksummed } from './lib/wrappers/checksummed.ts'
export { type CompressedOptions, compressed } from './lib/wrappers/compressed.ts'
export { type DelayedOptions, delayed } from './lib/wrappers/delayed.ts'
export { type EncryptedFs, type EncryptedOptions, type EncryptionKeys, encrypted } from './lib/wrappers/encrypted.ts'
export { type LimitedOptions, limited } from './lib/wrappers/limited.ts'
export { type MetadataOptions, metadata } from './lib/wrappers/metadata.ts'
export {
  type FsFailure,
  type FsMeter,
  type FsMeterOptions,
  type FsMetrics,
  type FsOperationMetrics,
  fsMeter,
  type MeteredOptions,
  metered,
} from './lib/wrappers/metered.ts'
export type { FsOperation } from './lib/operations.ts'
export { prefixed } from './lib/wrappers/prefixed.ts'
export { readOnly } from './lib/wrappers/read-only.ts'
export type { FsTier } from './lib/wrappers/open-paths.ts'
export { type TieredFs, tiered } from './lib/wrappers/tiered.ts'
