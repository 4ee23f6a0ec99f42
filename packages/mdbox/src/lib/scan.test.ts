import type { BoxScanned } from '@mailstead/box'
import { crc32 } from '@mailstead/bytes'
import type { Fs, FsFile } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { describe, expect, test } from 'vitest'
import { CHUNK_BYTES, HEADER_BYTES, writeFileLine, writeFrame } from './format.ts'
import { scanBox } from './scan.ts'

const FILES = 8

function recordOf(size: number, number: number): Buffer {
  const body = Buffer.alloc(size, `line ${number}\r\n`)
  const chunks: number[] = []
  for (let at = 0; at < size; at += CHUNK_BYTES) chunks.push(crc32(body.subarray(at, at + CHUNK_BYTES)))
  const frame = writeFrame(size, { size, receivedMs: 1000, guid: Buffer.alloc(16, number), mailbox: 'INBOX', chunks })
  return Buffer.concat([frame.subarray(0, HEADER_BYTES), body, frame.subarray(HEADER_BYTES)])
}

/** Files of very different lengths: whoever reads many at once is done with the last ones first. */
async function filesOf(): Promise<Fs> {
  const fs = memoryFs()
  await fs.makeDirectory('storage')
  for (let id = 1; id <= FILES; id++) {
    const messages = id % 3 === 1 ? 60 : 2
    // Whole lines, so that nothing is counted as a lone LF.
    const records = Array.from({ length: messages }, (_, at) => recordOf(8 * 6000, (id + at) % 10))
    await fs.writeFile(`storage/m.${id}`, Buffer.concat([writeFileLine(0), ...records]))
  }
  return fs
}

/** Counts handles that are open, and fails reads of one file. */
function watched(fs: Fs, failing?: string): { readonly fs: Fs; readonly open: Set<FsFile> } {
  const open = new Set<FsFile>()
  const watchedFile = (path: string, file: FsFile): FsFile =>
    new Proxy(file, {
      get: (target, name) => {
        if (name === 'read' && path === failing) return () => Promise.reject(new Error('the disk'))
        if (name === Symbol.asyncDispose)
          return async () => {
            open.delete(target)
            await target[Symbol.asyncDispose]()
          }
        const value: unknown = Reflect.get(target, name)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
  const proxy = new Proxy(fs, {
    get: (target, name) => {
      if (name === 'open')
        return async (path: string, mode: 'read') => {
          const file = await target.open(path, mode)
          open.add(file)
          return watchedFile(path, file)
        }
      const value: unknown = Reflect.get(target, name)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  return { fs: proxy, open }
}

const scan = (fs: Fs): AsyncGenerator<readonly BoxScanned[]> => scanBox(fs, 'storage', { dead: new Map() })

describe('message files', () => {
  test('are told one after the other, each from its beginning, though several are read at once', async () => {
    const { fs, open } = watched(await filesOf())
    const all: BoxScanned[] = []
    let most = 0
    for await (const page of scan(fs)) {
      all.push(...page)
      most = Math.max(most, open.size)
    }
    expect(most).toBeGreaterThan(1)
    expect(most).toBeLessThan(FILES)
    expect(open.size).toBe(0)
    expect(all.filter(({ damage }) => damage !== undefined)).toEqual([])
    const places = all.map(({ row }) => [row!['file'], row!['offset']] as [number, number])
    expect(places).toEqual([...places].sort(([a, x], [b, y]) => a - b || x - y))
    expect(new Set(places.map(([id]) => id)).size).toBe(FILES)
    expect(all).toHaveLength(3 * 60 + 5 * 2)
  })

  test('that nobody wants any more are closed', async () => {
    const { fs, open } = watched(await filesOf())
    for await (const _ of scan(fs)) break
    expect(open.size).toBe(0)
  })

  test('one that cannot be read fails when its turn comes, and leaves none open', async () => {
    const { fs, open } = watched(await filesOf(), 'storage/m.3')
    const found = new Set<string>()
    await expect(async () => {
      for await (const page of scan(fs)) for (const { file } of page) found.add(file)
    }).rejects.toThrow('the disk')
    expect([...found]).toEqual(['m.1', 'm.2'])
    expect(open.size).toBe(0)
  })
})
