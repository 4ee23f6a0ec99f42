/** Files written only if nobody else was first. */
import assert from 'node:assert/strict'
import type { FsWriteOptions } from '../contract.ts'
import type { FsError } from '../error.ts'
import { bytes, entries, fails, get, put, type Test } from './harness.ts'

export function conditional(test: Test): void {
  test('ifAbsent writes a new name and refuses one that exists', async (fs) => {
    await fs.writeFile('d/file', bytes('first'), { ifAbsent: true })
    await fails(fs.writeFile('d/file', bytes('second'), { ifAbsent: true }), 'FS_EXISTS')
    assert.equal(await get(fs, 'd/file'), 'first')
    await fs.remove('d/file')
    await fs.writeFile('d/file', bytes('third'), { ifAbsent: true })
    assert.equal(await get(fs, 'd/file'), 'third')
    assert.equal((await entries(fs, 'd')).length, 1)
  })
  test('ifAbsent by many at once succeeds for one', async (fs) => {
    if (!fs.supports.conditional) return
    const tries = Array.from({ length: 10 }, (_, i) => fs.writeFile('d/file', bytes(`${i}`), { ifAbsent: true }))
    const results = await Promise.allSettled(tries)
    const winners = results.flatMap(({ status }, i) => (status === 'fulfilled' ? [`${i}`] : []))
    assert.equal(winners.length, 1)
    assert.equal(await get(fs, 'd/file'), winners[0])
    for (const result of results)
      if (result.status === 'rejected') assert.equal((result.reason as FsError).code, 'FS_EXISTS')
  })
  test('ifMatch replaces exactly what was seen', async (fs) => {
    if (!fs.supports.conditional) {
      await put(fs, 'file', 'first')
      await fails(fs.writeFile('file', bytes('second'), { ifMatch: 'x' }), 'FS_UNSUPPORTED')
      assert.equal(await get(fs, 'file'), 'first')
      return
    }
    const first = await fs.writeFile('file', bytes('first'))
    const second = await fs.writeFile('file', bytes('2nd'), { ifMatch: first.tag })
    await fails(fs.writeFile('file', bytes('third'), { ifMatch: first.tag }), 'FS_CONFLICT')
    assert.equal(await get(fs, 'file'), '2nd')
    await fs.writeFile('file', bytes('3rd'), { ifMatch: second.tag })
    assert.equal(await get(fs, 'file'), '3rd')
    await fails(fs.writeFile('absent', bytes('x'), { ifMatch: first.tag }), 'FS_CONFLICT')
    assert.equal(await fs.stat('absent'), undefined)
  })
  test('ifMatch that is there and no tag is a TypeError, not a write without a condition', async (fs) => {
    await put(fs, 'file', 'first')
    for (const ifMatch of [undefined, null, 1])
      for (const path of ['file', 'absent'])
        await assert.rejects(
          async () => fs.writeFile(path, bytes('x'), { ifMatch } as unknown as FsWriteOptions),
          TypeError,
        )
    assert.equal(await get(fs, 'file'), 'first')
    assert.equal(await fs.stat('absent'), undefined)
  })
  test('ifMatch by many at once loses no update', async (fs) => {
    if (!fs.supports.conditional) return
    await put(fs, 'counter', '0')
    const rounds = 6
    const add = async (): Promise<void> => {
      for (let done = 0, tries = 0; done < rounds; tries++) {
        assert.ok(tries < 1000, 'nobody ever succeeds')
        const { tag } = (await fs.stat('counter'))!
        const value = Number(await get(fs, 'counter'))
        try {
          await fs.writeFile('counter', bytes(`${value + 1}`), { ifMatch: tag })
          done++
        } catch (error) {
          assert.equal((error as FsError).code, 'FS_CONFLICT')
        }
      }
    }
    await Promise.all([add(), add(), add()])
    assert.equal(await get(fs, 'counter'), `${3 * rounds}`)
  })
}
