import { memoryFs } from '@mailstead/fs/memory'
import { describe, expect, test } from 'vitest'
import { OBJECTS } from '../../test/image-fs.ts'
import { type Index, openIndex, sealOf } from '../index.ts'

const seal = (fs: ReturnType<typeof memoryFs>): Promise<string | undefined> => sealOf(fs, 'index')

async function write(index: Index, value: string): Promise<void> {
  await using tx = index.begin()
  if (index.info('box') === undefined) tx.createTable({ id: 'box', columns: [], uidValidity: 1 })
  tx.setValue('box', 'key', Buffer.from(value))
  await tx.commit()
}

describe('the end of a closed index', () => {
  test('is another when anything was written, and the same when nothing was', async () => {
    const fs = memoryFs()
    expect(await seal(fs)).toBeUndefined()
    const seen = new Set<string>()
    for (let n = 0; n < 5; n++) {
      {
        await using index = await openIndex(fs, 'index', { create: true })
        await write(index, `${n % 2}`)
        // Nobody knows what may still come.
        expect(await seal(fs)).toBeUndefined()
        if (n === 3) await index.checkpoint()
      }
      const closed = await seal(fs)
      expect(closed).toEqual(expect.any(String))
      seen.add(closed!)
      for (const readOnly of [true, false]) {
        await using index = await openIndex(fs, 'index', { readOnly })
        expect(index.info('box')).toBeDefined()
      }
      expect(await seal(fs)).toBe(closed)
    }
    expect(seen.size).toBe(5)
  })
  test('is not told while another has it open, nor after somebody died', async () => {
    const fs = memoryFs()
    await using other = await openIndex(fs, 'index', { create: true })
    {
      await using index = await openIndex(fs, 'index')
      await write(index, 'a')
    }
    expect(await seal(fs)).toBeUndefined()
    await other.refresh()
    await write(other, 'b')
    await (other as Index & { abandon(): Promise<void> }).abandon()
    expect(await seal(fs)).toBeUndefined()
  })
  test('is not told of an index among objects, nor by a control file that is damaged', async () => {
    const objects = memoryFs(OBJECTS)
    const fs = memoryFs()
    for (const each of [objects, fs]) {
      await using index = await openIndex(each, 'index', { create: true })
      await write(index, 'a')
    }
    expect(await seal(objects)).toBeUndefined()
    const control = Buffer.from(await fs.readFile('index/control'))
    control[60]! ^= 1
    await fs.writeFile('index/control', control)
    expect(await seal(fs)).toBeUndefined()
    await fs.writeFile('index/control', control.subarray(0, 100))
    expect(await seal(fs)).toBeUndefined()
  })
})
