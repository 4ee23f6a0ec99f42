/**
 * Writing objects, and knowing whether it worked.
 *
 * A conditional write whose answer is a 5xx, or is lost, may have happened, may not, or may happen later. It is never
 * simply sent again: the object is read, and its history (s3-version.ts) decides:
 *
 *   found                                                    proves
 *   this write's id, first or later in the history           it worked (and was replaced since)
 *   exactly the version that was to be replaced              it has not happened: sending it again, with the same id, is safe,
 *                                                            since at most one of the two can find that version
 *   a history in which another id follows that version       it was refused: FS_CONFLICT
 *   a version older than the write                           it was refused: FS_EXISTS, FS_CONFLICT
 *   anything else, also nothing                              nothing: FS_UNCERTAIN
 *
 * Nothing proves nothing for a creation because the object may have been made and removed, or may be made when the request
 * that was given up arrives. Only if the server said that it turned the request away (SlowDown) is a creation sent again.
 */
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  PutObjectCommand,
  UploadPartCommand,
} from '@aws-sdk/client-s3'
import type { FsMetadata, FsSource, FsStat, FsWriteOptions } from './contract.ts'
import { FsError } from './error.ts'
import type { S3Try } from './s3-calls.ts'
import { contentOf, partsOf, type S3Content, spool } from './s3-content.ts'
import { errorOf, type S3Failure } from './s3-failure.ts'
import { notS3, type S3Objects, statOf } from './s3-objects.ts'
import { PARTS_MAX, PUT_MAX_BYTES } from './s3-options.ts'
import {
  formatContentType,
  historyAfter,
  newVersionId,
  parseTag,
  type S3Head,
  type S3Version,
  sameVersion,
} from './s3-version.ts'

/** How far the clocks of the servers of one store may be apart, and then some, in milliseconds. */
const SERVER_CLOCKS_MS = 10_000
/** Last-Modified and Date are cut to seconds. */
const SECOND_MS = 1000
/** What may stand between quotes in a header. */
const ETAG = /^[!#-~]+$/

/** What the object must be for a write to happen. */
type Condition =
  | { readonly must: 'any' }
  | { readonly must: 'absent' }
  | { readonly must: 'match'; readonly version: S3Version }

/** One write on its way: what it is called in histories, and on what it depends. */
interface Write {
  readonly path: string
  readonly condition: Condition
  readonly history: readonly string[]
  readonly metadata: FsMetadata
  readonly signal: AbortSignal | undefined
}

type Verdict =
  | { readonly is: 'done'; readonly head: S3Head | undefined }
  | { readonly is: 'refused' }
  | { readonly is: 'untouched' }
  | { readonly is: 'unknown' }

export class S3Writer {
  readonly #objects: S3Objects
  /** Whether an If-Match has ever held: until then a refusal may be the server's reading of quotes. */
  #matched = false
  /** Uploads that were given up, until the server knows. */
  readonly #abandoned = new Set<Promise<unknown>>()

  constructor(objects: S3Objects) {
    this.#objects = objects
  }

  /** Resolves when nothing of writes that were given up is under way any more. */
  async done(): Promise<void> {
    await Promise.all(this.#abandoned)
  }

  async write(path: string, source: FsSource, metadata: FsMetadata, options: FsWriteOptions): Promise<FsStat> {
    const { signal, ifAbsent = false, ifMatch } = options
    const condition: Condition =
      ifMatch !== undefined
        ? { must: 'match', version: parseTag(ifMatch) }
        : ifAbsent
          ? { must: 'absent' }
          : { must: 'any' }
    let etag = ''
    if (condition.must === 'match') {
      const head = await this.#objects.find(path, options)
      // Both at once can never hold.
      if (ifAbsent) throw head === undefined ? conflict(path) : exists(path)
      // The server compares ETags, which come back when the bytes do; the version's id does not.
      if (head === undefined || !sameVersion(head, condition.version) || !ETAG.test(head.etag)) throw conflict(path)
      etag = head.etag
    }
    const before = condition.must === 'match' ? condition.version : undefined
    const history = historyAfter(newVersionId(), before)
    const write: Write = { path, condition, history, metadata, signal }
    const { partBytes, conditionalMultipart, spoolDirectory } = this.#objects.settings
    const whole = condition.must !== 'any' && !conditionalMultipart
    const put = async (bytes: Uint8Array): Promise<FsStat> => {
      const content = await contentOf(bytes)
      // The same bytes would have the same ETag, and whoever holds the old tag could replace them too. In parts they have another.
      const same = Buffer.from(content.md5, 'base64').toString('hex') === etag
      return same && !whole ? this.#multipart(write, once(bytes)) : this.#put(write, content)
    }
    if (source instanceof Uint8Array && (source.length <= partBytes || (whole && source.length <= PUT_MAX_BYTES)))
      return put(source)
    const parts = partsOf(source, partBytes, signal)
    try {
      const first = (await parts.next()).value as Uint8Array
      const second = await parts.next()
      if (second.done === true) return await put(first)
      const all = chain([first, second.value], parts)
      if (!whole) return await this.#multipart(write, all)
      await using content = await spool(all, { directory: spoolDirectory, path })
      return await this.#put(write, content)
    } finally {
      // A source that was not read to its end is told so.
      await parts.return(undefined)
    }
  }

  async #put(write: Write, content: S3Content): Promise<FsStat> {
    const { bucket, client } = this.#objects.settings
    return this.#commit(write, content.size, async ({ abortSignal }) => {
      const command = new PutObjectCommand({
        Bucket: bucket,
        Key: this.#objects.keyOf(write.path),
        Body: content.body(),
        ContentLength: content.size,
        ContentMD5: content.md5,
        ChecksumCRC32: content.crc32,
        ContentType: formatContentType(write.history),
        Metadata: { ...write.metadata },
        ...this.#headers(write.condition),
      })
      const { ETag } = await client.send(command, { abortSignal })
      if (ETag === undefined) throw notS3('no ETag')
      return ETag
    })
  }

  async #multipart(write: Write, parts: AsyncIterable<Uint8Array>): Promise<FsStat> {
    const { path, signal } = write
    const { bucket, client, parallelParts, partBytes } = this.#objects.settings
    const target = { Bucket: bucket, Key: this.#objects.keyOf(path) }
    const { UploadId } = await this.#objects.calls.send(
      path,
      async ({ abortSignal }) => {
        const begun = await client.send(
          new CreateMultipartUploadCommand({
            ...target,
            ContentType: formatContentType(write.history),
            Metadata: { ...write.metadata },
          }),
          { abortSignal },
        )
        if (begun.UploadId === undefined) throw notS3('no upload')
        return begun
      },
      signal === undefined ? {} : { signal },
    )
    const upload = { ...target, UploadId }
    // One part that fails ends the others.
    const stop = new AbortController()
    const ended = signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal])
    const under = new Set<Promise<void>>()
    try {
      const etags: { PartNumber: number; ETag: string | undefined }[] = []
      let size = 0
      for await (const part of parts) {
        ended.throwIfAborted()
        const number = etags.length + 1
        if (number > PARTS_MAX)
          throw new FsError('FS_LIMIT', `more than ${PARTS_MAX} parts of ${partBytes} bytes`, {
            path,
            retryable: false,
          })
        const entry: (typeof etags)[number] = { PartNumber: number, ETag: undefined }
        etags.push(entry)
        size += part.length
        const sending = this.#part(path, { ...upload, PartNumber: number }, part, ended).then((etag) => {
          entry.ETag = etag
        })
        const done = sending.catch((error: unknown) => stop.abort(error)).finally(() => under.delete(done))
        under.add(done)
        if (under.size >= parallelParts) await Promise.race(under)
      }
      await Promise.all(under)
      ended.throwIfAborted()
      return await this.#commit(write, size, async ({ abortSignal }) => {
        const command = new CompleteMultipartUploadCommand({
          ...upload,
          MultipartUpload: { Parts: etags },
          ...this.#headers(write.condition),
        })
        return (await client.send(command, { abortSignal })).ETag
      })
    } catch (error) {
      stop.abort(error)
      await Promise.all(under)
      // If this fails too, the server's rule for incomplete uploads cleans up.
      const abandoned = this.#objects.calls
        .repeat(({ abortSignal }) => client.send(new AbortMultipartUploadCommand(upload), { abortSignal }))
        .catch(() => {})
        .finally(() => this.#abandoned.delete(abandoned))
      this.#abandoned.add(abandoned)
      // Whoever gave up does not wait; closing does.
      if (signal?.aborted !== true) await abandoned
      throw error
    }
  }

  async #part(
    path: string,
    target: { Bucket: string; Key: string; UploadId: string | undefined; PartNumber: number },
    part: Uint8Array,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const { client } = this.#objects.settings
    const content = await contentOf(part)
    const { ETag } = await this.#objects.calls.send(
      path,
      ({ abortSignal }) =>
        client.send(
          new UploadPartCommand({
            ...target,
            Body: content.body(),
            ContentLength: content.size,
            ContentMD5: content.md5,
          }),
          { abortSignal },
        ),
      { signal, bytes: content.size },
    )
    return ETag
  }

  #headers(condition: Condition): { IfNoneMatch?: string; IfMatch?: string } {
    if (condition.must === 'any') return {}
    if (condition.must === 'absent') return { IfNoneMatch: '*' }
    const { etag } = condition.version
    return { IfMatch: this.#objects.settings.quotedIfMatch ? `"${etag}"` : etag }
  }

  /** Sends what makes the write visible until its outcome is known. `send` resolves to the ETag, if the server tells it. */
  async #commit(write: Write, size: number, send: (attempt: S3Try) => Promise<string | undefined>): Promise<FsStat> {
    const { path, condition, signal } = write
    const { calls, settings } = this.#objects
    const options = { bytes: size, ...(signal === undefined ? {} : { signal }) }
    const startedMs = performance.now()
    let doubt: S3Failure | undefined
    for (let attempt = 0; ; attempt++) {
      const outcome = await calls.once(send, options)
      if ('value' in outcome) return this.#written(write, size, outcome.value)
      const { failure } = outcome
      if (failure.effect === 'unknown') doubt = failure
      const again = failure.retry && attempt < settings.retries
      if (doubt === undefined) {
        if (!again) throw await this.#refusal(write, failure)
      } else if (condition.must !== 'any' || !again) {
        const verdict = await this.#verdict(write, doubt, startedMs)
        if (verdict.is === 'done') return this.#doneAs(write, size, verdict.head)
        if (verdict.is === 'refused') throw condition.must === 'absent' ? exists(path) : conflict(path)
        if (verdict.is === 'unknown' || !again) throw errorOf(doubt, path, 'FS_UNCERTAIN')
      }
      await calls.pause(attempt, signal)
    }
  }

  /** What the object says about a write whose answer is missing. */
  async #verdict({ path, condition, history, signal }: Write, doubt: S3Failure, startedMs: number): Promise<Verdict> {
    let head: S3Head | undefined
    try {
      head = await this.#objects.head(path, signal === undefined ? {} : { signal })
    } catch (error) {
      if (!(error instanceof FsError)) throw error
      const said = errorOf(doubt, path).message
      throw new FsError('FS_UNCERTAIN', `${said}; it cannot be read to learn whether it was written`, {
        path,
        cause: error,
      })
    }
    if (head === undefined) return { is: condition.must === 'absent' && doubt.throttled ? 'untouched' : 'unknown' }
    const [id] = history
    const at = head.history.indexOf(id!)
    if (at >= 0) return { is: 'done', head: at === 0 ? head : undefined }
    if (condition.must === 'any') return { is: 'unknown' }
    if (condition.must === 'match') {
      const { version } = condition
      const since = head.history.indexOf(version.history[0]!)
      if (sameVersion(head, version)) return { is: 'untouched' }
      // Somebody else's version came right after: at most one writer can find what both were to replace.
      if (since > 0) return { is: 'refused' }
    }
    const elapsedMs = performance.now() - startedMs
    const sinceMs = head.serverMs - elapsedMs - (head.stat.modifiedMs + SECOND_MS)
    return { is: sinceMs > SERVER_CLOCKS_MS ? 'refused' : 'unknown' }
  }

  async #written(write: Write, size: number, etag: string | undefined): Promise<FsStat> {
    if (write.condition.must === 'match') this.#matched = true
    if (etag !== undefined && etag !== '') return this.#statOf(write, size, etag)
    // QUIRK: Ceph tells no ETag when an upload in parts is completed.
    const head = await this.#objects.head(write.path).catch(() => undefined)
    return this.#doneAs(write, size, head?.history[0] === write.history[0] ? head : undefined)
  }

  /** Without a head it was replaced already: its tag is one that matches nothing. */
  #doneAs(write: Write, size: number, head: S3Head | undefined): FsStat {
    return head?.stat ?? this.#statOf(write, size, '')
  }

  #statOf({ history, metadata }: Write, size: number, etag: string): FsStat {
    return statOf({ etag: etag.replaceAll('"', ''), history }, size, Date.now(), metadata)
  }

  /** The error for a failure that certainly had no effect. */
  async #refusal({ path, condition, signal }: Write, failure: S3Failure): Promise<FsError> {
    const { status } = failure
    if (condition.must === 'absent' && status === 412) return exists(path)
    if (condition.must === 'match' && (status === 412 || (status === 404 && failure.reason === 'NoSuchKey'))) {
      if (this.#matched) return conflict(path)
      const head = await this.#objects.head(path, signal === undefined ? {} : { signal })
      if (head === undefined || !sameVersion(head, condition.version)) return conflict(path)
      const hint = `the server refuses If-Match with the ETag that it tells; see the option quotedIfMatch`
      return new FsError('FS_UNSUPPORTED', hint, { path, cause: failure.cause })
    }
    // An upload that is gone, or a bucket: what was to be written is not what is missing.
    return errorOf(failure, path, status === 404 ? 'FS_UNAVAILABLE' : undefined)
  }
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}

async function* chain(first: readonly Uint8Array[], rest: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  yield* first
  yield* rest
}

function exists(path: string): FsError {
  return new FsError('FS_EXISTS', `${path} exists`, { path })
}

function conflict(path: string): FsError {
  return new FsError('FS_CONFLICT', `${path} is not what was to be replaced`, { path })
}
