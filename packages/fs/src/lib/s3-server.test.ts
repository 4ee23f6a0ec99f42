import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { Agent, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { S3Client } from '@aws-sdk/client-s3'
import { describe, expect, test, vi } from 'vitest'
import { fakeS3 } from '../../test/fake-s3.ts'
import type { Fs } from './contract.ts'
import { FsError } from './error.ts'
import { s3Fs } from './s3.ts'

const partBytes = 5 * 1024 * 1024
const text = (content: string): Uint8Array => Buffer.from(content)
const failed = { status: 500, code: 'InternalError' }

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'done'
  } catch (error) {
    if (error instanceof FsError) return error.code
    throw error
  }
}

async function namesOf(fs: Fs, directory: string): Promise<string[]> {
  return (await Array.fromAsync(fs.list(directory)))
    .flat()
    .map(({ kind, name }) => `${kind} ${name}`)
    .sort()
}

async function* chunks(size: number, of = 100_000): AsyncGenerator<Uint8Array> {
  const chunk = Buffer.alloc(of)
  for (let at = 0; at < size; at += of) {
    chunk.fill((at / of) & 0xff)
    await Promise.resolve()
    yield chunk.subarray(0, Math.min(of, size - at))
  }
}

describe('requests that may be repeated', () => {
  test('are, after errors, lost connections, silence and damage', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    for (const answer of [failed, { status: 503, code: 'SlowDown' }, 'reset', 'silence', 'cut', 'flip'] as const) {
      const meanwhile = async (): Promise<void> => void (answer === 'silence' && vi.advanceTimersByTime(1e6))
      await using fake = await fakeS3()
      await using fs = fake.fs()
      await fs.writeFile('d/file', text('content'))
      fake.fail({ operation: 'GetObject', answer, times: 2, meanwhile })
      expect(Buffer.from(await fs.readFile('d/file')).toString()).toBe('content')
      if (answer === 'cut' || answer === 'flip') continue
      for (const operation of ['HeadObject', 'ListObjectsV2', 'DeleteObject'] as const)
        fake.fail({ operation, answer, times: 2, meanwhile })
      expect((await fs.stat('d/file'))?.size).toBe(7)
      expect(await namesOf(fs, 'd')).toEqual(['file file'])
      await fs.remove('d/file')
      expect(await fs.stat('d')).toBe(undefined)
    }
    vi.useRealTimers()
  })
  test('are, as often as is wanted, and then the store is unavailable', async () => {
    await using fake = await fakeS3()
    await using fs = fake.fs({ retries: 3 })
    fake.fail({ operation: 'GetObject', answer: failed, times: 100 })
    const error = await fs.readFile('file').catch((reason: unknown) => reason as FsError)
    expect(error).toMatchObject({ code: 'FS_UNAVAILABLE', retryable: true, path: 'file' })
    expect(fake.requests.length).toBe(4)
  })
  test('are not, after a refusal', async () => {
    await using fake = await fakeS3()
    await using fs = fake.fs()
    fake.fail({ operation: 'GetObject', answer: { status: 403, code: 'AccessDenied' }, times: 100 })
    expect(await codeOf(fs.readFile('file'))).toBe('FS_DENIED')
    expect(fake.requests.length).toBe(1)
  })
  test('wait longer each time, up to a limit', async () => {
    await using fake = await fakeS3()
    const pauses: number[] = []
    const random = (): number => {
      pauses.push(performance.now())
      return 0
    }
    await using fs = fake.fs({ retries: 3, random })
    fake.fail({ operation: 'GetObject', answer: failed, times: 3 })
    expect(await codeOf(fs.readFile('file'))).toBe('FS_NOT_FOUND')
    expect(pauses.length).toBe(3)
  })
  test('end with the reason of the signal', async () => {
    await using fake = await fakeS3()
    await using fs = fake.fs()
    await fs.writeFile('file', text('old'))
    for (const operation of ['GetObject', 'HeadObject', 'PutObject', 'ListObjectsV2'] as const) {
      const controller = new AbortController()
      const { signal } = controller
      const meanwhile = async (): Promise<void> => controller.abort(new Error('enough'))
      fake.fail({ operation, answer: 'silence', meanwhile })
      const run = {
        GetObject: () => fs.readFile('file', { signal }),
        HeadObject: () => fs.stat('file', { signal }),
        PutObject: () => fs.writeFile('file', text('new'), { signal }),
        ListObjectsV2: () => Array.fromAsync(fs.list('', { signal })),
      }[operation]
      await expect(run()).rejects.toThrow('enough')
    }
    for (const operation of ['HeadObject', 'DeleteObject', 'GetObject'] as const) {
      const controller = new AbortController()
      const meanwhile = async (): Promise<void> => controller.abort(new Error('enough'))
      await using file = await fs.open('file', 'read')
      fake.fail({ operation, answer: 'silence', meanwhile })
      const options = { signal: controller.signal }
      const ended = operation === 'GetObject' ? file.read(new Uint8Array(3), 0, options) : fs.remove('file', options)
      await expect(ended).rejects.toThrow('enough')
    }
    expect(Buffer.from(await fs.readFile('file')).toString()).toBe('old')
  })
})

describe('closing', () => {
  test('waits for what is under way', async () => {
    await using fake = await fakeS3()
    for (const start of [(fs: Fs) => fs.list('')[Symbol.asyncIterator]().next(), (fs: Fs) => fs.remove('file')]) {
      const fs = fake.fs()
      await fs.writeFile('file', text('old'))
      const events: string[] = []
      const ended = start(fs).then(() => events.push('done'))
      await fs[Symbol.asyncDispose]()
      await new Promise(setImmediate)
      events.push('closed')
      await ended
      expect(events).toEqual(['done', 'closed'])
    }
  })
})

describe('failures', () => {
  test('of a server that is not there are an outage', async () => {
    const fake = await fakeS3()
    await using fs = fake.fs({ retries: 1 })
    await fake[Symbol.asyncDispose]()
    for (const run of everything(fs)) expect(await codeOf(run())).toBe('FS_UNAVAILABLE')
  })
  test('of what is no S3 are an outage, whatever it says', async () => {
    for (const status of [200, 301, 400, 404]) {
      const server = createServer((request, response) => {
        request.resume().on('end', () => response.writeHead(status).end('<html>Welcome</html>'))
      })
      await once(server.listen(0, '127.0.0.1'), 'listening')
      const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
      const credentials = { accessKeyId: 'a', secretAccessKey: 'b' }
      const fs = s3Fs({ bucket: 'mail', endpoint, region: 'any', credentials, retries: 0, partBytes })
      for (const run of everything(fs)) expect(await codeOf(run()), `${status} ${String(run)}`).toMatch(/^FS_UN/)
      await fs[Symbol.asyncDispose]()
      server.close()
    }
  })
  test('of a bucket that is not there are an outage, not absence', async () => {
    await using fake = await fakeS3()
    await using fs = fake.fs({ bucket: 'elsewhere' })
    for (const run of everything(fs)) expect(await codeOf(run())).toBe('FS_UNAVAILABLE')
  })
  test('of a removal are uncertain if it may happen later, and none if it happened', async () => {
    for (const [effect, code] of [
      ['done', 'done'],
      ['none', 'FS_UNCERTAIN'],
    ] as const) {
      await using fake = await fakeS3()
      await using fs = fake.fs({ retries: 1 })
      await fs.writeFile('file', text('x'))
      fake.fail({ operation: 'DeleteObject', answer: failed, effect })
      fake.fail({ operation: 'DeleteObject', answer: { status: 403, code: 'AccessDenied' } })
      expect(await codeOf(fs.remove('file'))).toBe(code)
    }
  })
  test('of credentials are refusals', async () => {
    await using fake = await fakeS3()
    await using fs = fake.fs({ credentials: { accessKeyId: 'NOBODY', secretAccessKey: 'x' } })
    for (const run of everything(fs)) expect(await codeOf(run())).toBe('FS_DENIED')
  })
  test('have a code each', async () => {
    for (const [status, code, expected] of [
      [400, 'EntityTooLarge', 'FS_LIMIT'],
      [403, 'QuotaExceeded', 'FS_NO_SPACE'],
      [507, 'InsufficientStorage', 'FS_NO_SPACE'],
      [501, 'NotImplemented', 'FS_UNSUPPORTED'],
      [301, 'PermanentRedirect', 'FS_UNAVAILABLE'],
      [400, 'SomethingElse', 'FS_IO'],
      [409, 'OperationAborted', 'FS_UNAVAILABLE'],
      [400, 'BadDigest', 'FS_UNAVAILABLE'],
    ] as const) {
      await using fake = await fakeS3()
      await using fs = fake.fs({ retries: 1 })
      fake.fail({ operation: 'PutObject', answer: { status, code }, times: 9 })
      expect(await codeOf(fs.writeFile('file', text('x'), { ifAbsent: true })), code).toBe(expected)
    }
  })
  test('of a conflict that the server reports while two write are tried again', async () => {
    await using fake = await fakeS3()
    await using fs = fake.fs()
    fake.fail({ operation: 'PutObject', answer: { status: 409, code: 'ConditionalRequestConflict' }, times: 2 })
    expect(await codeOf(fs.writeFile('file', text('x'), { ifAbsent: true }))).toBe('done')
    expect(await codeOf(fs.writeFile('file', text('x'), { ifAbsent: true }))).toBe('FS_EXISTS')
  })
  test('of a checksum that does not fit what was read are damage', async () => {
    await using fake = await fakeS3()
    await using fs = fake.fs({ retries: 2 })
    await fs.writeFile('file', text('content'))
    fake.fail({ operation: 'GetObject', answer: 'flip', times: 9 })
    expect(await codeOf(fs.readFile('file'))).toBe('FS_CORRUPT')
  })
})

function everything(fs: Fs): (() => Promise<unknown>)[] {
  return [
    () => fs.stat('file'),
    () => fs.stat(''),
    () => fs.open('file', 'read'),
    () => fs.readFile('file'),
    () => fs.readFile('file', { start: 1, end: 1 }),
    () => fs.writeFile('file', text('x')),
    () => fs.writeFile('file', text('x'), { ifAbsent: true }),
    () => fs.writeFile('file', text('x'), { ifMatch: 'tag~id' }),
    () => fs.writeFile('file', text('x'), { ifMatch: 'tag~id', ifAbsent: true }),
    () => fs.writeFile('file', chunks(2 * partBytes)),
    () => fs.remove('file'),
    () => Array.fromAsync(fs.list('')),
  ]
}

describe('large files', () => {
  const size = 2 * partBytes + 12_345
  const sum = async (parts: AsyncIterable<Uint8Array>): Promise<string> => {
    const hash = createHash('sha256')
    for await (const part of parts) hash.update(part)
    return hash.digest('hex')
  }
  test('are uploaded in parts, and are there only as a whole', async () => {
    await using fake = await fakeS3({ minPartBytes: partBytes })
    await using fs = fake.fs({ partBytes })
    fake.fail({ operation: 'UploadPart', answer: 'reset', effect: 'done' })
    fake.fail({ operation: 'UploadPart', answer: failed, after: 1 })
    const metadata = { colour: 'green' }
    const written = await fs.writeFile('file', chunks(size), { metadata })
    expect(written).toMatchObject({ size, metadata })
    expect(await fs.stat('file')).toMatchObject({ size, metadata, tag: written.tag })
    expect(fake.requests.filter(({ operation }) => operation === 'UploadPart').length).toBe(5)
    const read = await fs.readFile('file')
    expect(createHash('sha256').update(read).digest('hex')).toBe(await sum(chunks(size)))
    await fs.writeFile('again', read)
    expect(fake.objects.get('again')?.etag).toBe(fake.objects.get('file')?.etag)
  })
  test('of which a part, or the source, fails leave nothing', async () => {
    async function* breaking(): AsyncGenerator<Uint8Array> {
      yield* chunks(2 * partBytes)
      throw new Error('the source broke')
    }
    await using fake = await fakeS3()
    await using fs = fake.fs({ partBytes, retries: 1 })
    await expect(fs.writeFile('file', breaking())).rejects.toThrow('the source broke')
    fake.fail({ operation: 'UploadPart', answer: { status: 403, code: 'AccessDenied' } })
    expect(await codeOf(fs.writeFile('file', chunks(size)))).toBe('FS_DENIED')
    const controller = new AbortController()
    const { signal } = controller
    fake.fail({
      operation: 'UploadPart',
      answer: 'silence',
      meanwhile: async () => controller.abort(new Error('enough')),
    })
    await expect(fs.writeFile('file', chunks(size), { signal })).rejects.toThrow('enough')
    await fs[Symbol.asyncDispose]()
    expect(fake.objects.size).toBe(0)
    expect(fake.uploads.size).toBe(0)
  })
  test('that are given up do not wait for a server that is silent', async () => {
    await using fake = await fakeS3()
    const fs = fake.fs({ partBytes, retries: 1 })
    const controller = new AbortController()
    const answered = Promise.withResolvers<void>()
    fake.fail({
      operation: 'UploadPart',
      answer: 'silence',
      meanwhile: async () => controller.abort(new Error('enough')),
    })
    fake.fail({ operation: 'AbortMultipartUpload', answer: failed, meanwhile: () => answered.promise })
    await expect(fs.writeFile('file', chunks(size), { signal: controller.signal })).rejects.toThrow('enough')
    expect(fake.uploads.size).toBe(1)
    answered.resolve()
    await fs[Symbol.asyncDispose]()
    expect(fake.uploads.size).toBe(0)
  })
  test('that cannot be begun close their source', async () => {
    let closed = 0
    async function* source(): AsyncGenerator<Uint8Array> {
      try {
        yield* chunks(size)
      } finally {
        closed++
      }
    }
    await using fake = await fakeS3()
    await using fs = fake.fs({ partBytes, conditionalMultipart: true })
    fake.fail({ operation: 'CreateMultipartUpload', answer: { status: 403, code: 'AccessDenied' } })
    expect(await codeOf(fs.writeFile('file', source()))).toBe('FS_DENIED')
    await using spooling = fake.fs({ partBytes, spoolDirectory: '/dev/null' })
    expect(await codeOf(spooling.writeFile('file', source(), { ifAbsent: true }))).toBe('FS_IO')
    expect(closed).toBe(2)
  })
  test('keep the conditions they are written under, whatever the server makes of them', async () => {
    const size = partBytes + 1
    for (const conditionalMultipart of [true, false]) {
      await using fake = await fakeS3({ ignoreMultipartConditions: !conditionalMultipart })
      await using fs = fake.fs({ partBytes, conditionalMultipart })
      for (const source of [() => chunks(size), () => Buffer.alloc(size)]) {
        const first = await fs.writeFile('file', source(), { ifAbsent: true })
        expect(await codeOf(fs.writeFile('file', source(), { ifAbsent: true }))).toBe('FS_EXISTS')
        await fs.writeFile('file', source(), { ifMatch: first.tag })
        expect(await codeOf(fs.writeFile('file', source(), { ifMatch: first.tag }))).toBe('FS_CONFLICT')
        expect((await fs.readFile('file')).length).toBe(size)
        await fs.remove('file')
      }
      const parts = fake.requests.filter(({ operation }) => operation === 'UploadPart').length
      expect(parts > 0).toBe(conditionalMultipart)
    }
  })
})

describe('an open file', () => {
  test('is one version: replaced, it fails instead of mixing two', async () => {
    await using fake = await fakeS3()
    await using fs = fake.fs()
    await fs.writeFile('file', text('one version'))
    await using file = await fs.open('file', 'read')
    const into = Buffer.alloc(3)
    expect(await file.read(into, 4)).toBe(3)
    expect(into.toString()).toBe('ver')
    await fs.writeFile('file', text('two version'))
    expect(await codeOf(file.read(into, 0))).toBe('FS_CONFLICT')
    expect((await file.stat()).size).toBe(11)
    await fs.remove('file')
    expect(await codeOf(file.read(into, 0))).toBe('FS_NOT_FOUND')
  })
  test('is read to its end although connections break', async () => {
    await using fake = await fakeS3()
    await using fs = fake.fs()
    const content = Buffer.alloc(300_000, 'abc')
    await fs.writeFile('file', content)
    await using file = await fs.open('file', 'read')
    fake.fail({ operation: 'GetObject', answer: 'cut', times: 2 })
    const into = Buffer.alloc(299_999)
    expect(await file.read(into, 1)).toBe(299_999)
    expect(into.equals(content.subarray(1))).toBe(true)
  })
})

describe('names', () => {
  test('are listed over many pages, each once', async () => {
    await using fake = await fakeS3({ pageKeys: 3 })
    await using fs = fake.fs({ prefix: 'deep/root' })
    const expected: string[] = []
    for (const name of ['a b', 'a+b', 'a%20b', 'é', '😀', '\u0001', '<&>"', 'a\nb', 'z']) {
      await fs.writeFile(`d/${name}`, text(name))
      await fs.writeFile(`d/${name}-d/x/y`, text(name))
      expected.push(`file ${name}`, `directory ${name}-d`)
    }
    expect(await namesOf(fs, 'd')).toEqual(expected.sort())
    for (const name of fake.objects.keys()) expect(name.startsWith('deep/root/d/')).toBe(true)
  })
  test('that other programs made and that are no paths are not listed', async () => {
    await using fake = await fakeS3()
    await using fs = fake.fs()
    await fs.writeFile('d/file', text('x'))
    const object = fake.objects.get('d/file')!
    for (const key of ['d/', 'd//x', 'd/../x', 'd/./x']) fake.objects.set(key, object)
    expect(await namesOf(fs, 'd')).toEqual(['file file'])
    expect(await namesOf(fs, '')).toEqual(['directory d'])
  })
  test('of files by other programs are read, and replaced under a condition', async () => {
    await using fake = await fakeS3()
    await using fs = fake.fs()
    await fs.writeFile('file', text('x'))
    fake.objects.set('file', { ...fake.objects.get('file')!, contentType: 'text/plain' })
    const { tag } = (await fs.stat('file'))!
    fake.fail({ operation: 'PutObject', answer: failed })
    await fs.writeFile('file', text('y'), { ifMatch: tag })
    expect(await codeOf(fs.writeFile('file', text('z'), { ifMatch: tag }))).toBe('FS_CONFLICT')
    for (const odd of ['', '"', 'a\r\nb', '*', '~', 'é']) {
      expect(await codeOf(fs.writeFile('file', text('z'), { ifMatch: odd }))).toBe('FS_CONFLICT')
    }
  })
})

describe('servers and clients', () => {
  test('that have the bucket in the host name work', async () => {
    await using fake = await fakeS3()
    const httpAgent = new Agent({
      keepAlive: true,
      lookup: (_host, _options, found) => found(null, [{ address: '127.0.0.1', family: 4 }]),
    })
    const endpoint = `http://s3.test:${fake.port}`
    await using fs = fake.fs({ endpoint, addressing: 'virtual-host', clientConfig: { requestHandler: { httpAgent } } })
    await fs.writeFile('d/é', text('content'), { ifAbsent: true })
    expect(Buffer.from(await fs.readFile('d/é')).toString()).toBe('content')
    expect(await namesOf(fs, 'd')).toEqual(['file é'])
    for (const { host } of fake.requests) expect(host).toBe(`fake.s3.test:${fake.port}`)
    httpAgent.destroy()
  })
  test('that compare ETags as they come are recognised, and work with the option for it', async () => {
    await using fake = await fakeS3({ bareIfMatch: true })
    await using quoted = fake.fs()
    const { tag } = await quoted.writeFile('file', text('one'))
    await expect(quoted.writeFile('file', text('two'), { ifMatch: tag })).rejects.toThrow('quotedIfMatch')
    await using bare = fake.fs({ quotedIfMatch: false })
    await bare.writeFile('file', text('two'), { ifMatch: tag })
    expect(await codeOf(bare.writeFile('file', text('three'), { ifMatch: tag }))).toBe('FS_CONFLICT')
  })
  test('that are given stay open, and their own repetition is not believed', async () => {
    await using fake = await fakeS3()
    const client = new S3Client({
      endpoint: fake.endpoint,
      region: 'us-east-1',
      forcePathStyle: true,
      credentials: { accessKeyId: 'FAKEKEY', secretAccessKey: 'x' },
      maxAttempts: 3,
    })
    {
      await using fs = s3Fs({ client, bucket: fake.bucket })
      // The client repeats what worked, and is told that somebody was faster: itself.
      fake.fail({ operation: 'PutObject', answer: failed, effect: 'done' })
      const { tag } = await fs.writeFile('file', text('content'), { ifAbsent: true })
      expect((await fs.stat('file'))?.tag).toBe(tag)
    }
    await using again = s3Fs({ client, bucket: fake.bucket })
    expect((await again.readFile('file')).length).toBe(7)
    client.destroy()
  })
  test('get credentials and region from the environment', async () => {
    await using fake = await fakeS3()
    vi.stubEnv('AWS_ACCESS_KEY_ID', 'FAKEKEY')
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'x')
    vi.stubEnv('AWS_REGION', 'eu-central-1')
    await using fs = s3Fs({ endpoint: fake.endpoint, bucket: fake.bucket })
    await fs.writeFile('file', text('content'))
    expect(fake.objects.size).toBe(1)
    vi.unstubAllEnvs()
  })
  test('are given sums of everything, and compare them', async () => {
    await using fake = await fakeS3()
    const { endpoint, bucket } = fake
    const put = async (name: string, value: string): Promise<number> => {
      const headers = { authorization: 'Credential=FAKEKEY/', [name]: value }
      return (await fetch(`${endpoint}/${bucket}/file`, { method: 'PUT', body: 'content', headers })).status
    }
    const md5 = createHash('md5').update('content').digest('base64')
    expect(await put('content-md5', md5)).toBe(200)
    expect(await put('content-md5', createHash('md5').update('other').digest('base64'))).toBe(400)
    expect(await put('x-amz-checksum-crc32', 'AAAAAA==')).toBe(400)
    await using fs = fake.fs()
    await fs.writeFile('file', text('content'))
    expect(fake.objects.get('file')?.crc32).toBeDefined()
  })
})

describe('options', () => {
  test('that make no sense are refused', () => {
    for (const wrong of [
      { bucket: '' },
      { partBytes: 1 },
      { timeoutMs: 0 },
      { retries: -1 },
      { parallelParts: Number.NaN },
    ])
      expect(() => s3Fs({ bucket: 'b', region: 'r', ...wrong })).toThrow(TypeError)
    expect(() => s3Fs({ bucket: 'b', prefix: '../x' })).toThrow(FsError)
  })
})
