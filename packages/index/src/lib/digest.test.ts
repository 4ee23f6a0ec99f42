import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { FLAG_DELETED, FLAG_FLAGGED, FLAG_SEEN, type Index, type IndexTransaction } from './contract.ts'
import { digestOf, formatDigest, nameDigest, rowHigh, rowLow, sumGuids } from './digest.ts'
import { openIndex } from './open-index.ts'
import { stateOfView } from './view.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 50_000 : depth === 'ci' ? 1_000 : 60

const columns = [
  { name: 'size', bytes: 6, summed: true },
  { name: 'guid', bytes: 16 },
]
const words = ['one', 'Two', '$Forwarded', 'four']

/** A row as it is to be in the end. */
interface Row {
  readonly there: boolean
  readonly flags: number
  readonly keywords: number
  readonly guid: number
}
const rows = fc.array(
  fc.record({
    there: fc.boolean(),
    flags: fc.nat({ max: 31 }),
    keywords: fc.nat({ max: 15 }),
    guid: fc.nat({ max: 255 }),
  }),
  { minLength: 1, maxLength: 12 },
)
const keywordsOf = (bits: number): string[] => words.filter((_, i) => (bits & (1 << i)) !== 0)

async function inNew(body: (index: Index, id: string) => Promise<void>): Promise<string> {
  await using index = await openIndex(memoryFs(), 'index', { create: true })
  await commit(index, (tx) => tx.createTable({ id: 't', uidValidity: 1, columns }))
  await body(index, 't')
  const { digest } = index.info('t')!
  await using table = (await index.open('t'))!
  const state = stateOfView(table.view)!
  expect(table.view.digest).toBe(digest)
  expect(formatDigest(digestOf(state.chunks, state.keywords.digests, state.meta.guid))).toBe(digest)
  return digest
}

async function commit(index: Index, build: (tx: IndexTransaction) => void): Promise<void> {
  await using tx = index.begin()
  build(tx)
  await tx.commit()
}

/** These rows, as they are from the beginning. */
const directly = (list: readonly Row[]): Promise<string> =>
  inNew((index, id) =>
    commit(index, (tx) => {
      for (const row of list)
        tx.append(id, {
          flags: row.flags,
          keywords: keywordsOf(row.keywords),
          columns: { guid: new Uint8Array(16).fill(row.guid) },
        })
      for (const [i, row] of list.entries()) if (!row.there) tx.expunge(id, UidSet.of(i + 1))
    }),
  )

test('tables with the same rows have the same digest, whatever happened to them', async () => {
  await fc.assert(
    fc.asyncProperty(rows, fc.array(fc.nat(), { minLength: 24, maxLength: 24 }), async (list, noise) => {
      const digest = await directly(list)
      const after = await inNew(async (index, id) => {
        // Keywords get other numbers here, and in other spellings.
        await commit(index, (tx) => tx.append(id, { keywords: ['other', 'FOUR', 'TWO', '$forwarded', 'One'] }))
        await commit(index, (tx) => tx.expunge(id, UidSet.of(1)))
        await commit(index, (tx) => tx.dropTable(id))
        await commit(index, (tx) => tx.createTable({ id, uidValidity: 5, columns: columns.toReversed() }))
        for (let i = 0; i < list.length; i++) {
          const n = noise[2 * i]!
          await commit(index, (tx) =>
            tx.append(id, { flags: n & 31, keywords: keywordsOf((n >> 5) & 15), columns: { size: n } }),
          )
          if (n % 5 === 0) await index.checkpoint()
          // Of what happens later nothing is left in the end.
          if (n % 3 === 0) await commit(index, (tx) => tx.changeFlags(id, UidSet.range(1, 99), { add: n & 31 }))
        }
        for (const [i, row] of list.entries()) {
          const uids = UidSet.of(i + 1)
          if (row.there)
            await commit(index, (tx) => {
              tx.changeFlags(id, uids, { replace: true, add: row.flags, addKeywords: keywordsOf(row.keywords) })
              tx.setColumn(id, 'guid', i + 1, new Uint8Array(16).fill(row.guid))
              tx.setValue(id, 'name', Buffer.from('x'))
            })
        }
        for (const [i, row] of list.entries())
          if (!row.there) await commit(index, (tx) => tx.expunge(id, UidSet.of(i + 1)))
      })
      expect(after).toBe(digest)
      if (!list.some((row) => row.there)) expect(digest).toBe('0000000000000000')
    }),
    { numRuns },
  )
})

test('one other flag, keyword, GUID or UID makes another digest', async () => {
  await fc.assert(
    fc.asyncProperty(rows, fc.nat(), fc.nat({ max: 4 }), async (list, n, bit) => {
      const there = list.flatMap((row, i) => (row.there ? [i] : []))
      fc.pre(there.length > 0)
      const at = there[n % there.length]!
      const row = list[at]!
      const others: readonly (readonly Row[])[] = [
        list.with(at, { ...row, flags: row.flags ^ (1 << bit) }),
        list.with(at, { ...row, keywords: row.keywords ^ (1 << (bit % 4)) }),
        list.with(at, { ...row, guid: row.guid ^ (1 << bit) }),
        list.with(at, { ...row, there: false }),
        // The same message under another UID.
        [...list.with(at, { ...row, there: false }), row],
      ]
      const digests = await Promise.all([list, ...others].map(directly))
      expect(new Set(digests).size).toBe(digests.length)
    }),
    { numRuns: Math.ceil(numRuns / 3) },
  )
})

test('a large table keeps its digest through changes of many rows at once', async () => {
  const digest = await inNew(async (index, id) => {
    const guid = (n: number): Uint8Array => {
      const bytes = new Uint8Array(16)
      new DataView(bytes.buffer).setUint32(0, n)
      return bytes
    }
    await commit(index, (tx) => {
      for (let n = 0; n < 5000; n++) tx.append(id, { flags: n & 31, columns: { guid: guid(n), size: n } })
    })
    await index.checkpoint()
    await commit(index, (tx) => tx.changeFlags(id, UidSet.range(1, 5000), { add: FLAG_SEEN, addKeywords: ['a'] }))
    await commit(index, (tx) => tx.expunge(id, UidSet.range(1000, 3000), { onlyDeleted: true }))
    await commit(index, (tx) => tx.expunge(id, UidSet.range(3500, 4700)))
    await using table = (await index.open(id))!
    await commit(index, (tx) =>
      tx.appendFrom(
        id,
        table.view,
        Uint32Array.from({ length: 1000 }, (_, i) => 2 * i),
      ),
    )
    await commit(index, (tx) => tx.changeFlags(id, UidSet.range(1, 9000), { remove: FLAG_DELETED, add: FLAG_FLAGGED }))
  })
  expect(digest).toMatch(/^[0-9a-f]{16}$/)
})

test('the hashes do not change', () => {
  const guid = Uint8Array.from({ length: 16 }, (_, i) => i + 1)
  const { low, high } = nameDigest('$Forwarded')
  const guids = new Int32Array(2)
  sumGuids(guids, Uint32Array.of(7), guid, 0, 1, 1)
  const lanes = [rowLow(7, 8, low), rowHigh(7, 8, high), ...guids, low, high]
  expect(lanes.map((lane) => (lane >>> 0).toString(16))).toMatchInlineSnapshot(`
    [
      "73e49b07",
      "20a4ea0d",
      "e73abd7d",
      "ee9fec06",
      "75d1fcf",
      "7ba924d9",
    ]
  `)
})
