/** What an S3 file system is told, with its defaults, and the client that talks to the server. */
import { tmpdir } from 'node:os'
import { S3Client, type S3ClientConfig } from '@aws-sdk/client-s3'
import { checkPath } from './path.ts'

const MiB = 1024 * 1024

/** Smallest part of a multipart upload that Amazon and others take, in bytes. */
export const PART_MIN_BYTES: number = 5 * MiB
/** Largest object that one PUT may bring, in bytes: what S3 says. */
export const PUT_MAX_BYTES: number = 5 * 1024 * MiB
/** Most parts of one upload: what S3 says. */
export const PARTS_MAX = 10_000
/** Longest key, in bytes of UTF-8, prefix included: what S3 says. */
export const KEY_MAX_BYTES = 1024

export interface S3FsOptions {
  readonly bucket: string
  /** Where in the bucket the root is: a path, without slashes at its ends. (default: the whole bucket) */
  readonly prefix?: string
  /**
   * A client to use as it is, which stays the caller's; the next five options are then not used. Give it `maxAttempts: 1`: this driver
   * retries by itself, and knows what may be retried.
   */
  readonly client?: S3Client
  /** URL of the server. (default: Amazon's, of the region) */
  readonly endpoint?: string
  /** (default: AWS_REGION, or what the profile says) */
  readonly region?: string
  /** (default: the client's chain: environment, profile, container, instance) */
  readonly credentials?: NonNullable<S3ClientConfig['credentials']>
  /** Whether the bucket is in the path or the host name of a URL. (default: `path` with an `endpoint`, else `virtual-host`) */
  readonly addressing?: 'path' | 'virtual-host'
  /** Whatever else the client takes: agents, proxies, loggers. */
  readonly clientConfig?: Omit<S3ClientConfig, 'endpoint' | 'region' | 'credentials' | 'forcePathStyle' | 'maxAttempts'>
  /** `false` sends the ETag of If-Match on a PUT without quotes: Ceph compares it as it comes. (default true) */
  readonly quotedIfMatch?: boolean
  /**
   * Whether CompleteMultipartUpload heeds If-None-Match and If-Match. Where it does not, a conditional write is one PUT, of at
   * most 5 GiB, and a source of unknown length goes through a temporary file first. Amazon heeds them; Ceph 16 ignores them, which
   * would overwrite. (default false)
   */
  readonly conditionalMultipart?: boolean
  /** Longest silence of the server, in milliseconds, beyond the time that the bytes of a request need at 64 KiB/s. (default 30,000) */
  readonly timeoutMs?: number
  /** How often an operation that may be repeated is. (default 5) */
  readonly retries?: number
  /** Longest pause before the first repetition, in milliseconds; doubles each time; the actual pause is random below it. (default 100) */
  readonly retryFirstMs?: number
  /** Longest pause of all, in milliseconds. (default 10,000) */
  readonly retryLongestMs?: number
  /** What is larger is uploaded in parts of this many bytes, all but the last. (default 8 MiB) */
  readonly partBytes?: number
  /** Parts of one file under way at once. Memory of a streamed write is one part more. (default 4) */
  readonly parallelParts?: number
  /** Where sources of unknown length wait for a conditional PUT. (default: the system's temporary directory) */
  readonly spoolDirectory?: string
  /** Numbers in [0, 1), for pauses. (default `Math.random`) */
  readonly random?: () => number
}

export type S3Settings = Required<
  Omit<S3FsOptions, 'client' | 'endpoint' | 'region' | 'credentials' | 'clientConfig'>
> & {
  readonly client: S3Client
  readonly ownsClient: boolean
}

/** Fills in defaults and rejects nonsense, once. */
export function withS3Defaults(options: S3FsOptions): S3Settings {
  const { bucket, prefix = '', endpoint, addressing = endpoint === undefined ? 'virtual-host' : 'path' } = options
  if (typeof bucket !== 'string' || bucket === '') throw new TypeError('bucket must be a name')
  if (endpoint !== undefined && !URL.canParse(endpoint))
    throw new TypeError(`endpoint must be a URL such as https://s3.example, not ${endpoint}`)
  checkPath(prefix, { root: true })
  const settings = {
    bucket,
    prefix,
    addressing,
    quotedIfMatch: options.quotedIfMatch ?? true,
    conditionalMultipart: options.conditionalMultipart ?? false,
    timeoutMs: positive('timeoutMs', options.timeoutMs ?? 30_000),
    retries: options.retries ?? 5,
    retryFirstMs: positive('retryFirstMs', options.retryFirstMs ?? 100),
    retryLongestMs: positive('retryLongestMs', options.retryLongestMs ?? 10_000),
    partBytes: positive('partBytes', options.partBytes ?? 8 * MiB),
    parallelParts: positive('parallelParts', options.parallelParts ?? 4),
    spoolDirectory: options.spoolDirectory ?? tmpdir(),
    random: options.random ?? Math.random,
  }
  if (!(settings.retries >= 0)) throw new TypeError(`retries must be a count, not ${settings.retries}`)
  if (settings.partBytes < PART_MIN_BYTES)
    throw new TypeError(`partBytes must be at least ${PART_MIN_BYTES}, not ${settings.partBytes}`)
  const client = options.client ?? newClient(options, addressing)
  return { ...settings, client, ownsClient: options.client === undefined }
}

const nothing = (): void => {}
/** Without one the client warns on the console. */
const silent = { trace: nothing, debug: nothing, info: nothing, warn: nothing, error: nothing }

function newClient({ endpoint, region, credentials, clientConfig }: S3FsOptions, addressing: string): S3Client {
  return new S3Client({
    // Sums are given where every server understands them; trailers are not sent to servers that would store them.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    logger: silent,
    ...clientConfig,
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(region === undefined ? {} : { region }),
    ...(credentials === undefined ? {} : { credentials }),
    forcePathStyle: addressing === 'path',
    // A client that repeats a conditional write by itself hides that the first one may have worked.
    maxAttempts: 1,
  })
}

function positive(name: string, value: number): number {
  if (!(value > 0)) throw new TypeError(`${name} must be positive, not ${value}`)
  return value
}
