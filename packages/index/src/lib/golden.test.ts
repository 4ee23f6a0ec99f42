/** Stores that earlier builds wrote, one for each version of the formats: this build reads them, and goes on with them. */
import { readdirSync, readFileSync } from 'node:fs'
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import { dumpOf, expectationOf, goldenImage } from '../../test/golden/read.ts'
import { type Image, imageFs, OBJECTS } from '../../test/image-fs.ts'
import { intercepted } from '../../test/intercept.ts'
import { everything } from '../../test/sealed-store.ts'
import { crc32 } from '@mailstead/bytes'
import { CONTROL_SLOT } from './control.ts'
import { FORMAT_VERSION } from './format-version.ts'
import { type Index, type IndexFinding, openIndex, repairIndex } from '../index.ts'

const folder = new URL('../../test/golden/', import.meta.url)
const versions = readdirSync(folder).filter((name) => /^v[0-9]+(-objects)?$/.test(name))

async function findingsOf(index: Index): Promise<IndexFinding[]> {
  return (await Array.fromAsync(index.check())).flat()
}

/** Rows of every table, each as a line, without what changes with each modseq. */
async function rowsOf(index: Index): Promise<Map<string, string[]>> {
  const said = await everything(index)
  return new Map([...said].map(([id, { rows, info }]) => [id, rows.split('\n').slice(2, 2 + countOf(info))]))
}
const countOf = (info: string): number => (JSON.parse(info) as { count: number }).count

test('there is a store of every version up to that which is written', () => {
  for (let version = 0; version <= FORMAT_VERSION; version++) expect(versions).toContain(`v${version}`)
  expect(versions).toContain(`v${FORMAT_VERSION}-objects`)
})

for (const version of versions) {
  describe(`the store of ${version}`, () => {
    const at = new URL(`${version}/`, folder)
    const image: Image = goldenImage(at)
    const supports = version.endsWith('-objects') ? OBJECTS : {}
    const kept = (name: string): string => readFileSync(new URL(name, at), 'utf8')

    test('is read as it was written, and nothing is wrong with it', async () => {
      expect(image.size).toBeGreaterThan(10)
      expect(await expectationOf(image, supports)).toBe(kept('expected.txt'))
      await using index = await openIndex(imageFs(image, supports), 'index', { readOnly: true })
      expect(await findingsOf(index)).toEqual([])
    })

    test('is dumped byte for byte as ever', () => {
      expect(dumpOf(image)).toBe(kept('dump.txt'))
    })

    test('is gone on with: changed, checkpointed, closed and opened again', async () => {
      const fs = memoryFs(supports)
      for (const [path, bytes] of image) await fs.writeFile(path, bytes)
      let before: Map<string, string[]>
      let gone: string
      {
        await using index = await openIndex(fs, 'index')
        before = await rowsOf(index)
        gone = before.get('inbox')![0]!.split(' ')[0]!
        await using inbox = (await index.open('inbox'))!
        const { uidNext, highestModSeq } = inbox.view
        await using tx = index.begin()
        const ref = tx.append('box', { columns: { size: 77 } })
        const row = tx.append('inbox', {
          keywords: ['later', 'new'],
          columns: { ref, size: 77, guid: Buffer.alloc(16, 7) },
        })
        tx.expunge('inbox', UidSet.of(Number(gone)))
        tx.setValue('inbox', 'name', Buffer.from('renamed'))
        tx.createTable({ id: 'new', uidValidity: 5, columns: [] })
        await tx.commit()
        expect(row.uid).toBe(uidNext)
        expect(inbox.view.highestModSeq).toBeGreaterThan(highestModSeq)
        inbox.cacheWrite([{ uid: row.uid, guid: Buffer.alloc(16, 7), fields: [['envelope', Buffer.from('new')]] }])
        await index.checkpoint()
        await using more = index.begin()
        more.append('new', { flags: 8 })
        await more.commit()
      }
      await using index = await openIndex(fs, 'index')
      expect(await findingsOf(index)).toEqual([])
      const now = await rowsOf(index)
      expect([...now.keys()].toSorted()).toEqual([...before.keys(), 'new'].toSorted())
      for (const [id, rows] of before) {
        const added = id === 'inbox' || id === 'box' ? 1 : 0
        const left = id === 'inbox' ? rows.slice(1) : rows
        const found = now.get(id)!
        expect(found.length, id).toBe(left.length + added)
        // Uses of rows of `box` are counted anew: the expunged row had one.
        if (id !== 'box') expect(found.slice(0, left.length), id).toEqual(left)
      }
      expect(Buffer.from((await index.open('inbox'))!.view.values.get('name')!).toString()).toBe('renamed')
      await index.checkpoint()
    })
  })
}

test.each([0, CONTROL_SLOT])('an index of a later version (slot at %i) is neither opened nor repaired', async (at) => {
  const fs = memoryFs()
  for (const [path, bytes] of goldenImage(new URL(`v${FORMAT_VERSION}/`, folder))) await fs.writeFile(path, bytes)
  const control = Buffer.from(await fs.readFile('index/control'))
  control.writeUInt32LE(FORMAT_VERSION + 1, at + 8)
  const sum = at + CONTROL_SLOT - 4
  control.writeUInt32LE(crc32(control.subarray(at, sum)), sum)
  await fs.writeFile('index/control', control)
  // With damage beside it, so that there would be something to be repaired.
  await fs.writeFile('index/tables/directory', Buffer.from('no list'))
  await expect(openIndex(fs, 'index')).rejects.toMatchObject({ code: 'FS_UNSUPPORTED' })
  await expect(openIndex(fs, 'index', { readOnly: true })).rejects.toMatchObject({ code: 'FS_UNSUPPORTED' })
  await expect(Array.fromAsync(repairIndex(fs, 'index'))).rejects.toMatchObject({ code: 'FS_UNSUPPORTED' })
  expect(Buffer.from(await fs.readFile('index/tables/directory')).toString()).toBe('no list')
})

test.each(['commit', 'checkpoint'] as const)(
  'earlier builds are told of this one before a %s, in an index that was not closed',
  async (first) => {
    const fs = memoryFs()
    for (const [path, bytes] of goldenImage(new URL('v1/', folder))) await fs.writeFile(path, bytes)
    const control = Buffer.from(await fs.readFile('index/control'))
    for (const at of [0, CONTROL_SLOT]) {
      expect(control.readUInt32LE(at + 8)).toBe(1)
      // What says that it was sealed, and where.
      control.fill(0, at + 12, at + 16).fill(0, at + 40, at + 72)
      const sum = at + CONTROL_SLOT - 4
      control.writeUInt32LE(crc32(control.subarray(at, sum)), sum)
    }
    await fs.writeFile('index/control', control)
    const versions: number[][] = []
    const told = (): number[] => [0, CONTROL_SLOT].map((at) => control.readUInt32LE(at + 8)).toSorted((a, b) => a - b)
    const watched = intercepted(fs, {
      append: (path, parts) => {
        if (path.startsWith('index/log/')) versions.push(told())
        return parts
      },
      writeFile: async (disk, path, data, options) => {
        if (path === 'index/tables/directory') versions.push(told())
        return disk.writeFile(path, data, options)
      },
      write: async (file, data, position) => {
        if (file.path === 'index/control') control.set(data, position)
        return file.write(data, position)
      },
    })
    await using index = await openIndex(watched, 'index')
    if (first === 'commit') {
      await using tx = index.begin()
      tx.append('inbox', {})
      await tx.commit()
    } else await index.checkpoint()
    expect(versions.length).toBeGreaterThan(0)
    for (const said of versions) expect(said).toEqual([1, FORMAT_VERSION])
  },
)
