import { memoryFs } from '@mailstead/fs/memory'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { cachePath } from './cache.ts'
import { encodeDirectory } from './cache-directory.ts'
import { fieldKey, type RecordToWrite, recordSize, tableSeed, writeRecord } from './cache-record.ts'
import { type CacheReport, checkCacheFile } from './check-cache.ts'
import type { IndexFinding } from './contract.ts'
import { openIndex } from './open-index.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 5_000 : depth === 'ci' ? 500 : 50
const TABLE = 'inbox'
const seed = tableSeed(TABLE)

interface Found {
  readonly severity: string
  readonly kind: string
  readonly offset: number
  readonly message: string
}

async function findings(bytes: Uint8Array): Promise<Found[]> {
  const fs = memoryFs()
  await fs.writeFile('c', bytes)
  const found: Found[] = []
  const report: CacheReport = (severity, kind, offset, message) => found.push({ severity, kind, offset, message })
  await checkCacheFile(fs, 'c', TABLE, report, { tailWaitMs: 0 })
  return found
}
const brief = (found: readonly Found[]): string[] => found.map((one) => `${one.severity} ${one.kind} ${one.offset}`)

function encode(record: RecordToWrite): Buffer {
  const out = Buffer.alloc(recordSize(record))
  writeRecord(out, 0, seed, record)
  return out
}
function names(...list: string[]): Buffer {
  return encode({ uid: 0, guid: Buffer.alloc(16), keys: list.map(fieldKey), values: list.map((n) => Buffer.from(n)) })
}
function message(uid: number, ...values: string[]): Buffer {
  const keys = ['envelope', 'body', 'third'].slice(0, values.length).map(fieldKey)
  return encode({ uid, guid: Buffer.alloc(16, uid), keys, values: values.map((v) => Buffer.from(v)) })
}
/** Names, three messages, and a directory of them. */
function small(): { records: readonly Buffer[]; file: Buffer } {
  const records = [names('envelope', 'body'), message(3, '(NIL "Hi")', '("TEXT")'), message(7, ''), message(9, 'x')]
  const offsets = [3, 7, 9].flatMap((uid, i) => [uid, Buffer.concat(records.slice(0, i + 1)).length])
  const to = Buffer.concat(records).length
  records.push(encodeDirectory({ from: 0, to, before: -1, records: Uint32Array.from(offsets) }, seed))
  return { records, file: Buffer.concat(records) }
}

describe('check of a cache file', () => {
  test('a healthy one has no findings, nor has one that is empty or not there', async () => {
    expect(await findings(small().file)).toEqual([])
    expect(await findings(new Uint8Array(0))).toEqual([])
    const found: unknown[] = []
    await checkCacheFile(memoryFs(), 'nowhere', TABLE, (...one) => found.push(one))
    expect(found).toEqual([])
  })

  test('every flipped bit in every byte is found, in the record that has it', async () => {
    const { records, file } = small()
    let flips = 0
    let start = 0
    for (const record of records) {
      for (let at = start; at < start + record.length; at++)
        for (let bit = 0; bit < 8; bit++) {
          const copy = Buffer.from(file)
          copy[at]! ^= 1 << bit
          const found = await findings(copy)
          expect(brief(found), `bit ${bit} of byte ${at}`).toEqual([`damage cache-record ${start}`])
          expect(found[0]!.message).toMatch(/deleting it loses nothing/)
          flips++
        }
      start += record.length
    }
    console.log(`cache check: ${flips} of ${8 * file.length} flipped bits found`)
    expect(flips).toBe(8 * file.length)
  })

  test('what a crash leaves is a note: a record cut short, at the end or before another, and sectors never written', async () => {
    const whole = message(3, 'a'.repeat(1200), 'b'.repeat(1200))
    const other = message(4, 'after')
    let states = 0
    for (let cut = 1; cut < whole.length; cut += cut < 80 ? 1 : 37) {
      const head = whole.subarray(0, cut)
      const zeros = Buffer.alloc(whole.length - cut)
      for (const file of [[head], [head, other], [head, zeros, other], [other, head, other], [head, zeros]]) {
        const found = await findings(Buffer.concat(file))
        expect(brief(found), `cut at ${cut}`).toEqual([`note cache-torn ${file[0] === other ? other.length : 0}`])
        states++
      }
    }
    const hole = Buffer.concat([other, whole])
    hole.fill(0, 512, 1024)
    expect(brief(await findings(hole))).toEqual([`note cache-torn ${other.length}`])
    expect(brief(await findings(Buffer.concat([Buffer.alloc(100), other])))).toEqual(['note cache-torn 0'])
    console.log(`cache check: ${states} torn files noted`)
  })

  test('what no crash leaves is damage: other bytes, a record of another table, a wrong name, a wrong directory', async () => {
    const record = message(3, 'value')
    expect(brief(await findings(Buffer.concat([Buffer.from('garbage'), record])))).toEqual(['damage cache-record 0'])
    const foreign = Buffer.alloc(record.length)
    const values = [Buffer.from('value')]
    writeRecord(foreign, 0, tableSeed('other'), {
      uid: 3,
      guid: Buffer.alloc(16),
      keys: [fieldKey('envelope')],
      values,
    })
    expect(brief(await findings(Buffer.concat([foreign, record])))).toEqual(['damage cache-record 0'])
    const misnamed = encode({ uid: 0, guid: Buffer.alloc(16), keys: [fieldKey('body')], values: [Buffer.from('x')] })
    expect(brief(await findings(misnamed))).toEqual(['damage cache-names 0'])
    const key = fieldKey('body')
    const twice = encode({ uid: 3, guid: Buffer.alloc(16), keys: [key, key], values: [Buffer.of(1), Buffer.of(2)] })
    expect(brief(await findings(twice))).toEqual(['damage cache-keys 0'])
    const to = record.length
    const wrong = [
      { from: 0, to, before: -1, records: Uint32Array.of(4, 0) },
      { from: 0, to, before: -1, records: Uint32Array.of(3, 1) },
      { from: 0, to, before: -1, records: Uint32Array.of(3, 0, 3, 0) },
      { from: 0, to, before: 0, records: Uint32Array.of(3, 0) },
      { from: 5, to, before: -1, records: Uint32Array.of() },
      { from: 0, to: to + 1, before: -1, records: Uint32Array.of(3, 0) },
    ]
    for (const directory of wrong)
      expect(
        brief(await findings(Buffer.concat([record, encodeDirectory(directory, seed)]))),
        `${directory.to}`,
      ).toEqual([`damage cache-directory ${to}`])
  })

  test('records of any length are read in a window, and each one that is damaged is named', async () => {
    let seen = 0
    const lengths = fc.array(fc.oneof(fc.nat(300), fc.nat(190_000)), { minLength: 1, maxLength: 12 })
    await fc.assert(
      fc.asyncProperty(lengths, fc.nat(), async (list, n) => {
        const records = list.map((length, i) => message(i + 1, '\x02'.repeat(length)))
        const file = Buffer.concat(records)
        expect(await findings(file)).toEqual([])
        const at = n % file.length
        file[at]! ^= 1
        let start = 0
        for (const record of records) {
          if (at < start + record.length) break
          start += record.length
        }
        // A zero that ends a sector is what a write may leave that lost the rest of one.
        const torn = file[at] === 0 && (at + 1) % 512 === 0
        expect(brief(await findings(file))).toEqual([`${torn ? 'note cache-torn' : 'damage cache-record'} ${start}`])
        seen += file.length
      }),
      { numRuns },
    )
    console.log(`cache check: ${(seen / 2 ** 20).toFixed(0)} MiB in ${numRuns} files`)
  })
})

test('the check of an index finds every damaged byte of its caches, and names file, offset, table and message', async () => {
  const fs = memoryFs()
  const index = await openIndex(fs, 'i', { create: true })
  {
    await using tx = index.begin()
    tx.createTable({ id: TABLE, uidValidity: 1, columns: [{ name: 'guid', bytes: 16 }] })
    tx.append(TABLE, { columns: { guid: Buffer.alloc(16, 1) } })
    await tx.commit()
    await using table = (await index.open(TABLE))!
    table.cacheWrite([{ uid: 1, guid: Buffer.alloc(16, 1), fields: [['envelope', Buffer.from('(NIL)')]] }])
  }
  await index[Symbol.asyncDispose]()
  await using checked = await openIndex(fs, 'i', { readOnly: true })
  const all = async (): Promise<IndexFinding[]> => (await Array.fromAsync(checked.check())).flat()
  expect(await all()).toEqual([])
  const path = cachePath('i', TABLE)
  const bytes = await fs.readFile(path)
  for (let at = 0; at < bytes.length; at++) {
    const copy = Buffer.from(bytes)
    copy[at]! ^= 1 << (at & 7)
    await fs.writeFile(path, copy)
    const found = await all()
    expect(found).toHaveLength(1)
    expect(found[0]).toMatchObject({ severity: 'damage', kind: 'cache-record', file: path, table: TABLE })
    expect(Buffer.from(await fs.readFile(path)).equals(copy)).toBe(true)
  }
  console.log(`index check: ${bytes.length} flipped bits found in the cache`)
  await fs.writeFile(path, bytes)
  await fs.writeFile(`${path}.new`, bytes)
  expect(await all()).toMatchObject([{ severity: 'note', kind: 'stray-file', file: `${path}.new` }])
})
