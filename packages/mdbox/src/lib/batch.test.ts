import type { AttachmentStore, BoxSaved } from '@mailstead/box'
import { memoryTable } from '@mailstead/box/testing'
import { memoryFs } from '@mailstead/fs/memory'
import type { Fs, FsFile } from '@mailstead/fs'
import { faultyFs } from '@mailstead/fs/faults'
import { expect, test } from 'vitest'
import { mdbox } from './mdbox.ts'
import { BATCH_MEMORY_MAX, SMALL_MAX, SPOOLS_OPEN_MAX } from './options.ts'
import { COLUMNS } from './place.ts'

const SIZE = 900 * 1024
const COUNT = 30

function message(at: number): Buffer {
  return Buffer.alloc(SIZE, `message ${at} `)
}

/** In pieces; `gate` holds back the last one. */
async function* pieces(bytes: Buffer, gate?: Promise<void>): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += 65_536) {
    if (at + 65_536 >= bytes.length) await gate
    yield bytes.subarray(at, at + 65_536)
  }
}

interface Source {
  readonly name: string
  readonly save: (saveOne: (at: number, gate?: Promise<void>) => Promise<BoxSaved>) => Promise<BoxSaved[]>
}

const sources: readonly Source[] = [
  {
    name: 'one after the other',
    async save(saveOne) {
      const saved: BoxSaved[] = []
      for (let at = 0; at < COUNT; at++) saved.push(await saveOne(at))
      return saved
    },
  },
  {
    name: 'all at once',
    async save(saveOne) {
      const gate = Promise.withResolvers<void>()
      const saving = Array.from({ length: COUNT }, async (_, at) => saveOne(at, gate.promise))
      setImmediate(gate.resolve)
      return Promise.all(saving)
    },
  },
]

for (const { name, save } of sources)
  test.for(['buffers', 'streams'])(
    `small messages beyond the memory of a batch go to a file, ${name}: %s`,
    async (kind) => {
      const inner = memoryFs()
      let appends = 0
      const fs = faultyFs(inner, {
        fail(operation) {
          if (operation === 'append') appends++
          return undefined
        },
      })
      const process = memoryTable(COLUMNS).process()
      await using box = await mdbox(fs, 'storage').open(process.host)
      await using batch = box.begin()
      const saved = await save(async (at, gate) =>
        batch.save(kind === 'buffers' ? message(at) : pieces(message(at), gate), {
          guid: new Uint8Array(16).fill(at),
          receivedMs: 0,
          mailbox: 'INBOX',
        }),
      )
      let onDisk = 0
      for (const page of await Array.fromAsync(inner.list('storage')))
        for (const entry of page)
          if (entry.name.startsWith('m.'))
            onDisk += (await (await inner.open(`storage/${entry.name}`, 'read')).stat()).size
      expect(COUNT * SIZE - onDisk).toBeLessThanOrEqual(BATCH_MEMORY_MAX)
      expect(COUNT * SIZE - onDisk).toBeGreaterThan(BATCH_MEMORY_MAX - SIZE * 2)
      expect(appends).toBeGreaterThan(0)
      await batch.flush()
      const refs = await process.keep(...saved)
      for (const [at, ref] of refs.entries()) {
        await using kept = await box.open(ref)
        const into = Buffer.alloc(SIZE)
        expect(await kept.read(into, 0)).toBe(SIZE)
        expect(into.equals(message(at))).toBe(true)
      }
      expect((await Array.fromAsync(box.check())).flat().filter(({ severity }) => severity === 'damage')).toEqual([])
    },
  )

test('a batch that was flushed has its memory again', async () => {
  const inner = memoryFs()
  const process = memoryTable(COLUMNS).process()
  await using box = await mdbox(inner, 'storage').open(process.host)
  await using batch = box.begin()
  const metadata = { guid: new Uint8Array(16), receivedMs: 0, mailbox: 'INBOX' }
  for (let round = 0; round < 3; round++) {
    for (let at = 0; at < 8; at++) await batch.save(message(at), metadata)
    await batch.flush()
  }
  const names = (await Array.fromAsync(inner.list('storage'))).flat().filter(({ name }) => name.startsWith('m.'))
  // 22 MB, in files of some 10 MiB that no spool is among.
  expect(names.length).toBeLessThanOrEqual(3)
})

/** A store of attachments that takes nothing, and is told all the same. */
function takesNothing(written: (bytes: Uint8Array) => void): AttachmentStore {
  const unused = (): never => {
    throw new Error('not in these tests')
  }
  return {
    name: 'nothing',
    messageMinBytes: 1,
    begin: () => ({
      message: (keep) => ({
        write: async (bytes) => {
          written(bytes)
          await keep(bytes)
        },
        end: () => Promise.resolve(undefined),
        record: () => {},
      }),
      flush: () => Promise.resolve(),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    }),
    open: unused,
    drop: unused,
    sweep: unused,
    check: unused,
    repair: unused,
    stats: unused,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }
}

test('messages that are saved at once keep within the memory of their batch while parts of them are looked for', async () => {
  const inner = memoryFs()
  const process = memoryTable(COLUMNS).process()
  await using box = await mdbox(inner, 'storage').open({ ...process.host, attachments: takesNothing(() => {}) })
  await using batch = box.begin()
  await Promise.all(
    Array.from({ length: COUNT }, async (_, at) =>
      batch.save(message(at), { guid: new Uint8Array(16), receivedMs: 0 }),
    ),
  )
  let onDisk = 0
  for (const { name } of (await Array.fromAsync(inner.list('storage'))).flat())
    if (name.startsWith('m.')) onDisk += (await inner.stat(`storage/${name}`))!.size
  expect(COUNT * SIZE - onDisk).toBeLessThanOrEqual(BATCH_MEMORY_MAX)
})

test('a large message in one piece is looked at in small ones: what is kept of it on the way is little', async () => {
  const process = memoryTable(COLUMNS).process()
  const sizes: number[] = []
  const attachments = takesNothing((bytes) => sizes.push(bytes.length))
  await using box = await mdbox(memoryFs(), 'storage').open({ ...process.host, attachments })
  await using batch = box.begin()
  const bytes = Buffer.alloc(12 * 1024 * 1024, 'Subject: large\r\n')
  const saved = await batch.save(bytes, { guid: new Uint8Array(16), receivedMs: 0 })
  expect(Math.max(...sizes)).toBeLessThanOrEqual(256 * 1024)
  expect(sizes.reduce((a, b) => a + b)).toBe(bytes.length)
  await batch.flush()
  const [ref] = await process.keep(saved)
  await using kept = await box.open(ref!)
  const into = Buffer.alloc(bytes.length)
  expect(await kept.read(into, 0)).toBe(bytes.length)
  expect(into.equals(bytes)).toBe(true)
})

/** How many files are open now and at most. */
function counted(inner: Fs): { readonly fs: Fs; readonly open: { now: number; most: number } } {
  const open = { now: 0, most: 0 }
  const watch = (file: FsFile): FsFile =>
    new Proxy(file, {
      get(target, key) {
        if (key === Symbol.asyncDispose)
          return async () => {
            open.now--
            await target[Symbol.asyncDispose]()
          }
        const value: unknown = Reflect.get(target, key, target)
        return typeof value === 'function' ? (value.bind(target) as unknown) : value
      },
    })
  const fs = new Proxy(inner, {
    get(target, key) {
      if (key === 'open')
        return async (...args: Parameters<Fs['open']>) => {
          const file = await target.open(...args)
          open.most = Math.max(open.most, ++open.now)
          return watch(file)
        }
      const value: unknown = Reflect.get(target, key, target)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
  return { fs, open }
}

test.for(['committed', 'given up', 'failing'])('a batch of very many files keeps few of them open: %s', async (how) => {
  const inner = memoryFs()
  let failing = false
  const { fs, open } = counted(
    faultyFs(inner, { fail: (operation) => (failing && operation === 'sync' ? 'FS_IO' : undefined) }),
  )
  const process = memoryTable(COLUMNS).process()
  const large = 300
  const files = async (): Promise<number> =>
    (await Array.fromAsync(inner.list('storage'))).flat().filter(({ name }) => name.startsWith('m.')).length
  {
    // Each message is larger than a file is to be.
    await using box = await mdbox(fs, 'storage', { rotateBytes: 1000 }).open(process.host)
    const bytes = Buffer.alloc(1100, 'Subject: large\r\n')
    const metadata = { guid: new Uint8Array(16), receivedMs: 0, mailbox: 'INBOX' }
    const memory = Buffer.alloc(SMALL_MAX - 4096, 'x')
    {
      await using batch = box.begin()
      // The memory of the batch is taken, so that all others are spooled.
      const inMemory = BATCH_MEMORY_MAX / SMALL_MAX
      const saved: BoxSaved[] = []
      for (let at = 0; at < inMemory; at++) saved.push(await batch.save(memory, metadata))
      for (let at = 0; at < large; at++) saved.push(await batch.save(pieces(bytes), metadata))
      expect(open.most).toBeLessThanOrEqual(SPOOLS_OPEN_MAX + 4)
      expect(await files()).toBeGreaterThan(large - 50)
      if (how === 'failing') {
        failing = true
        await expect(batch.flush()).rejects.toMatchObject({ code: 'BOX_WRITE_FAILED' })
        failing = false
      }
      if (how === 'committed') {
        await batch.flush()
        const refs = await process.keep(...saved)
        for (const ref of refs.slice(inMemory)) {
          await using kept = await box.open(ref)
          const into = Buffer.alloc(bytes.length)
          await kept.read(into, 0)
          expect(into.equals(bytes)).toBe(true)
        }
        expect((await Array.fromAsync(box.check())).flat().filter(({ severity }) => severity === 'damage')).toEqual([])
      }
    }
    if (how === 'given up') expect(await files()).toBe(0)
  }
  expect(open.now).toBe(0)
})
