/**
 * What the scanner is willing to keep and to follow. A message beyond a limit is still measured to the last byte; the
 * part concerned becomes a leaf, or its header is kept in part only, and `quirks` says which.
 */

const KiB = 1024
const MiB = 1024 * KiB

export interface ScanOptions {
  /** Bytes kept, and searched for fields, of any one header. The rest of it is only measured. (default 1 MiB) */
  readonly headerBytes?: number
  /** Bytes of headers of enclosed messages kept in all; further ones have an empty `header`. (default 4 MiB) */
  readonly enclosedHeaderBytes?: number
  /** Deepest nesting of parts followed, the root counting as one. (default 100) */
  readonly mimeDepth?: number
  /** Parts followed in all. Boundary lines after this many are text. (default 10,000) */
  readonly parts?: number
  /** Content-* fields read of any one header; the first of each kind counts anyway. (default 256) */
  readonly contentFields?: number
  /** Parameters kept of one Content-Type or Content-Disposition. (default 256) */
  readonly parameters?: number
  /** Bytes of a Content-* field that are read; the rest of that field is ignored. (default 64 KiB) */
  readonly fieldBytes?: number
  /** Bytes of Content-* fields read in all; further ones are ignored. (default 4 MiB) */
  readonly contentBytes?: number
}

/** The defaults of {@link ScanOptions}, and limits that are not options. */
export const ScanLimits: Required<ScanOptions> & {
  readonly boundaryBytes: number
  readonly lineStartBytes: number
  readonly addresses: number
  readonly messageIds: number
  readonly messageIdBytes: number
  readonly messageIdFailures: number
  readonly dateBytes: number
} = {
  headerBytes: 1 * MiB,
  enclosedHeaderBytes: 4 * MiB,
  mimeDepth: 100,
  parts: 10_000,
  contentFields: 256,
  parameters: 256,
  fieldBytes: 64 * KiB,
  contentBytes: 4 * MiB,
  /** Bytes of a boundary that are compared. RFC 2046 §5.1.1 allows 70. */
  boundaryBytes: 80,
  /** Bytes at the start of a line that decide whether it is a boundary: two dashes, the boundary, two dashes, CRLF. */
  lineStartBytes: 80 + 2 + 2 + 2,
  /** Addresses read of one header field. */
  addresses: 10_000,
  /** Message ids read of one field, and of its bytes, and `<` that begin none before the rest is given up. */
  messageIds: 10_000,
  messageIdBytes: 256 * KiB,
  messageIdFailures: 256,
  /** Bytes of a Date value that are looked at. */
  dateBytes: 256,
}

/** Fills in defaults and rejects nonsense once, at the door. */
export function withDefaults(options?: ScanOptions): Required<ScanOptions> {
  if (options === undefined) return ScanLimits
  const filled = {
    headerBytes: options.headerBytes ?? ScanLimits.headerBytes,
    enclosedHeaderBytes: options.enclosedHeaderBytes ?? ScanLimits.enclosedHeaderBytes,
    mimeDepth: options.mimeDepth ?? ScanLimits.mimeDepth,
    parts: options.parts ?? ScanLimits.parts,
    contentFields: options.contentFields ?? ScanLimits.contentFields,
    parameters: options.parameters ?? ScanLimits.parameters,
    fieldBytes: options.fieldBytes ?? ScanLimits.fieldBytes,
    contentBytes: options.contentBytes ?? ScanLimits.contentBytes,
  }
  for (const [name, value] of Object.entries(filled)) {
    if (!Number.isSafeInteger(value) || value < 1)
      throw new TypeError(`${name} must be a positive integer, not ${value}`)
  }
  // Structures are walked by recursion, by us and by those who format them.
  if (filled.mimeDepth > 1000) throw new TypeError(`mimeDepth must be at most 1000, not ${filled.mimeDepth}`)
  return filled
}
