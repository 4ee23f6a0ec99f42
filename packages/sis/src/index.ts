export {
  type AttachmentsOptions,
  type AttachmentsSweepOptions,
  attachments,
  type Messages,
  type SisAttachmentStore,
  type SisAttachments,
  type SisBatch,
  type SisMessage,
} from './lib/attachments.ts'
export * from './lib/contract.ts'
export { type BlobBudget, blobBudget, type BlobStoreOptions, type BlobTurns } from './lib/blob-store.ts'
export type { CheckOptions, References, SisFinding } from './lib/check.ts'
export { SisError, type SisErrorCode } from './lib/error.ts'
export {
  type ExtractOptions,
  type Extracted,
  Extraction,
  type ExtractTargets,
  MIN_SIZE_DEFAULT,
} from './lib/extract.ts'
export { SegmentLimits, segmentRefs } from './lib/segments.ts'
export { type PartFailure, weave, type Woven, type WovenInline, type WovenPart } from './lib/weave.ts'
export { openSis, type Sis, type SisOptions } from './lib/sis.ts'
export type { SisStats } from './lib/stats.ts'
export type { SweepOptions, SweepReport } from './lib/sweep.ts'
export {
  BLOB_COLUMNS,
  type ReferenceColumn,
  type ReferenceHost,
  type ReferencePending,
  type ReferenceSweepTransaction,
  type ReferenceTransaction,
  type ReferenceView,
} from './lib/references.ts'
