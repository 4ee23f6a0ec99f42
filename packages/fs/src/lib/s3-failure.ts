/**
 * What a failed request means: which error the caller sees, whether the request may be sent again, and whether it may
 * have taken effect although it failed. What is not known to be harmless is taken for uncertain.
 */
import { FsError, type FsErrorCode } from './error.ts'

export interface S3Failure {
  readonly code: FsErrorCode
  /** `none`: the server refused the request, or never got it. `unknown`: it may have happened, or may still happen. */
  readonly effect: 'none' | 'unknown'
  /** The same request may succeed soon. */
  readonly retry: boolean
  /** The server said that it turned the request away because there are too many. */
  readonly throttled: boolean
  /** 0 without an answer. */
  readonly status: number
  /** The server's name for it, or the system's. */
  readonly reason: string
  readonly cause: unknown
}

/** Nothing was sent. */
const neverSent = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EMFILE'])
/** Nothing was sent if there was no connection yet; an established one may end like this too, with the request on its way. */
const unreachable = new Set(['EHOSTUNREACH', 'ENETUNREACH'])
const throttles = new Set(['SlowDown', 'TooManyRequests', 'Throttling', 'ThrottlingException', 'RequestLimitExceeded'])
/** 4xx that pass: the body was damaged or slow on its way, somebody else wrote at the same moment, the clock was wrong. */
const passing = new Set([
  'BadDigest',
  'XAmzContentSHA256Mismatch',
  'IncompleteBody',
  'RequestTimeout',
  'RequestTimeTooSkewed',
  'ConditionalRequestConflict',
  'OperationAborted',
])
const limits = new Set([
  'EntityTooLarge',
  'KeyTooLongError',
  'InvalidObjectName',
  'MetadataTooLarge',
  'RequestHeaderSectionTooLarge',
])
/** What the client calls an answer to HEAD, which has no body that could give a reason. */
const UNKNOWN = 'Unknown'
/** The bucket, not the object, is what is missing or elsewhere: an outage or a wrong setting, never absence. */
const elsewhere = new Set([
  'NoSuchBucket',
  'InvalidBucketName',
  'PermanentRedirect',
  'TemporaryRedirect',
  'InvalidObjectState',
  'AuthorizationHeaderMalformed',
])
const full = new Set(['QuotaExceeded', 'InsufficientStorage', 'XMinioStorageFull'])

interface ErrorLike {
  readonly name?: string
  readonly message?: string
  readonly code?: unknown
  readonly Code?: unknown
  readonly syscall?: unknown
  /** Of several addresses that were tried, one after the other. */
  readonly errors?: readonly ErrorLike[]
  readonly $metadata?: { readonly httpStatusCode?: number; readonly attempts?: number }
}

export function failureOf(cause: unknown): S3Failure {
  const error = cause as ErrorLike
  const status = error.$metadata?.httpStatusCode ?? 0
  const reason =
    typeof error.Code === 'string' ? error.Code : typeof error.code === 'string' ? error.code : (error.name ?? 'Error')
  const connecting = (error.errors ?? [error]).every(({ syscall }) => syscall === 'connect')
  const sent = !neverSent.has(reason) && !(unreachable.has(reason) && connecting)
  const found = judge(status, reason, error.message ?? '', sent)
  // The client repeated the request by itself: an earlier try may have worked.
  const effect = (error.$metadata?.attempts ?? 1) > 1 ? 'unknown' : found.effect
  return { throttled: throttles.has(reason), ...found, effect, status, reason, cause }
}

function judge(
  status: number,
  reason: string,
  message: string,
  sent: boolean,
): Pick<S3Failure, 'code' | 'effect' | 'retry'> {
  if (message.startsWith('Checksum mismatch')) return { code: 'FS_CORRUPT', effect: 'none', retry: true }
  if (status === 0) {
    if (!sent) return { code: 'FS_UNAVAILABLE', effect: 'none', retry: true }
    // Settings that the client lacks.
    if (reason === 'CredentialsProviderError' || message.startsWith('Region is missing'))
      return { code: 'FS_DENIED', effect: 'none', retry: false }
    return { code: 'FS_UNAVAILABLE', effect: 'unknown', retry: true }
  }
  if (full.has(reason) || status === 507) return { code: 'FS_NO_SPACE', effect: 'none', retry: false }
  if (reason === 'NotImplemented' || status === 501 || status === 405)
    return { code: 'FS_UNSUPPORTED', effect: 'none', retry: false }
  if (passing.has(reason)) return { code: 'FS_UNAVAILABLE', effect: 'none', retry: true }
  if (status === 429) return { code: 'FS_UNAVAILABLE', effect: 'none', retry: true }
  // Also an error in the body of what began as a success.
  if (status >= 500 || status < 300) return { code: 'FS_UNAVAILABLE', effect: 'unknown', retry: true }
  return { code: refusal(status, reason), effect: 'none', retry: false }
}

function refusal(status: number, reason: string): FsErrorCode {
  if (elsewhere.has(reason) || status < 400) return 'FS_UNAVAILABLE'
  if (limits.has(reason) || status === 413) return 'FS_LIMIT'
  if (status === 401 || status === 403) return 'FS_DENIED'
  // Without the name it is not known that the object is what is missing.
  if (status === 404) return reason === 'NoSuchKey' ? 'FS_NOT_FOUND' : 'FS_UNAVAILABLE'
  if (status === 412) return 'FS_CONFLICT'
  // For want of a reason it is not taken for damage: Amazon says this to a HEAD in the wrong region.
  if (reason === UNKNOWN) return 'FS_UNAVAILABLE'
  return 'FS_IO'
}

/** The error that tells of `failure`; with another code where the caller knows better. */
export function errorOf(failure: S3Failure, path: string, override?: FsErrorCode): FsError {
  const { cause } = failure
  const code = override ?? failure.code
  // The limits of a server are those of sizes and lengths.
  const lasting = code === 'FS_LIMIT' ? { retryable: false } : {}
  const message = `${path === '' ? 'the bucket' : path}: ${describe(failure)}`
  return new FsError(code, message, { path, cause, ...lasting })
}

/** What the server said, or why it said nothing: that it cannot be reached, or what setting the client lacks. */
function describe({ status, reason, cause }: S3Failure): string {
  const { message = '' } = cause as ErrorLike
  if (status === 0) return message === '' ? reason : message
  const words =
    reason === UNKNOWN
      ? []
      : message === '' || message === reason || message === 'UnknownError'
        ? [reason]
        : [reason, message]
  return `the server said ${[status, ...words].join(' ')}`
}
