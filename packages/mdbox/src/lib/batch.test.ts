import type { BoxSaved } from '@mailstead/box'
import { memoryTable } from '@mailstead/box/testing'
import { memoryFs } from '@mailstead/fs/memory'
import { faultyFs } from '@mailstead/fs/faults'
import { expect, test } from 'vitest'
import { mdbox } from './mdbox.ts'
import { BATCH_MEMORY_MAX } from './options.ts'
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
