/** A log that was closed has an end that damage cannot take back: whatever it then lacks is found, one slot or not. */
import { faultyFs, failNth } from '@mailstead/fs/faults'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { afterAll, describe, expect, test } from 'vitest'
import { imageFs, imageOf, OBJECTS } from '../../test/image-fs.ts'
import { Random } from '../../test/random.ts'
import { everything, type Said, writeStore } from '../../test/sealed-store.ts'
import { CONTROL_LENGTH, CONTROL_SLOT, isSealedTwice } from './control.ts'
import { type Index, openIndex } from '../index.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const CUTS = depth === undefined ? 12 : 200
const counted = new Map<string, number>()
afterAll(() => console.log(`sealed logs cut short: ${JSON.stringify(Object.fromEntries(counted))}`))

async function abandon(index: Index): Promise<void> {
  await (index as Index & { abandon(): Promise<void> }).abandon()
}

async function deliver(index: Index): Promise<void> {
  await using tx = index.begin()
  tx.append('box', { columns: { size: 5 } })
  await tx.commit()
}

describe.each(['file', 'objects'] as const)('a closed log in %s', (medium) => {
  const supports = medium === 'objects' ? OBJECTS : {}
  test('that lacks something of its end is damaged, whichever slot of the control file is', async () => {
    const fs = memoryFs(supports)
    await writeStore(fs, { seed: 3, messages: 36, segmentBytes: 2_500 })
    const image = await imageOf(fs)
    const open = (files: ReadonlyMap<string, Uint8Array>): Promise<Index> =>
      openIndex(imageFs(files, supports), 'index', { readOnly: true })
    let truth: ReadonlyMap<string, Said>
    {
      await using index = await open(image)
      truth = await everything(index)
      expect((await Array.fromAsync(index.check())).flat()).toEqual([])
    }
    const segments = [...image.keys()].filter((path) => path.endsWith('.log')).toSorted()
    const last = segments.at(-1)!
    const random = new Random(4)
    for (const slot of [-1, 0, CONTROL_SLOT]) {
      const control = new Uint8Array(image.get('index/control')!)
      if (slot >= 0) control[slot + random.below(CONTROL_SLOT)]! ^= 1 << random.below(8)
      for (let n = 0; n < CUTS; n++) {
        const files = new Map(image).set('index/control', control)
        const length = random.below(image.get(last)!.length)
        if (n === 0) files.delete(last)
        else files.set(last, image.get(last)!.slice(0, length))
        const what = `${last} cut to ${n === 0 ? 'nothing' : length}, slot ${slot}`
        const found = `${medium}, ${slot < 0 ? 'both slots' : 'one slot'}`
        counted.set(found, (counted.get(found) ?? 0) + 1)
        try {
          await using index = await open(files)
          for (const [id, said] of await everything(index))
            if (!said.rows.startsWith('INDEX_CORRUPT')) expect(said.rows, `${what}: ${id}`).toBe(truth.get(id)!.rows)
          const findings = (await Array.fromAsync(index.check())).flat()
          expect(
            findings.filter(({ severity, file }) => severity === 'damage' && file.includes('/log')),
            what,
          ).not.toEqual([])
        } catch (error) {
          expect(error, what).toMatchObject({ code: 'INDEX_CORRUPT' })
        }
        const written = memoryFs(supports)
        for (const [path, bytes] of files) await written.writeFile(path, bytes)
        await expect(openIndex(written, 'index').then(deliver), what).rejects.toMatchObject({ code: 'INDEX_CORRUPT' })
      }
    }
  })
})

describe('the control file', () => {
  const path = 'index/control'
  const sealed = async (fs: Fs): Promise<boolean> => isSealedTwice(await fs.readFile(path))

  test('says in both slots that the log is closed, and in one that it is open', async () => {
    const fs = memoryFs()
    await writeStore(fs, { seed: 1, messages: 12, segmentBytes: 2_500 })
    expect(await sealed(fs)).toBe(true)
    const before = await fs.readFile(path)
    {
      await using index = await openIndex(fs, 'index')
      expect(Buffer.compare(await fs.readFile(path), before)).toBe(0)
      await deliver(index)
      expect(await sealed(fs)).toBe(false)
      // A checkpoint of a log that is open tells it nothing.
      await index.checkpoint()
    }
    expect(await sealed(fs)).toBe(true)
    {
      await using index = await openIndex(fs, 'index')
      await index.checkpoint()
    }
    expect(await sealed(fs)).toBe(true)
  })

  test.each(['write', 'sync'] as const)(
    'whose second slot was not written (%s) gets it from the next who closes',
    async (operation) => {
      const disk = memoryFs()
      await writeStore(disk, { seed: 1, messages: 12, segmentBytes: 2_500 })
      const index = await openIndex(
        faultyFs(disk, failNth({ operation, path: /control$/, nth: 3, fault: 'EIO' })),
        'index',
      )
      await deliver(index)
      await index[Symbol.asyncDispose]()
      if (operation === 'write') expect(await sealed(disk)).toBe(false)
      // Who only reads leaves it; who could write puts it right once.
      await abandon(await openIndex(disk, 'index'))
      await (await openIndex(disk, 'index'))[Symbol.asyncDispose]()
      expect(await sealed(disk)).toBe(true)
      const once = await disk.readFile(path)
      await (await openIndex(disk, 'index'))[Symbol.asyncDispose]()
      expect(Buffer.compare(await disk.readFile(path), once)).toBe(0)
      expect(once.length).toBe(CONTROL_LENGTH)
    },
  )

  test('of objects says how far the log had come, whoever closes first', async () => {
    const fs = memoryFs(OBJECTS)
    const first = await openIndex(fs, 'index', { create: true })
    await using tx = first.begin()
    tx.createTable({ id: 'box', uidValidity: 1, columns: [{ name: 'size', bytes: 4 }] })
    await tx.commit()
    const second = await openIndex(fs, 'index')
    await deliver(first)
    await deliver(second)
    await deliver(second)
    await second[Symbol.asyncDispose]()
    const end = await fs.readFile(path)
    expect(isSealedTwice(end)).toBe(true)
    await first[Symbol.asyncDispose]()
    // The first had not read as far, and has nothing to say.
    const now = await fs.readFile(path)
    await using again = await openIndex(fs, 'index')
    expect(Buffer.compare(now, end)).toBe(0)
    await deliver(again)
    expect((await Array.fromAsync(again.check())).flat()).toEqual([])
  })
})
