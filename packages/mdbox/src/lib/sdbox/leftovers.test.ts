import { readFileSync } from 'node:fs'
import type { Box, BoxSaved, BoxScanned } from '@mailstead/box'
import { type MemoryTable, memoryTable } from '@mailstead/box/testing'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { readOpen, writeOpen } from './leftovers.ts'
import { COLUMNS } from './row.ts'
import { sdbox } from './sdbox.ts'

const A = 'a'.repeat(32)

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === undefined ? 200 : 5_000
const ids = fc.array(fc.stringMatching(/^[0-9a-f]{16}$/), { maxLength: 20 })

describe('what a process writes down before it writes', () => {
  test('is read, and of a flipped bit nothing', () => {
    fc.assert(
      fc.property(ids, fc.nat(), (list, n) => {
        const bytes = writeOpen(list)
        expect(readOpen(bytes)).toEqual(list)
        bytes[Math.floor(n / 8) % bytes.length]! ^= 1 << (n % 8)
        expect(readOpen(bytes)).toBeUndefined()
      }),
      { numRuns },
    )
  })

  test('is on disk as the documentation has it', () => {
    const document = readFileSync(new URL('../../../../../docs/formats/sdbox.md', import.meta.url), 'utf8')
    const [, block] = [...document.matchAll(/```hex\n([\s\S]*?)```/g)].map(([, text]) => text!)
    const hex = block!.replaceAll(/^[0-9a-f]{8} {2}(.{48}).*$/gm, '$1').replaceAll(/\s/g, '')
    expect(readOpen(Buffer.from(hex, 'hex'))).toEqual(['0300000000000001'])
    expect(writeOpen(['0300000000000001']).toString('hex')).toBe(hex)
  })
})

interface World {
  readonly fs: Fs
  readonly table: MemoryTable
}

function world(): World {
  return { fs: memoryFs(), table: memoryTable(COLUMNS) }
}

/**
 * A process keeps one message, writes another that gets no row, and dies: the kernel takes its locks, and it does
 * nothing more.
 */
async function die({ fs, table }: World): Promise<void> {
  const process = table.process()
  if (process.host.mailboxes!.find(A) === undefined) await process.mail.create(A)
  const locks: AsyncDisposable[] = []
  const its: Fs = {
    ...fs,
    lock: async (path) => {
      const lock = await fs.lock(path)
      locks.push(lock)
      return lock
    },
  }
  const box = await sdbox(its, 'storage').open(process.host)
  await save(box, 'kept', async (saved) => process.mail.keep(box, [saved], [A]))
  const batch = box.begin()
  await batch.save(Buffer.from('left'), { guid: Buffer.alloc(16, 7), receivedMs: 0 })
  await batch.flush()
  for (const lock of locks) await lock[Symbol.asyncDispose]()
}

async function save(box: Box, text: string, keep: (saved: BoxSaved) => Promise<unknown>): Promise<void> {
  await using batch = box.begin()
  const origin = { mailbox: Buffer.from(A, 'hex'), uidValidity: 1000 }
  const saved = await batch.save(Buffer.from(text), { guid: Buffer.from(text.padEnd(16)), receivedMs: 0, origin })
  await batch.flush()
  await keep(saved)
}

async function namesIn(fs: Fs, directory: string): Promise<string[]> {
  return (await Array.fromAsync(fs.list(directory))).flat().map(({ name }) => name)
}

async function scanned(box: Box): Promise<BoxScanned[]> {
  return (await Array.fromAsync(box.scan())).flat()
}

describe('a message that was flushed by a process that died before the frame', () => {
  test('is expunged by its name when another has its slot: no rebuild takes it for mail, and it goes with a purge', async () => {
    const { fs, table } = world()
    await die({ fs, table })
    expect(await namesIn(fs, 'storage/unnamed')).toEqual([expect.stringMatching(/^[0-9a-f]{16}$/)])
    const process = table.process()
    {
      await using box = await sdbox(fs, 'storage').open(process.host)
      await save(box, 'next', async (saved) => process.mail.keep(box, [saved], [A]))
      expect(await namesIn(fs, 'storage/unnamed')).toContainEqual(expect.stringMatching(/^x\.[0-9a-f]{16}$/))
    }
    {
      // Without any index.
      await using box = await sdbox(fs, 'storage').open(memoryTable(COLUMNS).process().host)
      expect((await scanned(box)).filter(({ expunged }) => expunged)).toHaveLength(1)
    }
    await using box = await sdbox(fs, 'storage').open(process.host)
    expect(await box.purge()).toMatchObject({ files: 1 })
    expect(await namesIn(fs, 'storage/unnamed')).toEqual([])
    expect(await scanned(box)).toHaveLength(2)
  })

  test('is found by a purge, whoever has the slot', async () => {
    const { fs, table } = world()
    await die({ fs, table })
    await using other = await sdbox(fs, 'storage').open(table.process().host)
    const lock = await fs.lock('storage/open.0.lock')
    expect(lock.tryAcquire('exclusive')).toBe(true)
    // It has slot 1, and the other cannot be told of yet.
    await other.purge()
    expect(await namesIn(fs, 'storage/unnamed')).toHaveLength(1)
    await lock[Symbol.asyncDispose]()
    expect(await other.purge()).toMatchObject({ files: 1 })
    expect(await namesIn(fs, 'storage/unnamed')).toEqual([])
  })

  test('is left alone while rows may be missing, and where it was there before the process that died', async () => {
    const { fs, table } = world()
    await die({ fs, table })
    const [id] = await namesIn(fs, 'storage/unnamed')
    {
      const process = table.process()
      await using box = await sdbox(fs, 'storage').open({ ...process.host, isIncomplete: true })
      await save(box, 'next', async (saved) => process.mail.keep(box, [saved], [A]))
    }
    expect(await namesIn(fs, 'storage/unnamed')).toEqual([id])
    // As an index that is lost leaves it.
    await fs.remove('storage/open.0.open')
    await die({ fs, table })
    expect(await namesIn(fs, 'storage/unnamed')).toHaveLength(2)
    await using box = await sdbox(fs, 'storage').open(table.process().host)
    await box.purge()
    expect(await namesIn(fs, 'storage/unnamed')).toEqual([id])
  })

  test('is found under that name if it has a row after all', async () => {
    const { fs, table } = world()
    const process = table.process()
    await process.mail.create(A)
    await using box = await sdbox(fs, 'storage').open(process.host)
    await save(box, 'kept', async (saved) => {
      await process.keep(saved)
      const [id] = await namesIn(fs, 'storage/unnamed')
      await fs.rename(`storage/unnamed/${id}`, `storage/unnamed/x.${id}`)
    })
    await box.purge()
    await using message = await box.open(1)
    expect(Buffer.from(message.whole!).toString()).toBe('kept')
  })
})
