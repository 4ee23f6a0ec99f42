/** What the check says of files that are whole, but not this index's; and of the marker of the root. */
import { type Fs, initRoot, ROOT_FILE } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { describe, expect, test } from 'vitest'
import { emptyFs, media, readAll, repair } from '../../test/damaged-store.ts'
import { checkIndex } from './check.ts'
import { openIndex } from '../index.ts'

const path = 'store'
const STEP = process.env['MAILSTEAD_DEPTH'] === undefined ? 7 : 1

/** An index of one table with so many rows, each with this flag, in as many segments as there are of another. */
async function store(fs: Fs, flags: number): Promise<void> {
  for (const rows of [3, 6]) {
    await using index = await openIndex(fs, path, { create: true, segmentBytes: 600 })
    if (index.info('box') === undefined) {
      await using tx = index.begin()
      tx.createTable({ id: 'box', uidValidity: 1, columns: [] })
      await tx.commit()
    }
    for (let n = 0; n < rows; n++) {
      await using tx = index.begin()
      tx.append('box', { flags })
      await tx.commit()
    }
    if (rows === 3) await index.checkpoint()
  }
}

/** What the check names, whether or not the index can be opened. */
async function damageOf(fs: Fs): Promise<string[]> {
  const found = (
    await Array.fromAsync(checkIndex(fs, `${path}/`, () => openIndex(fs, path, { readOnly: true })))
  ).flat()
  return found.filter(({ severity }) => severity === 'damage').map(({ kind, file }) => `${kind} ${file}`)
}

async function filesOf(fs: Fs): Promise<string[]> {
  const found: string[] = []
  for (const directory of ['', '/log', '/tables'])
    for await (const page of fs.list(`${path}${directory}`))
      for (const { name, kind } of page) if (kind === 'file') found.push(`${path}${directory}/${name}`)
  return found.filter((name) => /control$|\.log$|tables/.test(name)).toSorted()
}

describe('the root marker', () => {
  test('is named where any bit of it is turned or it is cut, and needs not be there', async () => {
    const fs = memoryFs()
    await store(fs, 0)
    expect(await damageOf(fs)).toEqual([])
    await initRoot(fs, 'index')
    expect(await damageOf(fs)).toEqual([])
    const marker = await fs.readFile(ROOT_FILE)
    for (let bit = 0; bit < marker.length * 8; bit += STEP) {
      const bytes = Uint8Array.from(marker)
      bytes[bit >> 3]! ^= 1 << (bit & 7)
      await fs.writeFile(ROOT_FILE, bytes)
      expect(await damageOf(fs)).toEqual([`root-marker ${ROOT_FILE}`])
    }
    for (let cut = 0; cut < marker.length; cut += STEP) {
      await fs.writeFile(ROOT_FILE, marker.subarray(0, cut))
      expect(await damageOf(fs)).toEqual([`root-marker ${ROOT_FILE}`])
    }
  })

  test('that is damaged is told by a repair, which leaves it and whatever is whole', async () => {
    const fs = memoryFs()
    await store(fs, 0)
    await fs.writeFile(ROOT_FILE, Buffer.from('no marker'))
    const before = await Promise.all((await filesOf(fs)).map((file) => fs.readFile(file)))
    expect(await repair(fs)).toEqual([
      expect.objectContaining({ kind: 'remains', file: ROOT_FILE, field: 'root-marker' }),
    ])
    expect(await Promise.all((await filesOf(fs)).map((file) => fs.readFile(file)))).toEqual(before)
    expect(Buffer.from(await fs.readFile(ROOT_FILE)).toString()).toBe('no marker')
    await fs.remove(`${path}/tables/directory`)
    const records = await repair(fs)
    expect(records.map(({ kind, file }) => `${kind} ${file}`)).toContain(`remains ${ROOT_FILE}`)
    expect(await damageOf(fs)).toEqual([`root-marker ${ROOT_FILE}`])
  })
})

describe.each(media)('a file of another index in %s', (medium) => {
  test('is named with the index it belongs to; none of its rows is shown; a repair goes by the others', async () => {
    const mine = emptyFs(medium)
    const other = emptyFs(medium)
    await store(mine, 0)
    await store(other, 4)
    const truth = await readAll(mine)
    const files = await filesOf(mine)
    expect(files.filter((file) => file.endsWith('.log')).length).toBeGreaterThan(1)
    for (const file of files) {
      const fs = emptyFs(medium)
      for (const one of files) await fs.writeFile(one, await mine.readFile(one))
      if ((await other.stat(file)) === undefined) continue
      await fs.writeFile(file, await other.readFile(file))
      const found = await damageOf(fs)
      // Where the control file is another's, everything else is not its.
      if (file.endsWith('/control'))
        expect(found.filter((one) => one.startsWith('other-index')).length).toBeGreaterThan(2)
      else expect(found, file).toContain(`other-index ${file}`)
      for (const { rows } of (await readAll(fs)).values())
        for (const row of rows.values()) expect(row.get('base'), file).toMatch(/^0 /)
      const records = await repair(fs)
      expect(
        records.filter(({ kind }) => kind === 'remains'),
        file,
      ).toEqual([])
      expect(await damageOf(fs), file).toEqual([])
      const now = (await readAll(fs)).get('box')!
      for (const row of now.rows.values()) expect(row.get('base'), file).toMatch(/^0 /)
      // Nothing but the log has the last rows.
      if (!file.endsWith('.log')) expect([...now.rows.keys()], file).toEqual([...truth.get('box')!.rows.keys()])
    }
  })
})
