import { createHash } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest'
import { type Ceph, cephMissing, startCeph } from '../../test/ceph.ts'
import { create, raceToCreate, raceToReplace } from '../../test/races.ts'
import { fsConformance } from '../testing.ts'
import { acquireLease } from './lease.ts'
import { s3Fs } from './s3.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const modelRuns = depth === 'soak' ? 200 : depth === 'ci' ? 20 : 2
const races = depth === 'soak' ? 1000 : depth === 'ci' ? 60 : 5
const missing = cephMissing()
if (missing !== undefined) console.log(`S3 over Ceph is not tested: ${missing}`)

describe.skipIf(missing !== undefined)('s3 over Ceph', () => {
  let ceph: Ceph
  beforeAll(async () => {
    ceph = await startCeph()
  })
  afterAll(async () => {
    await ceph?.[Symbol.asyncDispose]()
  })

  fsConformance({ describe, it }, { create: async () => ceph.fs(), modelRuns, modelSteps: 60 })

  test('of many who create one name exactly one wins', async () => {
    await using fs = ceph.fs()
    await raceToCreate(fs, races)
  })
  test('of many who replace one version exactly one wins, and all others know that they did not', async () => {
    await using fs = ceph.fs()
    await raceToReplace(fs, races)
  })
  test('large files are uploaded in parts, and under a condition as a whole', async () => {
    const partBytes = 5 * 1024 * 1024
    const content = Buffer.alloc(2 * partBytes + 7, 'abc')
    const sum = createHash('sha256').update(content).digest('hex')
    async function* stream(): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < content.length; at += 1_000_003) yield content.subarray(at, at + 1_000_003)
    }
    await using fs = ceph.fs({ partBytes })
    const metadata = { colour: 'green', empty: '' }
    const written = await fs.writeFile('file', stream(), { metadata })
    expect(written).toMatchObject({ size: content.length, metadata })
    expect(await fs.stat('file')).toMatchObject({ tag: written.tag, size: content.length, metadata })
    expect(
      createHash('sha256')
        .update(await fs.readFile('file'))
        .digest('hex'),
    ).toBe(sum)
    for (const source of [() => content, stream]) {
      await expect(fs.writeFile('file', source(), { ifAbsent: true })).rejects.toMatchObject({ code: 'FS_EXISTS' })
      const { tag } = (await fs.stat('file'))!
      await fs.writeFile('file', source(), { ifMatch: tag })
      await expect(fs.writeFile('file', source(), { ifMatch: tag })).rejects.toMatchObject({ code: 'FS_CONFLICT' })
      expect(
        createHash('sha256')
          .update(await fs.readFile('file'))
          .digest('hex'),
      ).toBe(sum)
    }
  })
  test('a file replaced while it is read is a conflict', async () => {
    await using fs = ceph.fs()
    await fs.writeFile('file', Buffer.from('one version'))
    await using file = await fs.open('file', 'read')
    expect(await file.read(Buffer.alloc(3), 4)).toBe(3)
    await fs.writeFile('file', Buffer.from('two version'))
    await expect(file.read(Buffer.alloc(3), 4)).rejects.toMatchObject({ code: 'FS_CONFLICT' })
  })
  test('quotes that Ceph does not understand are told apart from conflicts', async () => {
    await using fs = ceph.fs({ quotedIfMatch: true })
    const { tag } = await fs.writeFile('file', Buffer.from('content'))
    await expect(fs.writeFile('file', Buffer.from('x'), { ifMatch: tag })).rejects.toMatchObject({
      code: 'FS_UNSUPPORTED',
    })
  })
  test('names of every kind are listed', async () => {
    await using fs = ceph.fs()
    const names = ['a b', 'a+b', 'a%20b', 'é ü', '😀', '\u0001', '<&>"', 'a\nb', 'z']
    const expected = names.flatMap((name) => [`file ${name}`, `directory ${name}-d`]).sort()
    await create(
      fs,
      names.flatMap((name) => [`d/${name}`, `d/${name}-d/x y/z`]),
    )
    const found = (await Array.fromAsync(fs.list('d'))).flat().map(({ kind, name }) => `${kind} ${name}`)
    expect(found.sort()).toEqual(expected)
  })
  test.skipIf(depth === undefined)('more names than fit a page are listed, each once', async () => {
    await using fs = ceph.fs()
    await create(
      fs,
      Array.from({ length: 1100 }, (_, i) => `many/${i}`),
    )
    const pages = await Array.fromAsync(fs.list('many'))
    expect(pages.length).toBeGreaterThan(1)
    expect(new Set(pages.flat().map(({ name }) => name)).size).toBe(1100)
  })
  test('credentials and buckets that are wrong have their codes', async () => {
    const { endpoint, bucket } = ceph
    const wrong = { endpoint, region: 'us-east-1', retries: 0 }
    await using stranger = s3Fs({ ...wrong, bucket, credentials: { accessKeyId: 'X', secretAccessKey: 'Y' } })
    const credentials = { accessKeyId: 'TESTKEY', secretAccessKey: 'TESTSECRET' }
    await using liar = s3Fs({ ...wrong, bucket, credentials: { ...credentials, secretAccessKey: 'Y' } })
    await using lost = s3Fs({ ...wrong, bucket: 'elsewhere', credentials })
    for (const [fs, code] of [
      [stranger, 'FS_DENIED'],
      [liar, 'FS_DENIED'],
      [lost, 'FS_UNAVAILABLE'],
    ] as const)
      for (const run of [
        () => fs.stat('file'),
        () => fs.open('file', 'read'),
        () => fs.readFile('file'),
        () => fs.writeFile('file', Buffer.from('x'), { ifAbsent: true }),
        () => fs.remove('file'),
        () => Array.fromAsync(fs.list('')),
      ])
        await expect(run()).rejects.toMatchObject({ code })
  })
  test('a lease goes from hand to hand', async () => {
    await using fs = ceph.fs()
    const tokens: number[] = []
    let holding = 0
    const ask = async (holder: string): Promise<void> => {
      while (tokens.length < 12) {
        await using lease = await acquireLease(fs, 'd/lease', { holder, ttlMs: 600_000, pollMs: 20 })
        expect(++holding).toBe(1)
        tokens.push(lease.token)
        await lease.renew()
        holding--
      }
    }
    await Promise.all([ask('one'), ask('two'), ask('three')])
    expect(tokens).toEqual(tokens.map((_, i) => i + 1))
  })
})
