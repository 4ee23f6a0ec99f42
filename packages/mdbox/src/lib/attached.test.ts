import { randomBytes } from 'node:crypto'
import { type Box, type BoxHost, type BoxRef } from '@mailstead/box'
import { type MemoryProcess, memoryTable } from '@mailstead/box/testing'
import type { Fs } from '@mailstead/fs'
import { failNth, faultyFs } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Letters, RUN_MIN } from '../../test/letters.ts'
import type { Compression } from './compress.ts'
import { mdbox } from './mdbox.ts'
import { COLUMNS } from './place.ts'
import { COLUMNS as SDBOX_COLUMNS } from './sdbox/row.ts'
import { sdbox } from './sdbox/sdbox.ts'

const deep = process.env['MAILSTEAD_DEPTH'] !== undefined
const numRuns = deep ? 500 : 25

interface Opened {
  readonly fs: Fs
  readonly box: Box
  readonly proc: MemoryProcess
  readonly letters: Letters
}

interface Kind {
  readonly name: 'mdbox' | 'sdbox'
  readonly compression: Compression
}
const kinds: readonly Kind[] = [
  { name: 'mdbox', compression: 'off' },
  { name: 'mdbox', compression: 'auto' },
  { name: 'sdbox', compression: 'off' },
  { name: 'sdbox', compression: 'auto' },
]

async function opened({ name, compression }: Kind, fs: Fs = memoryFs()): Promise<Opened> {
  const proc = memoryTable(name === 'mdbox' ? COLUMNS : SDBOX_COLUMNS).process()
  const letters = new Letters(fs, proc.host)
  const host: BoxHost = { ...proc.host, attachments: letters }
  return { fs, proc, letters, box: await format(name, fs, compression).open(host) }
}

function format(name: Kind['name'], fs: Fs, compression: Compression): ReturnType<typeof mdbox> {
  return name === 'mdbox' ? mdbox(fs, 'storage', { compression }) : sdbox(fs, 'storage', { compression })
}

async function save({ box, proc }: Opened, body: Uint8Array, pieceBytes = 0): Promise<BoxRef> {
  await using batch = box.begin()
  const source = pieceBytes === 0 ? body : pieces(body, pieceBytes)
  const saved = await batch.save(source, { guid: randomBytes(16), receivedMs: 0 })
  expect(saved.physicalSize).toBe(body.length)
  await batch.flush()
  const [ref] = await proc.keep(saved)
  return ref!
}

async function* pieces(body: Uint8Array, bytes: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < body.length; at += bytes) yield Uint8Array.from(body.subarray(at, at + bytes))
}

async function readAll(box: Box, ref: BoxRef, from = 0, to?: number): Promise<Buffer> {
  await using message = await box.open(ref)
  const into = Buffer.alloc((to ?? message.physicalSize) - from)
  expect(await message.read(into, from)).toBe(into.length)
  return into
}

async function damages(box: Box): Promise<string[]> {
  const found = (await Array.fromAsync(box.check())).flat()
  return found.filter(({ severity }) => severity === 'damage').map(({ kind, message }) => `${kind}: ${message}`)
}

/** Of the only message. */
async function fileOf(fs: Fs): Promise<string> {
  for await (const page of fs.list('storage/unnamed')) for (const { name } of page) return `storage/unnamed/${name}`
  return 'storage/m.1'
}

const HEAD = Buffer.from('SUBJECT: IT\n\n')
const run = (letter: string, count: number): Buffer => Buffer.alloc(count, letter)
const withPart = Buffer.concat([HEAD, run('q', 50_000), Buffer.from('\r\n--\n')])

/** Messages of pieces, long and short, some of which are taken out. */
const messages = fc
  .array(
    fc.oneof(
      fc.string({ unit: 'binary', maxLength: 60 }).map((text) => Buffer.from(text)),
      fc
        .record({ letter: fc.constantFrom('a', 'b'), count: fc.integer({ min: 1, max: 3 * RUN_MIN }) })
        .map(({ letter, count }) => run(letter, count)),
      fc.constantFrom(run('c', 70_000), run('D', 140_000), Buffer.from('\n'), Buffer.from('\r\n')),
    ),
    { maxLength: 12 },
  )
  .map((parts) => Buffer.concat(parts))

describe.each(kinds)('messages of $name (compression $compression) of which parts lie elsewhere', (kind) => {
  test('come back as they came, whole and in ranges, however they were handed over', async () => {
    let taken = 0
    await fc.assert(
      fc.asyncProperty(
        messages,
        fc.constantFrom(0, 1000, 65_536, 300_000),
        fc.array(fc.tuple(fc.nat(), fc.nat(100_000)), { maxLength: 5 }),
        async (body, pieceBytes, ranges) => {
          const store = await opened(kind)
          const ref = await save(store, body, pieceBytes)
          taken += store.letters.used.length
          expect((await readAll(store.box, ref)).equals(body)).toBe(true)
          for (const [a, length] of ranges) {
            const from = body.length === 0 ? 0 : a % body.length
            const to = Math.min(body.length, from + length)
            expect((await readAll(store.box, ref, from, to)).equals(body.subarray(from, to))).toBe(true)
          }
          expect(await damages(store.box)).toEqual([])
          const [scanned] = (await Array.fromAsync(store.box.scan())).flat()
          expect(scanned!.physicalSize).toBe(body.length)
          expect(scanned!.segments !== undefined).toBe(store.letters.used.length > 0)
          const row = store.proc.host.table.view
          expect(scanned!.row!['flags']).toBe(row.extension('flags')!.number(row.rowOf(ref)))
        },
      ),
      { numRuns },
    )
    expect(taken).toBeGreaterThan(0)
    console.log(`${numRuns} messages, ${taken} parts taken out`)
  })

  test('take no more room than what is left of them', async () => {
    const store = await opened(kind)
    await save(store, withPart)
    const { size } = (await store.fs.stat(await fileOf(store.fs)))!
    expect(size).toBeLessThan(1000)
  })

  test('give back what they hold elsewhere in the frame that drops them, and not before', async () => {
    const store = await opened(kind)
    const kept = await save(store, withPart)
    const gone = await save(store, Buffer.concat([HEAD, run('x', 20_000)]))
    expect(store.letters.used).toEqual(['part.1', 'part.2'])
    await store.proc.setUses([gone], 0)
    expect(store.letters.used).toEqual(['part.1', 'part.2'])
    await store.box.purge()
    expect(store.letters.used).toEqual(['part.1'])
    expect((await readAll(store.box, kept)).equals(withPart)).toBe(true)
    expect(await damages(store.box)).toEqual([])
  })

  test('keep it if they are in use again before a purge comes to it', async () => {
    const fs = memoryFs()
    const table = memoryTable(kind.name === 'mdbox' ? COLUMNS : SDBOX_COLUMNS)
    const proc = table.process()
    const letters = new Letters(fs, proc.host)
    const box = await format(kind.name, fs, kind.compression).open({ ...proc.host, attachments: letters })
    const ref = await save({ fs, box, proc, letters }, withPart)
    await proc.setUses([ref], 0)
    // Looked up for the last time, and not decided yet.
    letters.onDrop = () => table.overwrite(ref, 'uses', 1)
    await box.purge()
    letters.onDrop = undefined
    const scanned = (await Array.fromAsync(box.scan())).flat()
    expect(scanned.map(({ expunged }) => expunged)).toEqual([false])
    await proc.host.refresh()
    expect(letters.used).toEqual(['part.1'])
    await box.purge()
    expect(letters.used).toEqual(['part.1'])
    expect((await readAll(box, ref)).equals(withPart)).toBe(true)
  })

  test('are left alone by a purge that has no store of attachments, and say what they lack', async () => {
    const store = await opened(kind)
    const ref = await save(store, withPart)
    const plain = await save(store, Buffer.from('plain'))
    await using bare = await format(kind.name, store.fs, 'off').open(store.proc.host)
    await expect(bare.open(ref)).rejects.toMatchObject({ code: 'BOX_UNSUPPORTED', ref })
    expect((await readAll(bare, plain)).toString()).toBe('plain')
    await store.proc.setUses([ref, plain], 0)
    await bare.purge()
    expect(store.letters.used).toEqual(['part.1'])
    await store.proc.setUses([ref], 1)
    expect((await readAll(store.box, ref)).equals(withPart)).toBe(true)
  })

  test('fail only where a part is missing or away', async () => {
    const store = await opened(kind)
    const ref = await save(store, withPart)
    await store.fs.remove('elsewhere/part.1')
    expect((await readAll(store.box, ref, 0, HEAD.length)).equals(HEAD)).toBe(true)
    await expect(readAll(store.box, ref)).rejects.toMatchObject({ code: 'BOX_DAMAGED', ref })
    const away = await opened(
      kind,
      faultyFs(memoryFs(), failNth({ operation: 'readFile', nth: 1, fault: 'FS_UNAVAILABLE' })),
    )
    const there = await save(away, withPart)
    await expect(readAll(away.box, there)).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
    expect((await readAll(away.box, there)).equals(withPart)).toBe(true)
  })

  test('no flipped bit in what is left of them goes unnoticed', async () => {
    const store = await opened(kind)
    const ref = await save(store, withPart)
    const path = await fileOf(store.fs)
    const bytes = await store.fs.readFile(path)
    for (let at = 0; at < bytes.length; at++) {
      const broken = Uint8Array.from(bytes)
      broken[at]! ^= 1 << (at % 8)
      await store.fs.writeFile(path, broken)
      const fresh = await format(kind.name, store.fs, kind.compression).open({
        ...store.proc.host,
        attachments: store.letters,
      })
      const [read, found] = [await readAll(fresh, ref).catch(() => undefined), await damages(fresh)]
      expect(read === undefined || read.equals(withPart), `byte ${at}`).toBe(true)
      expect(read === undefined || found.length > 0, `byte ${at}`).toBe(true)
      await fresh[Symbol.asyncDispose]()
    }
  })
})
