import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest'
import type { Fs, FsMetadata } from '../../index.ts'
import { memoryFs } from '../../memory.ts'
import { posixFs } from '../../posix.ts'
import { fsConformance } from '../../testing.ts'
import { metadata } from '../../wrappers.ts'
import { decodeMetadata, encodeMetadata, HEADER_FIRST_BYTES } from './metadata-format.ts'

const bytes = (text: string): Uint8Array => Buffer.from(text)
const textOf = (data: Uint8Array): string => Buffer.from(data).toString()

describe('metadata over posix', () => {
  let base: string
  let count = 0
  beforeAll(async () => {
    base = await mkdtemp(join(tmpdir(), 'mailstead-fs-metadata-'))
  })
  afterAll(async () => {
    await rm(base, { recursive: true, force: true })
  })
  fsConformance(
    { describe, it },
    { create: async () => metadata(await posixFs(join(base, `${++count}`), { create: true })), modelRuns: 10 },
  )
})

describe('metadata over memory, bare files accepted', () => {
  fsConformance(
    { describe, it },
    { create: async () => metadata(memoryFs({ metadata: false }), { bareFiles: 'accept' }) },
  )
})

describe('metadata over what only writes whole files', () => {
  fsConformance(
    { describe, it },
    {
      create: async () =>
        metadata(
          memoryFs({
            append: false,
            overwrite: false,
            rename: false,
            link: false,
            lock: false,
            conditional: false,
            syncRead: false,
            directories: false,
            watch: false,
            metadata: false,
          }),
        ),
    },
  )
})

const names = fc.string({ unit: fc.constantFrom('a', 'b', 'x', 'z', '0', '9', '-'), minLength: 1, maxLength: 64 })
const values = fc
  .string({ unit: fc.integer({ min: 0x20, max: 0x7e }).map((code) => String.fromCharCode(code)), maxLength: 60 })
  .map((value) => value.trim())
const metadatas: fc.Arbitrary<FsMetadata> = fc.dictionary(names, values, { maxKeys: 12 })

describe('the header', () => {
  test('what is written is what is read', () => {
    fc.assert(
      fc.property(metadatas, (given) => {
        const header = encodeMetadata(given)
        const read = decodeMetadata(header, 'file')
        expect({ ...read.metadata }).toEqual({ ...given })
        expect(read.size).toBe(header.length)
      }),
    )
  })
  test('any flipped bit, any cut and any surplus is damage', () => {
    const header = encodeMetadata({ guid: '5f3a', kind: 'mail' })
    const corrupt = expect.objectContaining({ code: 'FS_CORRUPT', path: 'file' })
    for (let bit = 0; bit < header.length * 8; bit++) {
      const copy = Uint8Array.from(header)
      copy[bit >> 3]! ^= 1 << (bit & 7)
      expect(() => decodeMetadata(copy, 'file')).toThrow(corrupt)
    }
    for (let cut = 0; cut < header.length; cut++)
      expect(() => decodeMetadata(header.slice(0, cut), 'file')).toThrow(corrupt)
    expect(() => decodeMetadata(Buffer.concat([header, bytes('x')]), 'file')).toThrow(corrupt)
  })
  test('any bytes are a header or damage, and nothing else', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), fc.boolean(), (tail, likely) => {
        const data = likely ? Buffer.concat([encodeMetadata({}).subarray(0, 16), tail]) : tail
        expect(() => decodeMetadata(data, 'file')).toThrow(expect.objectContaining({ code: 'FS_CORRUPT' }))
      }),
    )
  })
  test('the example in docs/formats/fs-metadata.md is what is written', async () => {
    const page = readFileSync(new URL('../../../../../docs/formats/fs-metadata.md', import.meta.url), 'utf8')
    const dump = /```hex\n([^`]*)```/.exec(page)![1]!
    const hex = dump.split('\n').map((line) => line.slice(10, 59))
    const file = Buffer.from(hex.join('').replaceAll(' ', ''), 'hex')
    const inner = memoryFs({ metadata: false })
    await inner.writeFile('file', file)
    const fs = metadata(inner)
    expect(await fs.stat('file')).toMatchObject({ size: 5, metadata: { guid: '5f3a', kind: 'mail' } })
    expect(textOf(await fs.readFile('file'))).toBe('hello')
    await fs.writeFile('again', bytes('hello'), { metadata: { kind: 'mail', guid: '5f3a' } })
    expect(Buffer.from(await inner.readFile('again')).toString('hex')).toBe(file.toString('hex'))
  })
})

describe('a file system that was given metadata', () => {
  const create = (): { inner: Fs; fs: Fs } => {
    const inner = memoryFs({ metadata: false })
    return { inner, fs: metadata(inner) }
  }
  const large = Object.fromEntries(Array.from({ length: 60 }, (_, i) => [`name-${i}`, `value ${i}`.padEnd(20, '.')]))

  test('shifts every range and position by the header, of any size', async () => {
    for (const given of [{}, { a: 'b' }, large]) {
      const { inner, fs } = create()
      await fs.writeFile('file', bytes('0123456789'), { metadata: given })
      const shift = (await inner.stat('file'))!.size - 10
      if (given === large) expect(shift).toBeGreaterThan(HEADER_FIRST_BYTES)
      expect(textOf(await fs.readFile('file', { start: 3, end: 6 }))).toBe('345')
      expect(textOf(await fs.readFile('file', { start: 8 }))).toBe('89')
      expect(textOf(await fs.readFile('file', { end: 2 }))).toBe('01')
      await using file = await fs.open('file', 'write')
      expect(await file.append([bytes('ab')])).toBe(10)
      expect(file.appendSync!([bytes('c')])).toBe(12)
      await file.write(bytes('X'), 0)
      await file.truncate(12)
      expect(await file.stat()).toMatchObject({ size: 12, metadata: given })
      const into = new Uint8Array(20)
      expect(file.readSync!(into, 0)).toBe(12)
      expect(textOf(into.subarray(0, 12))).toBe('X123456789ab')
      await file.truncate(0)
      expect(await fs.stat('file')).toMatchObject({ size: 0, metadata: given })
      expect((await fs.readFile('file')).length).toBe(0)
    }
  })
  test('takes a file without a whole header for damage, and still lets it be replaced, moved and removed', async () => {
    const { inner, fs } = create()
    const whole = encodeMetadata(large)
    for (const content of [
      bytes(''),
      bytes('a bare file'),
      whole.slice(0, 100),
      whole.map((byte, i) => (i === 900 ? byte ^ 1 : byte)),
    ]) {
      await inner.writeFile('file', content)
      const corrupt = { code: 'FS_CORRUPT', path: 'file' }
      await expect(fs.stat('file')).rejects.toMatchObject(corrupt)
      await expect(fs.readFile('file')).rejects.toMatchObject(corrupt)
      await expect(fs.readFile('file', { start: 1, end: 2 })).rejects.toMatchObject(corrupt)
      for (const mode of ['read', 'append', 'write'] as const)
        await expect(fs.open('file', mode)).rejects.toMatchObject(corrupt)
      expect(Buffer.compare(await inner.readFile('file'), content)).toBe(0)
      await fs.rename('file', 'other')
      await fs.writeFile('other', bytes('new'))
      expect(textOf(await fs.readFile('other'))).toBe('new')
      await fs.remove('other')
    }
  })
  test('reads bare files as having none, if it is told to, but never one whose magic alone is damaged', async () => {
    const { inner, fs: strict } = create()
    const fs = metadata(inner, { bareFiles: 'accept' })
    for (const content of ['', 'bare', 'mailmeta', 'x'.repeat(10_000)]) {
      await inner.writeFile('file', bytes(content))
      expect(await fs.stat('file')).toMatchObject({ size: content.length, metadata: {} })
      expect(textOf(await fs.readFile('file'))).toBe(content)
      expect(textOf(await fs.readFile('file', { start: 1 }))).toBe(content.slice(1))
      await using file = await fs.open('file', 'append')
      expect(await file.append([bytes('!')])).toBe(content.length)
      expect(textOf(await fs.readFile('file'))).toBe(`${content}!`)
    }
    for (const given of [{ a: 'b' }, large]) {
      await strict.writeFile('file', bytes('content'), { metadata: given })
      const damaged = Uint8Array.from(await inner.readFile('file'))
      damaged[3]! ^= 4
      await inner.writeFile('file', damaged)
      await expect(fs.readFile('file')).rejects.toMatchObject({ code: 'FS_CORRUPT' })
      await expect(fs.stat('file')).rejects.toMatchObject({ code: 'FS_CORRUPT' })
    }
  })
  test('gives a header to a file that was removed while it was being opened for writing', async () => {
    const inner = memoryFs({ metadata: false })
    let removals = 2
    const fs = metadata({
      ...inner,
      async open(path, mode, options) {
        if (mode === 'append' && removals-- > 0) await inner.remove(path)
        return inner.open(path, mode, options)
      },
    })
    await fs.writeFile('file', bytes('old'))
    await using file = await fs.open('file', 'append')
    expect(await file.append([bytes('new')])).toBe(0)
    expect(textOf(await fs.readFile('file'))).toBe('new')
  })
  test('locks a file that can be written and read', async () => {
    const { fs } = create()
    await using lock = await fs.lock('lock')
    await lock.acquire()
    expect(await fs.stat('lock')).toMatchObject({ size: 0, metadata: {} })
    await using file = await fs.open('lock', 'append')
    await file.append([bytes('holder')])
    expect(textOf(await fs.readFile('lock'))).toBe('holder')
  })
  test('is itself where metadata are kept already, and needs conditional writes to make files', () => {
    const inner = memoryFs()
    expect(metadata(inner)).toBe(inner)
    expect(() => metadata(memoryFs({ metadata: false, conditional: false }))).toThrow(
      expect.objectContaining({ code: 'FS_UNSUPPORTED' }),
    )
  })
})
