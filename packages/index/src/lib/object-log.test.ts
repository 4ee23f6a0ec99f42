/** What is told of the log in numbered objects that no other log does. */
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { describe, expect, test } from 'vitest'
import { OBJECTS } from '../../test/image-fs.ts'
import { intercepted } from '../../test/intercept.ts'
import { type Index, openIndex } from '../index.ts'
import { segmentName } from './segment.ts'

const path = 'index'
const STEP = process.env['MAILSTEAD_DEPTH'] === undefined ? 3 : 1

async function create(fs: Fs): Promise<Index> {
  const index = await openIndex(fs, path, { create: true })
  await using tx = index.begin()
  tx.createTable({ id: 'box', uidValidity: 1, columns: [] })
  await tx.commit()
  return index
}

async function deliver(index: Index): Promise<number> {
  await using tx = index.begin()
  const row = tx.append('box', {})
  await tx.commit()
  return row.uid
}

async function damagesOf(index: Index): Promise<string[]> {
  const all = (await Array.fromAsync(index.check())).flat()
  return all.filter(({ severity }) => severity === 'damage').map(({ kind, file }) => `${kind} ${file}`)
}

test('nobody is promised to have objects alone, and what can hold no index is told what it lacks', async () => {
  const fs = memoryFs(OBJECTS)
  const alone = openIndex(fs, path, { create: true, alone: true })
  await expect(alone).rejects.toMatchObject({
    code: 'FS_UNSUPPORTED',
    message: expect.stringContaining('has no locks'),
  })
  // It was refused before anything was made.
  await expect(openIndex(fs, path)).rejects.toMatchObject({ code: 'INDEX_NOT_FOUND' })
  await expect(openIndex(memoryFs(), path, { create: true, alone: true, readOnly: true })).rejects.toThrow(TypeError)
  const poor = openIndex(memoryFs({ ...OBJECTS, conditional: false }), path, { create: true })
  await expect(poor).rejects.toMatchObject({
    code: 'FS_UNSUPPORTED',
    message: expect.stringMatching(/append, overwrite.* lock, .*conditional$/),
  })
})

describe('an object that is created late', () => {
  /** An index whose next object is created only after others did `meanwhile`. */
  async function late(fs: Fs, meanwhile: () => Promise<void>): Promise<Index> {
    let waiting = true
    const slow = intercepted(fs, {
      writeFile: async (disk, name, data, options) => {
        if (waiting && name.endsWith('.log')) {
          waiting = false
          await meanwhile()
        }
        return disk.writeFile(name, data, options)
      },
    })
    return openIndex(slow, path)
  }

  test('in place of one that others made, and removed since, is not acknowledged', async () => {
    const fs = memoryFs(OBJECTS)
    await using other = await create(fs)
    const index = await late(fs, async () => {
      for (let n = 0; n < 3; n++) {
        await deliver(other)
        await other.checkpoint()
      }
      expect(await fs.stat(`${path}/log/${segmentName(3)}`)).toBeUndefined()
    })
    await expect(deliver(index)).rejects.toMatchObject({ code: 'INDEX_UNCERTAIN' })
    expect(other.info('box')!.count).toBe(3)
  })

  test('is acknowledged where the number is still to come, though the one before is gone', async () => {
    const fs = memoryFs(OBJECTS)
    await using other = await create(fs)
    await deliver(other)
    const index = await late(fs, async () => {
      for (let n = 0; n < 3; n++) await other.checkpoint()
    })
    expect(await deliver(index)).toBe(2)
    await other.refresh()
    expect(other.info('box')!.count).toBe(2)
  })

  test('in place of one that is there is decided again', async () => {
    const fs = memoryFs(OBJECTS)
    await using other = await create(fs)
    const index = await late(fs, async () => void (await deliver(other)))
    expect(await deliver(index)).toBe(2)
    expect(await damagesOf(index)).toEqual([])
  })
})

describe('an object that is damaged', () => {
  test('is damage at the end of the log as anywhere: its tables are refused, and nobody writes', async () => {
    const fs = memoryFs(OBJECTS)
    {
      const index = await create(fs)
      for (let n = 0; n < 3; n++) await deliver(index)
      // Killed: nothing says where the log ends.
      await (index as Index & { abandon(): Promise<void> }).abandon()
    }
    const last = `${path}/log/${segmentName(5)}`
    const whole = await fs.readFile(last)
    for (let at = 256; at < whole.length; at += STEP) {
      const bytes = Uint8Array.from(whole)
      bytes[at]! ^= 16
      await fs.writeFile(last, bytes)
      await using index = await openIndex(fs, path, { readOnly: true })
      expect(await damagesOf(index)).toContainEqual(expect.stringContaining(last))
      await using table = await index.open('box').catch((error: unknown) => {
        expect(error).toMatchObject({ code: 'INDEX_CORRUPT' })
        return undefined
      })
      // Its header or trailer may be damaged alone.
      if (table !== undefined) expect(table.view.count, `byte ${at}`).toBe(3)
    }
    await fs.writeFile(last, whole.subarray(0, 300))
    const index = await openIndex(fs, path)
    await expect(deliver(index)).rejects.toMatchObject({ code: 'INDEX_CORRUPT' })
  })
})

test('a checkpoint that is slow in the end removes no snapshot that others made meanwhile', async () => {
  const fs = memoryFs(OBJECTS)
  await using other = await create(fs)
  await deliver(other)
  await other.checkpoint()
  let waiting = false
  const slow: Fs = {
    ...fs,
    // What is looked through for files of dropped tables, after the list was written.
    async *list(directory) {
      if (waiting && directory === `${path}/tables`) {
        waiting = false
        await using tx = other.begin()
        tx.createTable({ id: 'new', uidValidity: 2, columns: [] })
        tx.append('new', {})
        await tx.commit()
        for (let n = 0; n < 3; n++) {
          await deliver(other)
          await other.checkpoint()
        }
      }
      yield* fs.list(directory)
    },
  }
  await using index = await openIndex(slow, path)
  await deliver(index)
  waiting = true
  await index.checkpoint()
  expect(waiting).toBe(false)
  await using again = await openIndex(fs, path)
  expect((await again.open('new'))?.view.count).toBe(1)
  expect(await damagesOf(again)).toEqual([])
})

test('a checkpoint that is slow in between puts no older snapshot in the place of a newer one', async () => {
  const fs = memoryFs(OBJECTS)
  await using other = await create(fs)
  await deliver(other)
  await other.checkpoint()
  const snapshot = `${path}/tables/box.snap`
  let step = 0
  const slow: Fs = {
    ...fs,
    stat: async (name) => {
      if (step === 1 && name === snapshot) {
        step = 2
        await deliver(other)
        await other.checkpoint()
      }
      return fs.stat(name)
    },
    writeFile: async (name, data, options) => {
      // Nobody looks at the snapshot again before the log is cut behind it.
      if (step === 2 && name === snapshot)
        for (const id of ['one', 'two']) {
          await using tx = other.begin()
          tx.createTable({ id, uidValidity: 2, columns: [] })
          await tx.commit()
          await other.checkpoint()
        }
      return fs.writeFile(name, data, options)
    },
  }
  await using index = await openIndex(slow, path)
  await deliver(index)
  step = 1
  await index.checkpoint()
  expect(step).toBe(2)
  await using again = await openIndex(fs, path)
  expect((await again.open('box'))!.view.count).toBe(3)
  expect(await damagesOf(again)).toEqual([])
})

test('an index is opened while others make its first lists', async () => {
  const fs = memoryFs(OBJECTS)
  await using other = await create(fs)
  await deliver(other)
  let waiting = true
  const slow: Fs = {
    ...fs,
    async *list(directory) {
      // There was no list: the snapshots are looked for.
      const before = directory === `${path}/tables` ? await Array.fromAsync(fs.list(directory)) : undefined
      if (before !== undefined && waiting) {
        waiting = false
        for (let n = 0; n < 3; n++) {
          await deliver(other)
          await other.checkpoint()
        }
      }
      yield* before ?? fs.list(directory)
    },
  }
  await using index = await openIndex(slow, path)
  expect(waiting).toBe(false)
  expect((await index.open('box'))!.view.count).toBe(4)
})
