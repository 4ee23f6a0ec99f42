import { describe, expect, test } from 'vitest'
import type { Fs } from '../../index.ts'
import { memoryFs } from '../../memory.ts'
import { type EncryptionKeys, encrypted } from './encrypted.ts'

const HEADER = 128
const HEAD = 48
const TAG = 16
const CHUNK = 64

function keysOf(current: string, all: Record<string, number>): EncryptionKeys {
  return { current, get: (id) => (all[id] === undefined ? undefined : new Uint8Array(32).fill(all[id])) }
}
const keys = keysOf('one', { one: 1 })

/** Where the records of a stored file begin. */
function recordsOf(raw: Buffer): number[] {
  const found: number[] = []
  for (let at = HEADER; at < raw.length; at += HEAD + raw.readUInt32LE(at + 8)) {
    expect(raw.toString('latin1', at, at + 4)).toBe('MsR0')
    found.push(at)
  }
  return found
}

async function rawOf(below: Fs, path: string): Promise<Buffer> {
  return Buffer.from(await below.readFile(path))
}

/** Reads all of it, and each byte by itself: what is served is right. */
async function served(fs: Fs, path: string, content: Buffer): Promise<'wrong' | 'refused' | 'right'> {
  let refused = false
  for (let at = 0; at < content.length; at += 16)
    try {
      const part = await fs.readFile(path, { start: at, end: at + 16 })
      if (!content.subarray(at, at + 16).equals(part)) return 'wrong'
    } catch (error) {
      expect(error).toMatchObject({ code: 'FS_CORRUPT', path })
      refused = true
    }
  try {
    return content.equals(await fs.readFile(path)) && !refused ? 'right' : 'wrong'
  } catch (error) {
    expect(error).toMatchObject({ code: 'FS_CORRUPT', path })
    return 'refused'
  }
}

describe('encrypted', () => {
  test('nothing of the content is stored in the clear', async () => {
    const below = memoryFs()
    const fs = encrypted(below, { keys })
    const secret = Buffer.from('a secret that is nobody else’s business')
    await fs.writeFile('file', Buffer.concat([secret, secret]))
    await using file = await fs.open('log', 'append')
    await file.append([secret])
    for (const path of ['file', 'log'])
      for (let at = 0; at + 8 <= secret.length; at++)
        expect((await rawOf(below, path)).includes(secret.subarray(at, at + 8))).toBe(false)
  })

  test('no nonce comes twice, and equal contents are stored differently', async () => {
    const below = memoryFs()
    const fs = encrypted(below, { keys, chunkBytes: CHUNK })
    const nonces = new Set<string>()
    const ids = new Set<string>()
    let count = 0
    for (let i = 0; i < 200; i++) {
      await fs.writeFile('written', Buffer.alloc(i * 10))
      await using file = await fs.open(`grown${i % 20}`, 'append')
      await file.append([Buffer.alloc(100)])
      await file.sync()
      const raw = await rawOf(below, 'written')
      ids.add(raw.toString('hex', 12, 44))
      for (const at of recordsOf(raw)) {
        nonces.add(raw.toString('hex', at + 32, at + 44))
        count++
      }
    }
    for (let i = 0; i < 20; i++) {
      const raw = await rawOf(below, `grown${i}`)
      for (const at of recordsOf(raw)) {
        nonces.add(raw.toString('hex', at + 32, at + 44))
        count++
      }
    }
    console.log(`${count} records, ${nonces.size} nonces, ${ids.size} ids of 200 files`)
    expect(nonces.size).toBe(count)
    expect(ids.size).toBe(200)
  })

  test('chunks that change places, are taken from another file, or under another header, are refused', async () => {
    const below = memoryFs()
    const fs = encrypted(below, { keys, chunkBytes: CHUNK })
    const contents = ['a', 'b'].map((letter) => Buffer.from(letter.repeat(50) + letter.toUpperCase().repeat(250)))
    await fs.writeFile('a', contents[0]!)
    await fs.writeFile('b', contents[1]!)
    const a = await rawOf(below, 'a')
    const b = await rawOf(below, 'b')
    const records = recordsOf(a)
    const size = HEAD + CHUNK + TAG
    let tried = 0
    const refuse = async (raw: Buffer): Promise<void> => {
      await below.writeFile('forged', raw)
      expect(await served(fs, 'forged', contents[0]!)).toBe('refused')
      tried++
    }
    for (const from of records.slice(0, -2))
      for (const to of records.slice(0, -2)) {
        const body = Buffer.from(a)
        if (from !== to) {
          // The whole record, and the payload under the head of its new place.
          a.copy(body, to, from, from + size)
          await refuse(body)
          const payload = Buffer.from(a)
          a.copy(payload, to + HEAD, from + HEAD, from + size)
          await refuse(payload)
        }
        const other = Buffer.from(a)
        b.copy(other, to, from, from + size)
        await refuse(other)
      }
    await refuse(Buffer.concat([b.subarray(0, HEADER), a.subarray(HEADER)]))
    // Chunks left out, with and without the directory that lists them.
    for (const at of records.slice(0, -2)) await refuse(Buffer.concat([a.subarray(0, at), a.subarray(at + size)]))
    for (const at of records.slice(0, -1)) await refuse(Buffer.from(a.subarray(0, at)))
    console.log(`${tried} forgeries refused`)
    expect(await served(fs, 'a', contents[0]!)).toBe('right')
  })

  test('files may be renamed, linked and copied below', async () => {
    const below = memoryFs()
    const fs = encrypted(below, { keys })
    await fs.writeFile('a', Buffer.from('content'))
    await fs.link('a', 'b')
    await below.rename('a', 'c')
    await below.writeFile('d', await below.readFile('c'))
    for (const path of ['b', 'c', 'd']) expect(Buffer.from(await fs.readFile(path)).toString()).toBe('content')
  })

  test('a key that is missing or wrong is FS_DENIED, and lists and removes nevertheless', async () => {
    const below = memoryFs()
    await encrypted(below, { keys }).writeFile('file', Buffer.from('content'))
    for (const other of [keysOf('two', { two: 2 }), keysOf('one', { one: 9 })]) {
      const fs = encrypted(below, { keys: other })
      for (const run of [
        () => fs.readFile('file'),
        () => fs.open('file', 'read'),
        () => fs.open('file', 'append'),
        () => fs.stat('file'),
      ])
        await expect(run()).rejects.toMatchObject({ code: 'FS_DENIED', path: 'file' })
      expect((await Array.fromAsync(fs.list(''))).flat()).toEqual([{ name: 'file', kind: 'file' }])
    }
    const none = encrypted(below, { keys: keysOf('gone', {}) })
    await expect(none.writeFile('new', Buffer.from('x'))).rejects.toMatchObject({ code: 'FS_DENIED' })
    expect(await below.stat('new')).toBeUndefined()
    await expect(
      encrypted(below, { keys: { current: 'short', get: () => new Uint8Array(16) } }).writeFile('x', Buffer.from('y')),
    ).rejects.toThrow(RangeError)
    for (const current of ['', 'x'.repeat(64), 'ä', 'a\n'])
      expect(() => encrypted(below, { keys: { ...keys, current } })).toThrow(RangeError)
  })

  test('keys rotate: old files stay readable, are appended to under their key, and written anew under the current one', async () => {
    const below = memoryFs()
    await encrypted(below, { keys }).writeFile('file', Buffer.alloc(200_000, 'x'))
    const fs = encrypted(below, { keys: keysOf('two', { one: 1, two: 2 }) })
    {
      await using file = await fs.open('file', 'append')
      expect(await file.append([Buffer.from('end')])).toBe(200_000)
      await file.sync()
    }
    expect(await fs.keyId('file')).toBe('one')
    expect(await fs.rotate('file')).toBe('rotated')
    expect(await fs.rotate('file')).toBe('current')
    expect(await fs.keyId('file')).toBe('two')
    const after = encrypted(below, { keys: keysOf('two', { two: 2 }) })
    expect(
      Buffer.from(await after.readFile('file')).equals(Buffer.concat([Buffer.alloc(200_000, 'x'), Buffer.from('end')])),
    ).toBe(true)
    await expect(fs.keyId('absent')).rejects.toMatchObject({ code: 'FS_NOT_FOUND' })
    await below.writeFile('empty', new Uint8Array(0))
    expect(await fs.keyId('empty')).toBeUndefined()
    expect(await fs.rotate('empty')).toBe('current')
  })

  test('what another program wrote in the clear is FS_CORRUPT', async () => {
    const below = memoryFs()
    const fs = encrypted(below, { keys })
    for (const size of [129, 500]) {
      await below.writeFile('file', Buffer.alloc(size, 'plain text '))
      await expect(fs.readFile('file')).rejects.toMatchObject({ code: 'FS_CORRUPT', path: 'file' })
    }
  })
})
