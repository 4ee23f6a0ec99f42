import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'
import { dumpFile } from '../format.ts'
import { openIndex } from './open-index.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 100_000 : depth === 'ci' ? 3_000 : 300

const files = new Map<string, Uint8Array>()

async function collect(fs: Fs, directory: string): Promise<void> {
  for await (const page of fs.list(directory))
    for (const { name, kind } of page) {
      const path = directory === '' ? name : `${directory}/${name}`
      if (kind === 'directory') await collect(fs, path)
      else if (!['lock', 'open', 'checkpoint'].includes(name)) files.set(path, await fs.readFile(path))
    }
}

beforeAll(async () => {
  const fs = memoryFs()
  let seed = 1
  const options = {
    create: true,
    now: () => 1_700_000_000_000,
    random: (bytes: Uint8Array) => void bytes.fill(seed++),
  }
  {
    await using index = await openIndex(fs, '', options)
    await using tx = index.begin()
    tx.createTable({
      id: 'box',
      uidValidity: 1,
      columns: [
        { name: 'uses', bytes: 4 },
        { name: 'size', bytes: 6, summed: true },
      ],
    })
    tx.createTable({
      id: 'inbox',
      uidValidity: 2,
      columns: [
        { name: 'ref', bytes: 4, counts: { table: 'box', column: 'uses' } },
        { name: 'guid', bytes: 16 },
      ],
    })
    const ref = tx.append('box', { columns: { size: 1234 } })
    for (let n = 1; n <= 3; n++)
      tx.append('inbox', {
        flags: 8,
        keywords: n === 2 ? ['$Label1'] : [],
        columns: { ref, guid: new Uint8Array(16).fill(n) },
      })
    await tx.commit()
    await index.checkpoint()
    await using more = index.begin()
    more.changeFlags('inbox', UidSet.of(1, 3), { add: 1, remove: 8 })
    more.expunge('inbox', UidSet.of(2))
    more.setValue('inbox', 'name', Buffer.from('INBOX'))
    await more.commit()
    await using inbox = (await index.open('inbox'))!
    inbox.cacheWrite([{ uid: 1, guid: new Uint8Array(16).fill(1), fields: [['envelope', Buffer.from('(NIL)')]] }])
  }
  await collect(fs, '')
})

describe('dump', () => {
  test('shows every file of an index', () => {
    const text = [...files]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([path, bytes]) => `== ${path}\n${[...dumpFile(bytes, path)!].join('\n')}`)
      .join('\n')
    expect(text).toMatchSnapshot()
  })

  test('never fails on damage, and says something of every file', () => {
    const paths = [...files.keys()]
    fc.assert(
      fc.property(
        fc.nat(),
        fc.array(fc.tuple(fc.nat(), fc.uint8Array({ minLength: 1, maxLength: 30 })), { minLength: 1, maxLength: 4 }),
        fc.nat(),
        (n, splices, cut) => {
          const path = paths[n % paths.length]!
          const bytes = files.get(path)!.slice()
          if (bytes.length === 0) return
          for (const [at, piece] of splices)
            bytes.set(piece.subarray(0, bytes.length - (at % bytes.length)), at % bytes.length)
          const lines = dumpFile(bytes.subarray(0, bytes.length - (cut % 3 === 0 ? cut % bytes.length : 0)), path)
          for (const line of lines ?? []) expect(typeof line).toBe('string')
        },
      ),
      { numRuns },
    )
  })

  test('what is no file of an index is none', () => {
    expect(dumpFile(new Uint8Array(100), 'notes.txt')).toBeUndefined()
    expect(dumpFile(new Uint8Array(0), 'inbox.cache')).toBeUndefined()
  })
})
