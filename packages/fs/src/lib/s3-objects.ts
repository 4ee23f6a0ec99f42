/** The requests that read, list and remove objects; each may be sent again. Paths become keys here, and only here. */
import { addAbortSignal, Readable } from 'node:stream'
import {
  DeleteObjectCommand,
  GetObjectCommand,
  type GetObjectCommandOutput,
  HeadObjectCommand,
  ListObjectsV2Command,
} from '@aws-sdk/client-s3'
import type { FsCallOptions, FsEntry, FsMetadata, FsStat } from './contract.ts'
import { FsError, type FsErrorCode } from './error.ts'
import { checkPath } from './path.ts'
import { S3Calls, type S3Try } from './s3-calls.ts'
import { errorOf, type S3Failure } from './s3-failure.ts'
import { KEY_MAX_BYTES, type S3Settings } from './s3-options.ts'
import { formatTag, type S3Head, type S3Version, versionOf } from './s3-version.ts'

/** What a Node buffer is trusted to hold. */
const READ_MAX_BYTES = 2 ** 31 - 1

export class S3Objects {
  readonly settings: S3Settings
  readonly calls: S3Calls

  constructor(settings: S3Settings) {
    this.settings = settings
    this.calls = new S3Calls(settings)
  }

  /** FS_LIMIT if S3 has no key that long. `''` is the root, as a prefix. */
  keyOf(path: string): string {
    const { prefix } = this.settings
    const key = prefix === '' || path === '' ? prefix + path : `${prefix}/${path}`
    const size = Buffer.byteLength(key)
    // A directory is asked for with a slash behind it.
    if (size >= KEY_MAX_BYTES)
      throw new FsError('FS_LIMIT', `a key of ${size} bytes; S3 takes less than ${KEY_MAX_BYTES}`, {
        path,
        retryable: false,
      })
    return key
  }

  /** Undefined if there is no such object; without saying whether there is a bucket. */
  async head(path: string, options: FsCallOptions = {}): Promise<S3Head | undefined> {
    const { bucket, client } = this.settings
    const outcome = await this.calls.repeat(async ({ abortSignal }) => {
      const command = new HeadObjectCommand({ Bucket: bucket, Key: this.keyOf(path) })
      let serverMs = Number.NaN
      command.middlewareStack.add(
        (next) => async (args) => {
          const result = await next(args)
          serverMs = dateOf(result.response)
          return result
        },
        { step: 'deserialize', name: 'mailsteadDate' },
      )
      const found = await client.send(command, { abortSignal })
      const { ETag, ContentLength: size } = found
      if (ETag === undefined || size === undefined) throw notS3('no ETag or no length')
      const version = versionOf(ETag, found.ContentType)
      return { ...version, serverMs, stat: statOf(version, size, found.LastModified?.getTime(), found.Metadata) }
    }, options)
    if ('value' in outcome) return outcome.value
    if (outcome.failure.status === 404) return undefined
    throw errorOf(outcome.failure, path)
  }

  /** Undefined if there is no such object; FS_UNAVAILABLE if there is no bucket that could have it. */
  async find(path: string, options: FsCallOptions = {}): Promise<S3Head | undefined> {
    const head = await this.head(path, options)
    // What answers a HEAD does not say what is missing.
    if (head === undefined) await this.#page('', { ...options, most: 1 })
    return head
  }

  /** A file, else a directory if anything is below it, else undefined. FS_UNAVAILABLE without a bucket. */
  async stat(path: string, options: FsCallOptions = {}): Promise<FsStat | undefined> {
    const file = path === '' ? undefined : await this.head(path, options)
    if (file !== undefined) return file.stat
    const { names } = await this.#page(path, { ...options, most: 1 })
    if (names.length === 0 && path !== '') return undefined
    return { kind: 'directory', size: 0, modifiedMs: 0, tag: '' }
  }

  /** All of an object, or the bytes from `start` to before `end`, cut at its end. FS_CORRUPT if the server gives a sum that does not fit. */
  async read(
    path: string,
    range: { start: number; end: number } | undefined,
    options: FsCallOptions,
  ): Promise<Uint8Array> {
    const outcome = await this.calls.repeat(async (attempt) => {
      const found = await this.#get(
        path,
        attempt,
        range === undefined ? { ChecksumMode: 'ENABLED' } : { Range: formatRange(range.start, range.end) },
      )
      const { ContentLength: size } = found
      if (size === undefined) {
        discard(found)
        throw notS3('no length')
      }
      if (size > READ_MAX_BYTES) {
        discard(found)
        throw new FsError('FS_LIMIT', `${size} bytes are more than can be read at once`, { path, retryable: false })
      }
      const into = Buffer.allocUnsafe(size)
      const skip = range !== undefined && found.ContentRange === undefined ? range.start : 0
      const count = await fill(into, found, attempt, skip)
      const wanted = range === undefined ? size : Math.max(0, Math.min(range.end, size + range.start) - range.start)
      return into.subarray(0, Math.min(count, wanted))
    }, options)
    if ('value' in outcome) return outcome.value
    const { status, reason } = outcome.failure
    // Beyond the end.
    if (status === 416) return new Uint8Array(0)
    if (status === 404 && reason !== 'NoSuchKey') {
      // What is no S3 at all has nothing either.
      await this.#page('', { ...options, most: 1 })
      throw errorOf(outcome.failure, path, 'FS_NOT_FOUND')
    }
    throw errorOf(outcome.failure, path)
  }

  /** Fills `into` from `position` of one version. FS_CONFLICT if it was replaced. */
  async readVersion(
    path: string,
    version: S3Version,
    into: Uint8Array,
    position: number,
    options: FsCallOptions = {},
  ): Promise<void> {
    const send = async (attempt: S3Try): Promise<void> => {
      const found = await this.#get(path, attempt, {
        IfMatch: `"${version.etag}"`,
        Range: formatRange(position, position + into.length),
      })
      // A server that ignores ranges sends everything.
      const count = await fill(into, found, attempt, found.ContentRange === undefined ? position : 0)
      if (count < into.length) throw new Error(`${count} bytes instead of ${into.length}`)
    }
    await this.calls.send(path, send, options)
  }

  async #get(
    path: string,
    { abortSignal }: S3Try,
    input: { IfMatch?: string; Range?: string; ChecksumMode?: 'ENABLED' },
  ): Promise<GetObjectCommandOutput> {
    const { bucket, client } = this.settings
    return client.send(new GetObjectCommand({ Bucket: bucket, Key: this.keyOf(path), ...input }), { abortSignal })
  }

  async *list(directory: string, options: FsCallOptions = {}): AsyncGenerator<readonly FsEntry[]> {
    const prefix = this.#below(directory)
    let token: string | undefined
    do {
      const page = await this.#page(directory, { ...options, ...(token === undefined ? {} : { token }) })
      const entries: FsEntry[] = []
      for (const { key, kind } of page.names) {
        const name = key.slice(prefix.length, kind === 'file' ? undefined : -1)
        if (addressable(name)) entries.push({ name, kind })
      }
      if (entries.length > 0) yield entries
      token = page.next
    } while (token !== undefined)
  }

  #below(directory: string): string {
    const key = this.keyOf(directory)
    return key === '' ? '' : `${key}/`
  }

  async #page(
    directory: string,
    options: FsCallOptions & { readonly token?: string; readonly most?: number },
  ): Promise<{ names: { key: string; kind: FsEntry['kind'] }[]; next: string | undefined }> {
    const { bucket, client } = this.settings
    const { token, most } = options
    const send = async ({ abortSignal }: S3Try) => {
      const page = await client.send(
        new ListObjectsV2Command({
          Bucket: bucket,
          Prefix: this.#below(directory),
          Delimiter: '/',
          // Names may hold what XML cannot.
          EncodingType: 'url',
          ...(token === undefined ? {} : { ContinuationToken: token }),
          ...(most === undefined ? {} : { MaxKeys: most }),
        }),
        { abortSignal },
      )
      if (page.IsTruncated === undefined) throw notS3('no list')
      return page
    }
    const outcome = await this.calls.repeat(send, options)
    // What cannot be listed because it is not there is the bucket.
    if ('failure' in outcome) throw errorOf(outcome.failure, directory, missingBucket(outcome.failure))
    const { Contents = [], CommonPrefixes = [], IsTruncated, NextContinuationToken } = outcome.value
    const names: { key: string; kind: FsEntry['kind'] }[] = []
    for (const { Key } of Contents) if (Key !== undefined) names.push({ key: decode(Key), kind: 'file' })
    for (const { Prefix } of CommonPrefixes)
      if (Prefix !== undefined) names.push({ key: decode(Prefix), kind: 'directory' })
    return { names, next: IsTruncated === true ? NextContinuationToken : undefined }
  }

  /** FS_UNCERTAIN if it may still happen; so it may, too, after the signal ended it. */
  async remove(path: string, options: FsCallOptions = {}): Promise<void> {
    const { bucket, client } = this.settings
    const outcome = await this.calls.repeat(
      ({ abortSignal }) =>
        client.send(new DeleteObjectCommand({ Bucket: bucket, Key: this.keyOf(path) }), { abortSignal }),
      options,
    )
    if ('value' in outcome) return
    if (outcome.failure.effect === 'none') throw errorOf(outcome.failure, path, missingBucket(outcome.failure))
    const head = await this.head(path, options).catch(() => null)
    options.signal?.throwIfAborted()
    if (head !== undefined) throw errorOf(outcome.failure, path, 'FS_UNCERTAIN')
  }
}

/** For what says 200 to everything: a proxy, a login page, a server at the wrong address. It counts as no answer. */
export function notS3(what: string): Error {
  return new Error(`what answers is no S3: ${what}`)
}

export function statOf(
  version: S3Version,
  size: number,
  modifiedMs: number | undefined,
  metadata: FsMetadata | undefined,
): FsStat {
  return {
    kind: 'file',
    size,
    modifiedMs: modifiedMs ?? 0,
    tag: formatTag(version),
    metadata: Object.freeze({ ...metadata }),
  }
}

/** Reads the body into `into`, without its first `skip` bytes, and returns how many came. */
async function fill(into: Uint8Array, found: GetObjectCommandOutput, attempt: S3Try, skip: number): Promise<number> {
  const { Body } = found
  if (!(Body instanceof Readable)) throw new TypeError('the client must use node streams')
  let at = -skip
  for await (const chunk of addAbortSignal(attempt.abortSignal, Body) as AsyncIterable<Uint8Array>) {
    attempt.progress()
    const part = at < 0 ? chunk.subarray(-at) : chunk
    const to = Math.max(0, at)
    if (to < into.length) into.set(part.subarray(0, into.length - to), to)
    at += chunk.length
  }
  return Math.min(into.length, Math.max(0, at))
}

function formatRange(start: number, end: number): string {
  return `bytes=${start}-${end === Number.POSITIVE_INFINITY ? '' : end - 1}`
}

/** For requests to which an object that is not there is no failure. */
function missingBucket({ status }: S3Failure): FsErrorCode | undefined {
  return status === 404 ? 'FS_UNAVAILABLE' : undefined
}

function discard({ Body }: GetObjectCommandOutput): void {
  if (Body instanceof Readable) Body.destroy()
}

function dateOf(response: unknown): number {
  const headers = (response as { readonly headers?: Readonly<Record<string, string>> }).headers
  return Date.parse(headers?.['date'] ?? '')
}

/** Amazon writes a space as +, and a plus as %2B. */
function decode(key: string): string {
  return decodeURIComponent(key.replaceAll('+', '%20'))
}

/** Other programs may have made keys that are no paths: `a//b`, or the empty object `a/` that stands for a directory. */
function addressable(name: string): boolean {
  try {
    checkPath(name)
    return true
  } catch {
    return false
  }
}
