/**
 * An S3 server in this process, for tests: strict where real ones differ, and failing on request.
 *
 * Conditions (If-None-Match, If-Match) are decided and applied in one turn of the event loop, so exactly one of many
 * writers wins. Every checksum a client sends is compared. A fault takes the place of an answer, before or after the
 * effect of the request, or makes the effect come later, when the client has long given up.
 */
import { createHash, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import type { Fs } from '../src/lib/contract.ts'
import { type S3FsOptions, s3Fs } from '../src/lib/s3.ts'

export interface FakeS3Options {
  /** Compare the raw If-Match of a PUT with the bare ETag, as Ceph does. (default false) */
  readonly bareIfMatch?: boolean
  /** Ignore conditions on CompleteMultipartUpload, as Ceph before 2025 does. (default false) */
  readonly ignoreMultipartConditions?: boolean
  /** Most keys and prefixes of one page of a list, whatever is asked for. (default 1000) */
  readonly pageKeys?: number
  /** Smallest part but the last, in bytes. Real servers want 5 MiB. (default 1) */
  readonly minPartBytes?: number
  /** The clock, in milliseconds since the epoch. (default `Date.now`) */
  readonly now?: () => number
}

export type FakeS3Operation =
  | 'GetObject'
  | 'HeadObject'
  | 'PutObject'
  | 'DeleteObject'
  | 'ListObjectsV2'
  | 'CreateMultipartUpload'
  | 'UploadPart'
  | 'CompleteMultipartUpload'
  | 'AbortMultipartUpload'

export interface FakeS3Fault {
  readonly operation: FakeS3Operation
  /**
   * A status with an error code; `reset` breaks the connection; `silence` never answers; `cut` sends half of the body, then
   * breaks the connection; `flip` changes one bit of the body; `slow` answers after `delayMs`.
   */
  readonly answer: { readonly status: number; readonly code: string } | 'reset' | 'silence' | 'cut' | 'flip' | 'slow'
  /** Whether the request takes effect: not at all, before the answer, or when `releaseLate` is called. (default 'none') */
  readonly effect?: 'none' | 'done' | 'late'
  /** How many matching requests fail. (default 1) */
  readonly times?: number
  /** How many matching requests pass first. (default 0) */
  readonly after?: number
  /** Milliseconds, for `slow`. (default 50) */
  readonly delayMs?: number
  /** What happens between the effect and the answer. */
  readonly meanwhile?: () => Promise<unknown>
}

export interface FakeS3Object {
  readonly body: Buffer
  readonly etag: string
  readonly modifiedMs: number
  readonly contentType: string
  readonly metadata: Readonly<Record<string, string>>
  /** Base64, of the whole object, if the client gave one. */
  readonly crc32: string | undefined
}

export interface FakeS3 extends AsyncDisposable {
  readonly endpoint: string
  readonly port: number
  readonly bucket: string
  readonly objects: Map<string, FakeS3Object>
  /** Multipart uploads that were neither completed nor aborted. */
  readonly uploads: ReadonlyMap<string, unknown>
  /** Every request that arrived, in order. */
  readonly requests: { readonly operation: FakeS3Operation; readonly key: string; readonly host: string }[]
  fail(fault: FakeS3Fault): void
  /** Asked for each request that no other fault takes; undefined leaves it alone. */
  decide: ((operation: FakeS3Operation) => FakeS3Fault | undefined) | undefined
  /** Lets requests that were held back by `late` take effect now. Resolves to the statuses they would have had. */
  releaseLate(): number[]
  /** A file system over this server; the server outlives it. */
  fs(options?: Partial<S3FsOptions>): Fs
}

interface Request {
  readonly operation: FakeS3Operation
  readonly key: string
  readonly query: URLSearchParams
  readonly headers: IncomingMessage['headers']
  readonly body: Buffer
}
interface Answer {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Buffer | string
}
interface Upload {
  readonly key: string
  readonly contentType: string
  readonly metadata: Readonly<Record<string, string>>
  readonly parts: Map<number, { readonly body: Buffer; readonly etag: string }>
}

export const FAKE_BUCKET = 'fake'
const CREDENTIALS = { accessKeyId: 'FAKEKEY', secretAccessKey: 'FAKESECRET' }
const PUT_MAX_BYTES = 5 * 1024 ** 3
const KEY_MAX_BYTES = 1024
const METADATA_MAX_BYTES = 2048

/** A fresh file system over a fresh server, which goes with it. */
export async function createFakeS3Fs(options: Partial<S3FsOptions> = {}, server: FakeS3Options = {}): Promise<Fs> {
  const fake = await fakeS3(server)
  const fs = fake.fs(options)
  return {
    ...fs,
    async [Symbol.asyncDispose]() {
      await fs[Symbol.asyncDispose]()
      await fake[Symbol.asyncDispose]()
    },
  }
}

export async function fakeS3(options: FakeS3Options = {}): Promise<FakeS3> {
  const { bareIfMatch = false, ignoreMultipartConditions = false, pageKeys = 1000 } = options
  const { minPartBytes = 1, now = Date.now } = options
  const bucket = FAKE_BUCKET
  const objects = new Map<string, FakeS3Object>()
  const uploads = new Map<string, Upload>()
  const requests: FakeS3['requests'] = []
  const faults: { fault: FakeS3Fault; skip: number; left: number }[] = []
  const hooks: Pick<FakeS3, 'decide'> = { decide: undefined }
  let late: (() => Answer)[] = []

  /** Undefined if the conditions hold. */
  function conditionFails(key: string, headers: IncomingMessage['headers']): Answer | undefined {
    const there = objects.get(key)
    const absent = headers['if-none-match']
    if (absent !== undefined && absent !== '*') return failure(501, 'NotImplemented')
    if (absent === '*' && there !== undefined) return failure(412, 'PreconditionFailed')
    const match = headers['if-match']
    if (match === undefined) return undefined
    if (there === undefined) return failure(404, 'NoSuchKey')
    const same = bareIfMatch ? match === there.etag : match === there.etag || match === `"${there.etag}"`
    return same ? undefined : failure(412, 'PreconditionFailed')
  }

  function wrongDigest(headers: IncomingMessage['headers'], body: Buffer): Answer | undefined {
    const md5 = headers['content-md5']
    if (md5 !== undefined && md5 !== createHash('md5').update(body).digest('base64')) return failure(400, 'BadDigest')
    const crc = headers['x-amz-checksum-crc32']
    if (crc !== undefined && crc !== crcOf(body)) return failure(400, 'BadDigest')
    const sha = headers['x-amz-content-sha256']
    if (
      typeof sha === 'string' &&
      /^[0-9a-f]{64}$/.test(sha) &&
      sha !== createHash('sha256').update(body).digest('hex')
    )
      return failure(400, 'XAmzContentSHA256Mismatch')
    return undefined
  }

  function put(key: string, body: Buffer, like: Omit<FakeS3Object, 'body' | 'modifiedMs'>): Answer {
    objects.set(key, { body, modifiedMs: now(), ...like })
    return { status: 200, headers: { etag: `"${like.etag}"` } }
  }

  const operations: Record<FakeS3Operation, (request: Request) => Answer> = {
    PutObject({ key, headers, body }) {
      if (body.length > PUT_MAX_BYTES) return failure(400, 'EntityTooLarge')
      const metadata = metadataOf(headers)
      if (metadata === undefined) return failure(400, 'MetadataTooLarge')
      const wrong = wrongDigest(headers, body) ?? conditionFails(key, headers)
      if (wrong !== undefined) return wrong
      const etag = createHash('md5').update(body).digest('hex')
      const crc = headers['x-amz-checksum-crc32'] as string | undefined
      return put(key, body, { etag, contentType: headers['content-type'] ?? '', metadata, crc32: crc })
    },
    GetObject({ key, headers }) {
      const there = objects.get(key)
      if (there === undefined) return failure(404, 'NoSuchKey')
      const match = headers['if-match']
      if (match !== undefined && match !== `"${there.etag}"` && match !== there.etag)
        return failure(412, 'PreconditionFailed')
      const size = there.body.length
      const range = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? '')
      if (range === null) {
        const checked = headers['x-amz-checksum-mode'] === 'ENABLED' && there.crc32 !== undefined
        const sum = checked ? { 'x-amz-checksum-crc32': there.crc32!, 'x-amz-checksum-type': 'FULL_OBJECT' } : {}
        return { status: 200, headers: { ...headersOf(there), ...sum }, body: there.body }
      }
      const start = Number(range[1])
      const end = Math.min(range[2] === '' ? size - 1 : Number(range[2]), size - 1)
      if (start >= size || end < start) return failure(416, 'InvalidRange')
      return {
        status: 206,
        headers: { ...headersOf(there), 'content-range': `bytes ${start}-${end}/${size}` },
        body: there.body.subarray(start, end + 1),
      }
    },
    HeadObject({ key }) {
      const there = objects.get(key)
      if (there === undefined) return { status: 404 }
      return { status: 200, headers: { ...headersOf(there), 'content-length': `${there.body.length}` } }
    },
    DeleteObject({ key }) {
      objects.delete(key)
      return { status: 204 }
    },
    ListObjectsV2({ query }) {
      const prefix = query.get('prefix') ?? ''
      const delimiter = query.get('delimiter') ?? ''
      const most = Math.min(pageKeys, Number(query.get('max-keys') ?? 1000))
      const encode = query.get('encoding-type') === 'url' ? encodeKey : escapeXml
      const token = query.get('continuation-token')
      const after = token === null ? undefined : Buffer.from(token, 'base64url')
      const found = new Map<string, FakeS3Object | undefined>()
      for (const [key, object] of objects) {
        if (!key.startsWith(prefix)) continue
        const cut = delimiter === '' ? -1 : key.indexOf(delimiter, prefix.length)
        if (cut < 0) found.set(key, object)
        else found.set(key.slice(0, cut + delimiter.length), undefined)
      }
      const names = [...found.keys()]
        .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
        .filter((name) => after === undefined || Buffer.compare(Buffer.from(name), after) > 0)
      const page = names.slice(0, most)
      const truncated = names.length > most
      const items = page.map((name) => {
        const object = found.get(name)
        if (object === undefined) return `<CommonPrefixes><Prefix>${encode(name)}</Prefix></CommonPrefixes>`
        const when = new Date(object.modifiedMs).toISOString()
        return `<Contents><Key>${encode(name)}</Key><LastModified>${when}</LastModified><ETag>&quot;${object.etag}&quot;</ETag><Size>${object.body.length}</Size></Contents>`
      })
      const next = truncated ? Buffer.from(page.at(-1) ?? '').toString('base64url') : ''
      return xml(
        'ListBucketResult',
        `<Name>${bucket}</Name><KeyCount>${page.length}</KeyCount><IsTruncated>${truncated}</IsTruncated>${truncated ? `<NextContinuationToken>${next}</NextContinuationToken>` : ''}${items.join('')}`,
      )
    },
    CreateMultipartUpload({ key, headers }) {
      const metadata = metadataOf(headers)
      if (metadata === undefined) return failure(400, 'MetadataTooLarge')
      const id = randomUUID()
      uploads.set(id, { key, contentType: headers['content-type'] ?? '', metadata, parts: new Map() })
      return xml(
        'InitiateMultipartUploadResult',
        `<Bucket>${bucket}</Bucket><Key>${escapeXml(key)}</Key><UploadId>${id}</UploadId>`,
      )
    },
    UploadPart({ key, query, headers, body }) {
      const upload = uploads.get(query.get('uploadId') ?? '')
      if (upload?.key !== key) return failure(404, 'NoSuchUpload')
      const wrong = wrongDigest(headers, body)
      if (wrong !== undefined) return wrong
      const etag = createHash('md5').update(body).digest('hex')
      upload.parts.set(Number(query.get('partNumber')), { body, etag })
      return { status: 200, headers: { etag: `"${etag}"` } }
    },
    CompleteMultipartUpload({ key, query, headers, body }) {
      const id = query.get('uploadId') ?? ''
      const upload = uploads.get(id)
      if (upload?.key !== key) return failure(404, 'NoSuchUpload')
      const parts: { body: Buffer; etag: string }[] = []
      let last = 0
      for (const [, part] of body.toString().matchAll(/<Part>(.*?)<\/Part>/gs)) {
        const number = Number(/<PartNumber>(\d+)</.exec(part!)?.[1])
        const etag = /<ETag>(?:&quot;|")?([0-9a-f]+)/.exec(part!)?.[1]
        const there = upload.parts.get(number)
        if (there === undefined || there.etag !== etag) return failure(400, 'InvalidPart')
        if (number <= last) return failure(400, 'InvalidPartOrder')
        if (parts.length > 0 && parts.at(-1)!.body.length < minPartBytes) return failure(400, 'EntityTooSmall')
        last = number
        parts.push(there)
      }
      if (parts.length === 0) return failure(400, 'MalformedXML')
      const wrong = ignoreMultipartConditions ? undefined : conditionFails(key, headers)
      if (wrong !== undefined) return wrong
      uploads.delete(id)
      const all = Buffer.concat(parts.map((part) => Buffer.from(part.etag, 'hex')))
      const etag = `${createHash('md5').update(all).digest('hex')}-${parts.length}`
      const { contentType, metadata } = upload
      put(key, Buffer.concat(parts.map((part) => part.body)), { etag, contentType, metadata, crc32: undefined })
      return xml('CompleteMultipartUploadResult', `<Bucket>${bucket}</Bucket><ETag>&quot;${etag}&quot;</ETag>`)
    },
    AbortMultipartUpload({ query }) {
      return uploads.delete(query.get('uploadId') ?? '') ? { status: 204 } : failure(404, 'NoSuchUpload')
    },
  }

  async function serve(message: IncomingMessage, response: ServerResponse): Promise<void> {
    const parts: Buffer[] = []
    for await (const part of message) parts.push(part as Buffer)
    const [rawPath = '', rawQuery = ''] = message.url!.split('?')
    const query = new URLSearchParams(rawQuery)
    const host = message.headers.host ?? ''
    const path = decodeURIComponent(rawPath).slice(1)
    const slash = path.indexOf('/')
    const virtual = host.startsWith(`${bucket}.`)
    const named = virtual ? bucket : slash < 0 ? path : path.slice(0, slash)
    const key = virtual ? path : slash < 0 ? '' : path.slice(slash + 1)
    const operation = operationOf(message.method ?? '', key, query)
    if (operation === undefined) return send(response, failure(501, 'NotImplemented'))
    requests.push({ operation, key, host })
    const request: Request = { operation, key, query, headers: message.headers, body: Buffer.concat(parts) }
    const act = (): Answer => {
      if (!`${message.headers.authorization}`.includes(`Credential=${CREDENTIALS.accessKeyId}/`))
        return failure(403, 'InvalidAccessKeyId')
      if (named !== bucket) return message.method === 'HEAD' ? { status: 404 } : failure(404, 'NoSuchBucket')
      if (Buffer.byteLength(key) > KEY_MAX_BYTES) return failure(400, 'KeyTooLongError')
      if (`${message.headers['content-encoding']}`.includes('aws-chunked')) return failure(501, 'NotImplemented')
      return operations[operation](request)
    }
    const fault = faultFor(operation)
    if (fault === undefined) return send(response, act())
    const { answer, effect = 'none', delayMs = 50 } = fault
    if (answer === 'slow') {
      await sleep(delayMs)
      return send(response, act())
    }
    if (answer === 'cut' || answer === 'flip') {
      const { status, headers, body = '' } = act()
      const bytes = Buffer.from(body)
      if (answer === 'flip') {
        if (bytes.length > 0) bytes[bytes.length >> 1]! ^= 1
        return send(response, { status, ...(headers === undefined ? {} : { headers }), body: bytes })
      }
      response.writeHead(status, { ...headers, 'content-length': `${bytes.length}` })
      response.write(bytes.subarray(0, bytes.length >> 1), () => message.socket.destroy())
      return
    }
    if (effect === 'done') act()
    if (effect === 'late') late.push(act)
    await fault.meanwhile?.()
    if (answer === 'reset') message.socket.destroy()
    else if (answer !== 'silence') send(response, failure(answer.status, answer.code))
  }

  function faultFor(operation: FakeS3Operation): FakeS3Fault | undefined {
    for (const entry of faults) {
      if (entry.fault.operation !== operation || entry.left === 0) continue
      if (entry.skip > 0) {
        entry.skip--
        continue
      }
      entry.left--
      return entry.fault
    }
    return hooks.decide?.(operation)
  }

  function send(response: ServerResponse, { status, headers = {}, body = '' }: Answer): void {
    if (response.destroyed) return
    const date = new Date(now()).toUTCString()
    // A HEAD tells the length of what it does not send.
    const length = headers['content-length'] === undefined ? { 'content-length': `${Buffer.byteLength(body)}` } : {}
    response.writeHead(status, { ...length, date, 'x-amz-request-id': randomUUID(), ...headers })
    response.end(body)
  }

  const server = createServer((message, response) => {
    // A client that gives up while it sends is not this server's error.
    serve(message, response).catch(() => message.socket.destroy())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const endpoint = `http://127.0.0.1:${port}`
  return Object.assign(hooks, {
    endpoint,
    port,
    bucket,
    objects,
    uploads,
    requests,
    fail(fault: FakeS3Fault) {
      faults.push({ fault, skip: fault.after ?? 0, left: fault.times ?? 1 })
    },
    releaseLate() {
      const held = late
      late = []
      return held.map((act) => act().status)
    },
    fs(fsOptions: Partial<S3FsOptions> = {}) {
      return s3Fs({
        endpoint,
        bucket,
        region: 'us-east-1',
        addressing: 'path',
        credentials: CREDENTIALS,
        retryFirstMs: 1,
        retryLongestMs: 5,
        ...fsOptions,
      })
    },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      if (!server.listening) return
      server.close()
      await once(server, 'close')
    },
  })
}

function operationOf(method: string, key: string, query: URLSearchParams): FakeS3Operation | undefined {
  if (key === '') return method === 'GET' && query.get('list-type') === '2' ? 'ListObjectsV2' : undefined
  const upload = query.has('uploadId')
  if (method === 'GET') return 'GetObject'
  if (method === 'HEAD') return 'HeadObject'
  if (method === 'PUT') return upload ? 'UploadPart' : 'PutObject'
  if (method === 'DELETE') return upload ? 'AbortMultipartUpload' : 'DeleteObject'
  if (method === 'POST') return upload ? 'CompleteMultipartUpload' : 'CreateMultipartUpload'
  return undefined
}

function headersOf(object: FakeS3Object): Record<string, string> {
  const headers: Record<string, string> = {
    etag: `"${object.etag}"`,
    'last-modified': new Date(object.modifiedMs).toUTCString(),
    'content-type': object.contentType,
  }
  for (const [name, value] of Object.entries(object.metadata)) headers[`x-amz-meta-${name}`] = value
  return headers
}

/** Undefined if it is too much. */
function metadataOf(headers: IncomingMessage['headers']): Record<string, string> | undefined {
  const metadata: Record<string, string> = {}
  let size = 0
  for (const [name, value] of Object.entries(headers)) {
    if (!name.startsWith('x-amz-meta-')) continue
    const short = name.slice('x-amz-meta-'.length)
    metadata[short] = value?.toString() ?? ''
    size += short.length + metadata[short].length
  }
  return size > METADATA_MAX_BYTES ? undefined : metadata
}

function crcOf(body: Buffer): string {
  const sum = Buffer.alloc(4)
  sum.writeUInt32BE(crc32(body))
  return sum.toString('base64')
}

function failure(status: number, code: string): Answer {
  return {
    status,
    headers: { 'content-type': 'application/xml' },
    body: `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>${code} says the fake</Message></Error>`,
  }
}

function xml(name: string, inner: string): Answer {
  return {
    status: 200,
    headers: { 'content-type': 'application/xml' },
    body: `<?xml version="1.0" encoding="UTF-8"?><${name} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${inner}</${name}>`,
  }
}

function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')
}

/** Amazon writes a space as +. */
function encodeKey(key: string): string {
  return encodeURIComponent(key).replaceAll('%20', '+').replaceAll('%2F', '/')
}
