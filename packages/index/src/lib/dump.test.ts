import { readFileSync } from 'node:fs'
import { hexDump, parseHex } from '@mailstead/bytes'
import { memoryFs } from '@mailstead/fs/memory'
import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'
import { exampleFiles } from '../../test/format-example.ts'
import { dumpFile } from '../format.ts'
import { openIndex } from '../index.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 100_000 : depth === 'ci' ? 3_000 : 300

let files: ReadonlyMap<string, Uint8Array>
beforeAll(async () => {
  files = await exampleFiles()
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

  test('files are known by name where the first bytes are damaged', () => {
    for (const [path, bytes] of files) {
      const harmed = bytes.slice()
      if (harmed.length === 0) continue
      harmed[3]! ^= 8
      expect([path, [...(dumpFile(harmed, path) ?? [])].join('\n')]).toEqual([
        path,
        expect.stringMatching(/damaged|no record of this table/),
      ])
    }
    const list = files.get('tables/directory')!
    expect([...dumpFile(list.subarray(0, 3), 'tables/directory.old')!][0]).toBe('list of tables: damaged')
  })

  test('locks are empty files, and what is in one is shown', () => {
    for (const name of ['lock', 'turn.lock', 'open', 'checkpoint']) {
      expect([...dumpFile(new Uint8Array(0), `index/${name}`)!]).toEqual(['lock of an index: an empty file'])
      const lines = [...dumpFile(Buffer.from('oh'), `index/${name}`)!]
      expect(lines).toEqual([
        'lock of an index: 2 bytes in a file that should be empty',
        expect.stringContaining('6f 68'),
      ])
    }
  })

  test('what is no file of an index is none', () => {
    expect(dumpFile(new Uint8Array(100), 'notes.txt')).toBeUndefined()
    expect(dumpFile(new Uint8Array(0), 'inbox.cache')).toBeUndefined()
  })
})

describe('the documents of the formats', () => {
  for (const document of ['log', 'snapshot']) {
    test(`${document}.md shows files byte by byte, and what they say`, () => {
      const text = readFileSync(new URL(`../../../../docs/formats/${document}.md`, import.meta.url), 'utf8')
      const examples = [...text.matchAll(/^`([a-z0-9./]+)`:\n\n```hex\n(.*?)```\n\n```text\n(.*?)\n```$/gms)]
      expect(examples.length).toBeGreaterThan(1)
      for (const [, path, hex, lines] of examples) {
        const bytes = parseHex(hex!)
        expect(hex).toBe(hexDump(bytes))
        // The index still writes these very bytes, and reads from them what the document says.
        expect(Buffer.from(bytes).equals(files.get(path!)!), path).toBe(true)
        expect([...dumpFile(bytes, path!)!].join('\n')).toBe(lines)
      }
    })
  }
})

test('a dump reads a Buffer that is part of larger memory without writing to it', async () => {
  const fs = memoryFs()
  {
    await using index = await openIndex(fs, 'index', { create: true })
    await using tx = index.begin()
    tx.createTable({ id: 't', uidValidity: 1, columns: [] })
    tx.append('t', { flags: 0 })
    await tx.commit()
  }
  const name = 'index/log/0000000000000001.log'
  const file = await fs.readFile(name)
  const memory = new ArrayBuffer(64 + file.length)
  const bytes = Buffer.from(memory, 64, file.length)
  bytes.set(file)
  const before = Buffer.from(new Uint8Array(memory))
  const lines = [...dumpFile(bytes, name)!]
  expect(lines.filter((line) => line.includes('damaged'))).toEqual([])
  expect(Buffer.from(memory).equals(before)).toBe(true)
})
