/** Several processes that have one cache open: what each of them decides is kept, whoever else decides at the same time. */
import type { Fs, FsFile } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import fc from 'fast-check'
import { afterAll, expect, test } from 'vitest'
import { cachePath, openCacheFile, type TableCache } from './cache.ts'
import { checkCacheFile } from './check-cache.ts'
import type { CacheDecision, CacheEntry, FixedColumn, TableView } from './contract.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const RUNS = depth === 'soak' ? 100_000 : depth === 'ci' ? 600 : 40
const TABLE = 'mailbox-1'
const path = cachePath('', TABLE)
const FIELDS = ['a', 'b', 'c'] as const
const ROWS = 40
const now = (): number => 20_000 * 86_400_000
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
async function settled(): Promise<void> {
  for (let i = 0; i < 40; i++) await turn()
}

const counted = { histories: 0, decisions: 0, between: 0, compactions: 0 }
afterAll(() => console.log(`caches decided together: ${JSON.stringify(counted)}`))

function guidOf(uid: number): Uint8Array {
  return Buffer.alloc(16, uid)
}
const guids: FixedColumn = { bytes: 16, number: () => 0, value: (row) => guidOf(row + 1) }
const view = {
  count: ROWS,
  uidNext: ROWS + 1,
  uid: (row: number) => row + 1,
  rowOf: (uid: number) => uid - 1,
  rowsBelow: (uid: number) => Math.min(ROWS, uid - 1),
  extension: (name: string) => (name === 'guid' ? guids : undefined),
} as unknown as TableView
function entry(uid: number, bytes: number): CacheEntry {
  return { uid, guid: guidOf(uid), fields: [['kept', Buffer.alloc(bytes, uid)]] }
}
function decisionsOf(cache: TableCache): Map<string, CacheDecision> {
  return new Map(cache.fields().map(({ name, decision }) => [name, decision]))
}

/** Where several append at once, `before` is what others append between the look at the size and the append. */
function racing(fs: Fs, before: () => void): Fs {
  const open = async (...args: Parameters<Fs['open']>): Promise<FsFile> => {
    const file = await fs.open(...args)
    return new Proxy(file, {
      get(target, name) {
        if (name === 'appendSync')
          return (parts: readonly Uint8Array[]): number => {
            const start = target.appendSync!([])
            before()
            target.appendSync!(parts)
            return start
          }
        const member = Reflect.get(target, name, target) as unknown
        return typeof member === 'function' ? member.bind(target) : member
      },
    })
  }
  return new Proxy(fs, { get: (target, name) => (name === 'open' ? open : Reflect.get(target, name, target)) })
}

const open = (fs: Fs): Promise<TableCache> => openCacheFile(fs, '', TABLE, { now })

test('what two decide who know nothing of each other is decided', async () => {
  const fs = memoryFs()
  {
    await using first = await open(fs)
    first.write([entry(1, 10)])
    await settled()
    await using one = await open(fs)
    await using two = await open(fs)
    one.force('a', 'yes')
    one.write([entry(2, 10)])
    await settled()
    two.force('b', 'no')
    two.write([entry(3, 10)])
    await settled()
  }
  await using reader = await open(fs)
  expect(Object.fromEntries(decisionsOf(reader))).toMatchObject({ a: 'yes', b: 'no' })
})

test('what is decided in the midst of an append is decided', async () => {
  const inner = memoryFs()
  await using one = await open(inner)
  one.write([entry(1, 10)])
  await settled()
  let interrupt: (() => void) | undefined
  const fs = racing(inner, () => {
    const now = interrupt
    interrupt = undefined
    now?.()
  })
  await using two = await open(fs)
  one.force('a', 'yes')
  two.force('b', 'no')
  interrupt = () => one.write([entry(2, 1_100_000 / 8)].concat(Array.from({ length: 9 }, () => entry(3, 130_000))))
  two.write([entry(4, 10)])
  await settled()
  expect(interrupt).toBeUndefined()
  await using reader = await open(inner)
  expect(Object.fromEntries(decisionsOf(reader))).toMatchObject({ a: 'yes', b: 'no' })
})

test('what is decided in a file that another has replaced is decided in the new one', async () => {
  const fs = memoryFs()
  {
    await using one = await open(fs)
    for (let round = 0; round < 3; round++) {
      for (let uid = 1; uid <= ROWS; uid++) one.write([entry(uid, 3000)])
      await settled()
    }
    await using two = await open(fs)
    const size = (await fs.stat(path))!.size
    one.column(view, 'kept')
    await settled()
    expect((await fs.stat(path))!.size).toBeLessThan(size)
    two.force('b', 'no')
    two.write([entry(1, 10)])
    await settled()
  }
  await using reader = await open(fs)
  expect(decisionsOf(reader).get('b')).toBe('no')
})

test('whoever decides, appends, compacts, leaves and comes back, and whenever: what each decided last is what holds', async () => {
  const step = fc.record({
    who: fc.nat(FIELDS.length - 1),
    what: fc.constantFrom('force', 'force', 'write', 'write', 'much', 'look', 'close', 'turn'),
    decision: fc.constantFrom<CacheDecision>('no', 'temp', 'yes'),
    between: fc.boolean(),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
      counted.histories++
      const inner = memoryFs()
      const last = new Map<string, CacheDecision>()
      const caches: (TableCache | undefined)[] = FIELDS.map(() => undefined)
      /** What somebody does in between when somebody else appends. */
      let pending: { readonly who: number; readonly run: () => void } | undefined
      const disks = FIELDS.map((_, who) =>
        racing(inner, () => {
          if (pending === undefined || pending.who === who) return
          const { run } = pending
          pending = undefined
          counted.between++
          run()
        }),
      )
      const decide = (who: number, decision: CacheDecision): void => {
        counted.decisions++
        last.set(FIELDS[who]!, decision)
        caches[who]!.force(FIELDS[who]!, decision)
        // Enough to be written at once.
        caches[who]!.write(Array.from({ length: 9 }, (_, i) => entry(1 + i, 120_000)))
      }
      for (const { who, what, decision, between } of steps) {
        const cache = (caches[who] ??= await open(disks[who]!))
        if (what === 'force') {
          const other = (who + 1) % FIELDS.length
          if (between && caches[other] !== undefined)
            pending = { who: other, run: () => caches[other] !== undefined && decide(other, decision) }
          last.set(FIELDS[who]!, decision)
          counted.decisions++
          cache.force(FIELDS[who]!, decision)
        } else if (what === 'write') cache.write([entry(1, 100)])
        else if (what === 'much') for (let uid = 1; uid <= ROWS; uid++) cache.write([entry(uid, 3000)])
        else if (what === 'look') {
          const before = (await inner.stat(path))?.size ?? 0
          cache.column(view, 'kept')
          await settled()
          if (((await inner.stat(path))?.size ?? 0) < before) counted.compactions++
        } else if (what === 'turn') await settled()
        else {
          await cache[Symbol.asyncDispose]()
          caches[who] = undefined
        }
      }
      pending = undefined
      for (const cache of caches) await cache?.[Symbol.asyncDispose]()
      await using reader = await open(inner)
      const found = decisionsOf(reader)
      for (const [field, decision] of last) expect(found.get(field), field).toBe(decision)
      const damages: string[] = []
      await checkCacheFile(inner, path, TABLE, (severity, kind) => severity === 'damage' && damages.push(kind))
      expect(damages).toEqual([])
    }),
    { numRuns: RUNS },
  )
})
