import { readFileSync } from 'node:fs'
import { parseHex, toHex } from '@mailstead/bytes'
import { type Fs, FsError, type FsFile } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { cachePath, openCacheFile, type TableCache } from './cache.ts'
import { DAY_MS, DECISIONS_KEY, decodeDecisions } from './cache-decisions.ts'
import { CacheOffsets } from './cache-offsets.ts'
import { decodeRecord, fieldKey, ownField, recordAt, recordSize, tableSeed, writeRecord } from './cache-record.ts'
import type { CacheEntry, FixedColumn, TableView } from './contract.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 5_000 : depth === 'ci' ? 500 : 60
const path = cachePath('', 'mailbox-1')

function guidOf(uid: number, salt = 0): Uint8Array {
  const guid = new Uint8Array(16).fill(salt)
  new DataView(guid.buffer).setUint32(4, uid)
  return guid
}

/** A view of these UIDs: only what a cache asks for. */
function viewOf(uids: readonly number[], salt = 0): TableView {
  const guid: FixedColumn = { bytes: 16, number: () => 0, value: (row) => guidOf(uids[row]!, salt) }
  return {
    count: uids.length,
    uid: (row: number) => uids[row]!,
    uidNext: Math.max(0, ...uids) + 1,
    rowOf: (uid: number) => uids.indexOf(uid),
    rowsBelow: (uid: number) => uids.filter((one) => one < uid).length,
    extension: (name: string) => (name === 'guid' ? guid : undefined),
  } as unknown as TableView
}
function entry(uid: number, fields: Record<string, string>, salt = 0): CacheEntry {
  return { uid, guid: guidOf(uid, salt), fields: Object.entries(fields).map(([name, v]) => [name, Buffer.from(v)]) }
}
function read(cache: TableCache, view: TableView, field: string): (string | undefined)[] {
  const column = cache.column(view, field)
  return Array.from({ length: view.count }, (_, row) => {
    const value = column.value(row)
    return value === undefined ? undefined : Buffer.from(value).toString()
  })
}
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

describe('cache file', () => {
  test('what is written is read at once, by this process and by others, and after reopening', async () => {
    const fs = memoryFs()
    const view = viewOf([1, 2, 5])
    {
      await using cache = await openCacheFile(fs, '', 'mailbox-1')
      expect(read(cache, view, 'envelope')).toEqual([undefined, undefined, undefined])
      expect(await fs.stat(path)).toBeUndefined()
      cache.write([entry(1, { envelope: '(one)', body: 'x' }), entry(5, { envelope: '' })])
      await turn()
      await turn()
      await using other = await openCacheFile(fs, '', 'mailbox-1')
      expect(read(other, view, 'envelope')).toEqual(['(one)', undefined, ''])
      cache.write([entry(2, { envelope: '(two)' })])
      expect(read(cache, view, 'envelope')).toEqual(['(one)', '(two)', ''])
      expect(read(other, view, 'envelope')).toEqual(['(one)', '(two)', ''])
      other.write([entry(1, { envelope: '(one again)' })])
      expect(read(other, view, 'body')).toEqual([undefined, undefined, undefined])
      expect(read(cache, view, 'envelope')).toEqual(['(one again)', '(two)', ''])
    }
    await using cache = await openCacheFile(fs, '', 'mailbox-1')
    expect(read(cache, view, 'envelope')).toEqual(['(one again)', '(two)', ''])
    await cache.drop()
    expect(await fs.stat(path)).toBeUndefined()
  })
  test('what is written in one turn is one append', async () => {
    const fs = memoryFs()
    let appends = 0
    const counting: Fs = { ...fs, open: async (...args) => count(await fs.open(...args)) }
    const count = (file: FsFile): FsFile =>
      new Proxy(file, {
        get(target, name) {
          const member = Reflect.get(target, name, target) as unknown
          if (typeof member !== 'function') return member
          if (name === 'appendSync') appends++
          if (name === 'sync') throw new Error('a cache is never flushed')
          return (member as (...args: unknown[]) => unknown).bind(target)
        },
      })
    await using cache = await openCacheFile(counting, '', 'mailbox-1')
    cache.write([entry(1, { a: '1' })])
    await turn()
    await turn()
    await turn()
    appends = 0
    for (let uid = 2; uid < 100; uid++) cache.write([entry(uid, { a: String(uid) })])
    await turn()
    await turn()
    expect(appends).toBe(1)
    expect(read(cache, viewOf([99]), 'a')).toEqual(['99'])
  })
  test('copy says how much room a value needs, and copies nothing if there is less', async () => {
    await using cache = await openCacheFile(memoryFs(), '', 'mailbox-1')
    cache.write([entry(7, { a: 'hello' })])
    await turn()
    await turn()
    const column = cache.column(viewOf([7, 8]), 'a')
    const out = new Uint8Array(6)
    expect(column.copy(0, out, 2)).toBe(-7)
    expect(toHex(out)).toBe('000000000000')
    expect(column.copy(0, out, 1)).toBe(5)
    expect(Buffer.from(out).toString()).toBe('\0hello')
    expect(column.copy(1, out, 0)).toBe(-1)
    expect(cache.column(viewOf([7]), 'b').copy(0, out, 0)).toBe(-1)
  })
  test('a record of another message, or of another table, is absent', async () => {
    const fs = memoryFs()
    await using cache = await openCacheFile(fs, '', 'mailbox-1')
    cache.write([entry(1, { a: 'x' }, 1)])
    await turn()
    await turn()
    expect(read(cache, viewOf([1], 0), 'a')).toEqual([undefined])
    expect(read(cache, viewOf([1], 1), 'a')).toEqual(['x'])
    await fs.writeFile(cachePath('', 'mailbox-2'), await fs.readFile(path))
    await using other = await openCacheFile(fs, '', 'mailbox-2')
    expect(read(other, viewOf([1], 1), 'a')).toEqual([undefined])
  })
  test('a flipped bit, a cut or foreign bytes make values absent, never different', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.integer({ min: 1, max: 9 }), fc.string({ maxLength: 40 })), {
          minLength: 1,
          maxLength: 12,
        }),
        fc.array(
          fc.tuple(
            fc.constantFrom('flip', 'cut', 'insert', 'zeros'),
            fc.nat(),
            fc.nat({ max: 7 }),
            fc.string({ maxLength: 50 }),
          ),
          { minLength: 1, maxLength: 3 },
        ),
        async (list, damages) => {
          const fs = memoryFs()
          const uids = [1, 2, 3, 4, 5, 6, 7, 8, 9]
          const written = new Map<number, string[]>()
          {
            await using cache = await openCacheFile(fs, '', 'mailbox-1')
            for (const [uid, value] of list) {
              cache.write([entry(uid, { a: value, b: `b${value}` })])
              written.set(uid, [...(written.get(uid) ?? []), value])
            }
          }
          let bytes = Buffer.from(await fs.readFile(path))
          for (const [kind, n, bit, text] of damages) {
            const at = n % (bytes.length + 1)
            if (kind === 'flip' && at < bytes.length) bytes[at]! ^= 1 << bit
            if (kind === 'cut') bytes = bytes.subarray(0, at)
            if (kind === 'insert') bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from(text), bytes.subarray(at)])
            if (kind === 'zeros') bytes.fill(0, at, Math.min(at + 30, bytes.length))
          }
          await fs.writeFile(path, bytes)
          await using cache = await openCacheFile(fs, '', 'mailbox-1')
          const a = read(cache, viewOf(uids), 'a')
          const b = read(cache, viewOf(uids), 'b')
          for (const [row, uid] of uids.entries()) {
            // An older record may be what is left.
            if (a[row] !== undefined) expect(written.get(uid)).toContain(Buffer.from(a[row]).toString())
            if (b[row] !== undefined)
              expect(written.get(uid)?.map((v) => `b${Buffer.from(v).toString()}`)).toContain(b[row])
          }
          // What is written after the damage is found, wherever the damage ends.
          for (const uid of uids) cache.write([entry(uid, { a: `new ${uid}` })])
          for (const uid of uids) cache.write([entry(uid, { a: `new ${uid}` })])
          await turn()
          await turn()
          await turn()
          const again = read(cache, viewOf(uids), 'a')
          expect(again[8]).toBe('new 9')
        },
      ),
      { numRuns },
    )
  })
  test('large values, many records and any order of reading are served through the page', async () => {
    const fs = memoryFs()
    const uids = Array.from({ length: 3000 }, (_, i) => i + 1)
    const valueOf = (uid: number): string => `${uid}:${'v'.repeat(uid % 500 === 0 ? 150_000 : uid % 400)}`
    await using cache = await openCacheFile(fs, '', 'mailbox-1')
    for (const uid of uids) cache.write([entry(uid, { a: valueOf(uid), b: `b${uid}` })])
    await turn()
    await turn()
    await turn()
    const view = viewOf(uids)
    await using other = await openCacheFile(fs, '', 'mailbox-1')
    for (const column of [cache.column(view, 'a'), other.column(view, 'a')]) {
      for (const uid of uids) expect(Buffer.from(column.value(uid - 1)!).toString()).toBe(valueOf(uid))
      for (let i = 0; i < 500; i++) {
        const uid = ((i * 7919) % 3000) + 1
        expect(Buffer.from(column.value(uid - 1)!).toString()).toBe(valueOf(uid))
      }
    }
    // Too large for a record: that field is left out, the others are kept.
    cache.write([entry(3001, { a: 'x'.repeat(200_000), b: 'kept' })])
    const more = viewOf([3001])
    expect(read(cache, more, 'a')).toEqual([undefined])
    expect(read(cache, more, 'b')).toEqual(['kept'])
  })
  test('a file that is mostly dead is compacted, while others read, and others find the new one', async () => {
    const fs = memoryFs()
    let clock = 1_000_000
    const options = { now: () => clock }
    const uids = Array.from({ length: 2000 }, (_, i) => i + 1)
    await using cache = await openCacheFile(fs, '', 'mailbox-1', options)
    for (const uid of uids) cache.write([entry(uid, { a: `${uid} ${'v'.repeat(200)}` })])
    await turn()
    await turn()
    await using other = await openCacheFile(fs, '', 'mailbox-1', options)
    expect(read(other, viewOf(uids), 'a')[4]).toMatch(/^5 /)
    const left = uids.filter((uid) => uid % 4 === 0)
    const alive = viewOf([...left, 2001])
    const before = (await fs.stat(path))!.size
    expect(read(cache, alive, 'a').indexOf(undefined)).toBe(left.length)
    cache.write([entry(2001, { a: 'written meanwhile' })])
    for (let i = 0; i < 50; i++) await turn()
    expect((await fs.stat(path))!.size).toBeLessThan(before / 3)
    expect(await fs.stat(`${path}.new`)).toBeUndefined()
    const expected = left.map((uid) => `${uid} ${'v'.repeat(200)}`)
    expect(read(cache, alive, 'a')).toEqual([...expected, 'written meanwhile'])
    expect(read(other, alive, 'a')).toEqual([...expected, undefined])
    for (let i = 0; i < 50; i++) await turn()
    clock += 20_000
    read(other, alive, 'a')
    for (let i = 0; i < 50; i++) await turn()
    expect(read(other, alive, 'a')).toEqual([...expected, 'written meanwhile'])
    expect(read(cache, alive, 'a')).toEqual([...expected, 'written meanwhile'])
  })
  test('a long file has directories: who opens it reads them, and what came after the last', async () => {
    const fs = memoryFs()
    const uids = Array.from({ length: 40_000 }, (_, i) => i + 1)
    const valueOf = (uid: number): string => `${uid} ${'v'.repeat(200)}`
    const view = viewOf(uids)
    const fill = async (from: number, to: number): Promise<void> => {
      await using writer = await openCacheFile(fs, '', 'mailbox-1')
      for (let uid = from; uid <= to; uid++) {
        writer.write([entry(uid, { a: valueOf(uid) })])
        if (uid % 2000 === 0) await turn()
      }
    }
    let bytesRead = 0
    const counting: Fs = {
      ...fs,
      open: async (...args) =>
        new Proxy(await fs.open(...args), {
          get(target, name) {
            const member = Reflect.get(target, name, target) as unknown
            if (typeof member !== 'function') return member
            return (...parameters: unknown[]): unknown => {
              const result: unknown = Reflect.apply(member, target, parameters)
              if (name === 'readSync') bytesRead += result as number
              return result
            }
          },
        }),
    }
    const check = async (least: number, most: number): Promise<void> => {
      await using reader = await openCacheFile(counting, '', 'mailbox-1')
      bytesRead = 0
      const column = reader.column(view, 'a')
      const { size } = (await fs.stat(path))!
      expect(bytesRead).toBeGreaterThanOrEqual(least * size)
      expect(bytesRead).toBeLessThanOrEqual(most * size)
      for (let uid = 1; uid <= 40_000; uid += 97)
        expect(Buffer.from(column.value(uid - 1)!).toString()).toBe(valueOf(uid))
    }
    await fill(1, 20_000)
    await fill(20_001, 39_000)
    // The first reader reads everything, and writes the directories.
    await using first = await openCacheFile(fs, '', 'mailbox-1')
    expect(first.column(view, 'a').value(0)).toBeDefined()
    await fill(39_001, 40_000)
    await check(0, 0.3)
    // Whatever is damaged in them, and wherever the file is cut: everything else is still found.
    const bytes = Buffer.from(await fs.readFile(path))
    const end = bytes.lastIndexOf('MsCD')
    for (const at of [end - 6, bytes.lastIndexOf('MsCD', end - 1) - 500]) {
      const copy = Buffer.from(bytes)
      copy[at]! ^= 1
      await fs.writeFile(path, copy)
      await check(0, 1.5)
    }
  })
  test('without a file system that can hold it, or with one that fails, values are absent and nothing throws', async () => {
    const fs = memoryFs()
    const down = (): never => {
      throw new FsError('FS_UNAVAILABLE', 'not mounted')
    }
    const view = viewOf([1])
    const broken: Fs = { ...fs, stat: async () => down(), open: async () => down() }
    const slow: Fs = { ...fs, supports: { ...fs.supports, syncRead: false } }
    for (const [bad, options] of [
      [broken, {}],
      [slow, {}],
      [fs, { readOnly: true }],
    ] as const) {
      await using cache = await openCacheFile(bad, '', 'mailbox-1', options)
      cache.write([entry(1, { a: 'x' })])
      await turn()
      expect(read(cache, view, 'a')).toEqual([undefined])
    }
    expect(await fs.stat(path)).toBeUndefined()
  })
  test('the example in docs/formats/cache.md is what is written', async () => {
    const page = readFileSync(new URL('../../../../docs/formats/cache.md', import.meta.url), 'utf8')
    const dump = /```hex\n([^`]*)```/.exec(page)![1]!
    const bytes = Buffer.from(parseHex(dump))
    const seed = tableSeed('mailbox-00112233445566778899aabbccddeeff')
    const names = decodeRecord(bytes, 0, seed)!
    expect(names.uid).toBe(0)
    expect(names.fields.map(({ value }) => Buffer.from(value!).toString())).toEqual(['envelope', 'body'])
    const record = decodeRecord(bytes, names.length, seed)!
    expect(record).toMatchObject({ uid: 17, length: 78 })
    expect(toHex(record.guid)).toBe('000102030405060708090a0b0c0d0e0f')
    expect(record.fields.map(({ key, value }) => [key, Buffer.from(value!).toString()])).toEqual([
      [fieldKey('envelope'), '(NIL "Hi")'],
      [fieldKey('body'), '("TEXT")'],
    ])
    const decisions = decodeDecisions(ownField(bytes.subarray(names.length + record.length), DECISIONS_KEY, seed)!)!
    expect(decisions).toEqual({
      dropped: 0,
      marks: [],
      fields: new Map([
        ['envelope', { decision: 'yes', forced: false, usedDay: 20_000 }],
        ['body', { decision: 'temp', forced: false, usedDay: 20_000 }],
      ]),
    })
    const fs = memoryFs()
    {
      await using cache = await openCacheFile(fs, '', 'mailbox-00112233445566778899aabbccddeeff', {
        defaults: { envelope: 'yes' },
        now: () => 20_000 * DAY_MS,
      })
      const guid = Uint8Array.from(record.guid)
      const fields = [
        ['envelope', Buffer.from('(NIL "Hi")')],
        ['body', Buffer.from('("TEXT")')],
      ] as const
      cache.write([{ uid: 17, guid, fields }])
    }
    const written = await fs.readFile(cachePath('', 'mailbox-00112233445566778899aabbccddeeff'))
    expect(toHex(written)).toBe(toHex(bytes))
  })
})

describe('cache record', () => {
  test('cut anywhere it is incomplete, and any flipped bit of its head is found', () => {
    const record = { uid: 3, guid: guidOf(3), keys: [1, 2], values: [Buffer.from('a'), Buffer.from('bc')] }
    const out = Buffer.alloc(recordSize(record))
    expect(writeRecord(out, 0, 9, record)).toBe(out.length)
    const head = 32 + 16 + 4
    for (let cut = 1; cut < head; cut++) expect(recordAt(out.subarray(0, cut), 0, cut, 9)).toBe(-1)
    for (let bit = 0; bit < 8 * head; bit++) {
      const copy = Buffer.from(out)
      copy[bit >> 3]! ^= 1 << (bit & 7)
      expect(recordAt(copy, 0, copy.length, 9)).not.toBe(out.length)
    }
    for (let bit = 8 * head; bit < 8 * out.length; bit++) {
      const copy = Buffer.from(out)
      copy[bit >> 3]! ^= 1 << (bit & 7)
      const fields = decodeRecord(copy, 0, 9)!.fields
      expect(fields.filter(({ value }) => value === undefined)).toHaveLength(1)
    }
    expect(recordAt(out, 0, out.length, 8)).toBe(0)
  })
})

describe('cache offsets', () => {
  test('they answer as a map does', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 1, max: 6000 }), fc.nat({ max: 1e6 })), { maxLength: 6000 }),
        (list) => {
          const offsets = new CacheOffsets()
          const model = new Map<number, number>()
          for (const [uid, offset] of list) {
            offsets.set(uid, offset)
            model.set(uid, offset)
            expect(offsets.find(uid)).toBe(offset)
          }
          expect(offsets.count).toBe(model.size)
          expect(offsets.superseded).toBe(list.length - model.size)
          for (let uid = 0; uid < 6001; uid++) expect(offsets.find(uid)).toBe(model.get(uid) ?? -1)
          expect([...offsets.uids()]).toEqual([...model.keys()].sort((a, b) => a - b))
          for (let uid = 0; uid < 6001; uid++) expect(offsets.find(uid)).toBe(model.get(uid) ?? -1)
        },
      ),
      { numRuns: 20 },
    )
  })
})
