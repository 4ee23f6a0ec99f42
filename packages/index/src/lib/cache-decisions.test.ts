import { type Fs, type FsFile, FsError } from '@mailstead/fs'
import { crashableFs, type CrashableFs, type CrashState } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import fc from 'fast-check'
import { afterAll, describe, expect, test, vi } from 'vitest'
import { cachePath, openCacheFile, type TableCache } from './cache.ts'
import {
  CacheDecisions,
  DAY_MS,
  type Decided,
  DECISIONS_KEY,
  DECISIONS_MAX,
  decodeDecisions,
  encodeDecisions,
} from './cache-decisions.ts'
import { decodeRecord, fieldKey, ownField, recordAt, tableSeed } from './cache-record.ts'
import { checkCacheFile } from './check-cache.ts'
import type { CacheDecision, CacheEntry, FixedColumn, TableView } from './contract.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const times = depth === 'soak' ? 200 : depth === 'ci' ? 20 : 1
const TABLE = 'mailbox-1'
const path = cachePath('', TABLE)
const seed = tableSeed(TABLE)
const DEFAULTS = { always: 'yes', recent: 'temp', never: 'no' } as const
const NAMES = [...Object.keys(DEFAULTS), 'other'] as const
const options = (now: () => number) => ({ now, defaults: DEFAULTS })
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
async function settled(): Promise<void> {
  for (let i = 0; i < 60; i++) await turn()
}

function guidOf(uid: number): Uint8Array {
  const guid = new Uint8Array(16)
  new DataView(guid.buffer).setUint32(4, uid)
  return guid
}
/** Messages 1 … count, but for those that were expunged. */
function viewOf(count: number, expunged: ReadonlySet<number> = new Set()): TableView {
  const uids = Array.from({ length: count }, (_, i) => i + 1).filter((uid) => !expunged.has(uid))
  const guid: FixedColumn = { bytes: 16, number: () => 0, value: (row) => guidOf(uids[row]!) }
  return {
    count: uids.length,
    uidNext: count + 1,
    uid: (row: number) => uids[row]!,
    rowOf: (uid: number) => uids.indexOf(uid),
    rowsBelow: (uid: number) => uids.filter((one) => one < uid).length,
    extension: (name: string) => (name === 'guid' ? guid : undefined),
  } as unknown as TableView
}
const valueOf = (uid: number, name: string, bytes = 0): Buffer => Buffer.from(`${name} ${uid} ${'v'.repeat(bytes)}`)
function entry(uid: number, bytes = 0): CacheEntry {
  return { uid, guid: guidOf(uid), fields: NAMES.map((name) => [name, valueOf(uid, name, bytes)]) }
}

/** What the newest record of each message in the file has. */
async function kept(fs: Fs): Promise<Map<number, string[]>> {
  const found = new Map<number, string[]>()
  if ((await fs.stat(path)) === undefined) return found
  const bytes = Buffer.from(await fs.readFile(path))
  for (let at = 0; at < bytes.length; ) {
    const length = recordAt(bytes, at, bytes.length, seed)
    if (length <= 0) throw new Error(`no record at ${at}`)
    const record = decodeRecord(bytes, at, seed)!
    const names = NAMES.filter((name) => record.fields.some(({ key }) => key === fieldKey(name)))
    if (record.uid !== 0 && record.uid !== 0xffff_ffff) found.set(record.uid, names)
    at += length
  }
  return found
}
function decisionsOf(cache: TableCache): Record<string, CacheDecision> {
  return Object.fromEntries(cache.fields().map(({ name, decision }) => [name, decision]))
}

/** How decisions are meant, day by day and without a thought of cost. */
class Model {
  day = 20_000
  uidNext = 1
  fields = new Map<string, { decision: CacheDecision; forced: boolean; idle: number }>(
    Object.entries(DEFAULTS).map(([name, decision]) => [name, { decision, forced: false, idle: 0 }]),
  )
  seen: { day: number; uidNext: number }[] = []

  sleep(days: number): void {
    for (let i = 0; i < days; i++) {
      this.day++
      for (const field of this.fields.values()) {
        field.idle++
        if (field.forced) continue
        if (field.idle >= 30 && field.decision === 'yes') field.decision = 'temp'
        if (field.idle >= 60) field.decision = 'no'
      }
    }
  }
  isOld(uid: number): boolean {
    return this.seen.some((seen) => seen.day <= this.day - 7 && uid < seen.uidNext)
  }
  know(name: string): { decision: CacheDecision; forced: boolean; idle: number } {
    let field = this.fields.get(name)
    if (field === undefined) {
      field = { decision: 'temp', forced: false, idle: 0 }
      this.fields.set(name, field)
    }
    return field
  }
  ask(name: string, uid: number | undefined): void {
    if (!this.seen.some(({ day }) => day === this.day)) this.seen.push({ day: this.day, uidNext: this.uidNext })
    const field = this.know(name)
    field.idle = 0
    if (field.forced) return
    if (field.decision === 'no') field.decision = 'temp'
    if (uid !== undefined && this.isOld(uid)) field.decision = 'yes'
  }
  force(name: string, decision: CacheDecision | undefined): void {
    const field = this.know(name)
    if (decision !== undefined) field.decision = decision
    field.forced = decision !== undefined
    field.idle = 0
  }
  keeps(uid: number): string[] {
    return NAMES.filter((name) => {
      const { decision } = this.know(name)
      return decision === 'yes' || (decision === 'temp' && !this.isOld(uid))
    })
  }
}

type Command = readonly [kind: string, name: (typeof NAMES)[number], n: number]
const names = fc.constantFrom(...NAMES)
const commands: fc.Arbitrary<Command[]> = fc.array(
  fc.oneof(
    { weight: 4, arbitrary: fc.tuple(fc.constantFrom('sleep'), names, fc.constantFrom(1, 2, 6, 7, 8, 29, 30, 31, 60)) },
    { weight: 4, arbitrary: fc.tuple(fc.constantFrom('save', 'save', 'recompute', 'reopen'), names, fc.nat()) },
    { weight: 8, arbitrary: fc.tuple(fc.constantFrom('ask', 'ask', 'ask', 'force', 'open'), names, fc.nat()) },
  ),
  { minLength: 5, maxLength: 40 },
)

describe('decisions of a cache', () => {
  let steps = 0
  let states = 0
  afterAll(() => console.log(`cache decisions: ${steps} steps as the model has them, ${states} crash states`))

  test('they follow the model, whoever asks, saves, sleeps and opens again', async () => {
    await fc.assert(
      fc.asyncProperty(commands, async (list) => {
        const fs = memoryFs()
        const model = new Model()
        const now = (): number => model.day * DAY_MS + 1234
        let cache = await openCacheFile(fs, '', TABLE, options(now))
        const write = (uid: number): void => {
          cache.write([entry(uid)])
          for (const name of NAMES) model.know(name)
        }
        // The file is made with the first record; before, decisions are only in memory.
        write(model.uidNext++)
        await settled()
        const expected = new Map([[1, model.keeps(1)]])
        for (const [kind, name, n] of list) {
          steps++
          const uid = (n % (model.uidNext - 1)) + 1
          if (kind === 'sleep') model.sleep(n)
          else if (kind === 'save' || kind === 'recompute') {
            const which = kind === 'save' ? model.uidNext++ : uid
            write(which)
            if (model.keeps(which).length > 0) expected.set(which, model.keeps(which))
          } else if (kind === 'open' || kind === 'ask') {
            const column = cache.column(viewOf(model.uidNext - 1), name)
            const value = kind === 'ask' ? column.value(uid - 1) : undefined
            if (value !== undefined) expect(Buffer.from(value).equals(valueOf(uid, name))).toBe(true)
            if (kind === 'ask') expect(value !== undefined).toBe(expected.get(uid)?.includes(name) ?? false)
            model.ask(name, kind === 'ask' ? uid : undefined)
          } else if (kind === 'force') {
            const decision = (['no', 'temp', 'yes', undefined] as const)[n % 4]
            cache.force(name, decision)
            model.force(name, decision)
          } else {
            await cache[Symbol.asyncDispose]()
            cache = await openCacheFile(fs, '', TABLE, options(now))
          }
          const decisions = Object.fromEntries([...model.fields].map(([field, { decision }]) => [field, decision]))
          expect(decisionsOf(cache)).toEqual(decisions)
        }
        await cache[Symbol.asyncDispose]()
        expect(await kept(fs)).toEqual(expected)
      }),
      { numRuns: 60 * times },
    )
  })

  test('asking costs no write: one a day at most, whatever is asked', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    try {
      let day = 20_000
      let appends = 0
      const inner = memoryFs()
      const fs = counting(inner, (name) => {
        if (name === 'appendSync') appends++
      })
      await using cache = await openCacheFile(
        fs,
        '',
        TABLE,
        options(() => day * DAY_MS),
      )
      for (let uid = 1; uid <= 50; uid++) cache.write([entry(uid)])
      await settled()
      const view = viewOf(50)
      for (; day < 20_020; day++) {
        appends = 0
        for (let i = 0; i < 100; i++) for (const name of NAMES) cache.column(view, name).value(i % 50)
        expect(appends).toBe(0)
        vi.advanceTimersByTime(60_000)
        expect(appends).toBe(1)
      }
    } finally {
      vi.useRealTimers()
    }
  })

  test('who only delivers knows them after one small read, however long the file is', async () => {
    const inner = memoryFs()
    const now = (): number => 20_000 * DAY_MS
    {
      await using cache = await openCacheFile(inner, '', TABLE, options(now))
      cache.force('always', 'no')
      for (let uid = 1; uid <= 3000; uid++) {
        cache.write([entry(uid, 300)])
        if (uid % 10 === 0) await turn()
      }
    }
    expect((await inner.stat(path))!.size).toBeGreaterThan(1_000_000)
    let bytes = 0
    const fs = counting(inner, (name, result) => {
      if (name === 'readSync') bytes += result as number
    })
    await using cold = await openCacheFile(fs, '', TABLE, options(now))
    expect(cold.decision('always')).toBe('no')
    expect(cold.decision('recent')).toBe('temp')
    expect(bytes).toBeLessThanOrEqual(64 * 1024)
    // And somebody else's are taken in.
    await using other = await openCacheFile(inner, '', TABLE, options(now))
    other.force('never', 'yes')
    other.write([entry(3001, 300)])
    await settled()
    cold.write([entry(3002, 300)])
    await settled()
    expect(cold.decision('never')).toBe('yes')
  })

  test('a compaction keeps exactly what they keep, and is due when enough is kept no longer', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom<CacheDecision>('no', 'temp', 'yes'), { minLength: 4, maxLength: 4 }),
        fc.uniqueArray(fc.integer({ min: 1, max: 300 }), { maxLength: 100 }),
        async (decided, gone) => {
          let day = 20_000
          const fs = memoryFs()
          const expunged = new Set(gone)
          await using cache = await openCacheFile(
            fs,
            '',
            TABLE,
            options(() => day * DAY_MS),
          )
          for (const name of NAMES) cache.force(name, 'yes')
          const write = async (from: number, to: number): Promise<void> => {
            for (let uid = from; uid <= to; uid++) cache.write([entry(uid, 500)])
            await settled()
          }
          await write(1, 200)
          cache.column(viewOf(200), 'always')
          day += 7
          await write(201, 300)
          for (const [i, name] of NAMES.entries()) cache.force(name, decided[i])
          const before = (await fs.stat(path))!.size
          const view = viewOf(300, expunged)
          const keeps = (i: number, uid: number): boolean =>
            decided[i] === 'yes' || (decided[i] === 'temp' && uid > 200)
          let wanted = 0
          const expected = new Map<number, string[]>()
          for (let uid = 1; uid <= 300; uid++) {
            const fields = NAMES.filter((_, i) => keeps(i, uid))
            if (!expunged.has(uid)) wanted += fields.length
            if (!expunged.has(uid) && fields.length > 0) expected.set(uid, fields)
          }
          cache.column(view, 'always')
          await settled()
          const after = (await fs.stat(path))!.size
          const share = wanted / (4 * 300)
          if (share < 0.45) expect(after).toBeLessThan(before)
          if (share > 0.55) expect(after).toBeGreaterThanOrEqual(before)
          if (after < before) expect(await kept(fs)).toEqual(expected)
          // What is left is what is served, here and after opening again.
          const readings = [
            cache,
            await openCacheFile(
              fs,
              '',
              TABLE,
              options(() => day * DAY_MS),
            ),
          ]
          for (const reading of readings)
            for (const [i, name] of NAMES.entries()) {
              const column = reading.column(view, name)
              for (let row = 0; row < view.count; row++) {
                const uid = view.uid(row)
                const value = column.value(row)
                if (value !== undefined) expect(valueOf(uid, name, 500).equals(value)).toBe(true)
                if (after < before) expect(value !== undefined).toBe(keeps(i, uid))
                else if (keeps(i, uid)) expect(value).toBeDefined()
              }
            }
          const sizes = (one: TableCache): unknown => one.fields().map(({ name, bytes }) => [name, bytes])
          expect(sizes(readings[1]!)).toEqual(sizes(cache))
          await readings[1]![Symbol.asyncDispose]()
        },
      ),
      { numRuns: 12 * times },
    )
  })

  test('a file never grows beyond its limit, and what is new is kept all the same', async () => {
    const fs = memoryFs()
    const bytesMax = 400_000
    await using cache = await openCacheFile(fs, '', TABLE, { ...options(() => 20_000 * DAY_MS), bytesMax })
    for (let round = 1; round <= 20; round++) {
      for (let uid = 100 * round - 99; uid <= 100 * round; uid++) cache.write([entry(uid, 300)])
      await settled()
      expect((await fs.stat(path))!.size).toBeLessThanOrEqual(bytesMax)
      cache.column(viewOf(100 * round), 'always')
      await settled()
      expect((await fs.stat(path))!.size).toBeLessThanOrEqual(bytesMax)
    }
    cache.write([entry(2001, 300)])
    await settled()
    expect(cache.column(viewOf(2001), 'always').value(2000)).toBeDefined()
  })

  test.each(['posix-minimum', 'ext4-ordered'] as const)(
    'wherever power fails (%s), what is left is served or absent, never wrong, and decisions are some that were made',
    async (profile) => {
      let day = 20_000
      const now = (): number => day * DAY_MS
      const kinds = new Set<string>()
      const reached: { state: CrashState; day: number }[] = []
      const onChange = (disk: CrashableFs): void => {
        for (const state of disk.states({ seed: reached.length, maxStates: times > 1 ? 40 : 6 }))
          reached.push({ state, day })
      }
      {
        const disk = crashableFs({ profile, onChange })
        await using cache = await openCacheFile(disk, '', TABLE, options(now))
        const save = async (from: number, to: number): Promise<void> => {
          for (let uid = from; uid <= to; uid++) {
            cache.write([entry(uid, 500)])
            if (uid % 40 === 0) await turn()
          }
          await settled()
        }
        await save(1, 150)
        cache.column(viewOf(150), 'recent').value(3)
        cache.force('other', 'yes')
        day += 8
        cache.column(viewOf(150), 'recent').value(3)
        cache.force('always', 'no')
        await save(151, 200)
        cache.force('other', 'no')
        // Due: half of the messages, and most of the fields.
        const expunged = new Set(Array.from({ length: 110 }, (_, i) => i + 1))
        cache.column(viewOf(200, expunged), 'never')
        cache.write([entry(201, 500)])
        await settled()
        expect((await disk.stat(path))!.size).toBeLessThan(200_000)
      }
      const view = viewOf(201)
      for (const { state, day: then } of reached) {
        states++
        await using disk = state.open()
        day = then
        const found: string[] = []
        await checkCacheFile(disk, path, TABLE, (severity, kind) => found.push(`${severity} ${kind}`), {
          tailWaitMs: 0,
        })
        // Where a file that grew may end in whatever the disk held before, nobody can tell that from damage.
        const garbage = profile === 'posix-minimum' ? 'damage cache-record' : ''
        expect(found.filter((one) => one.startsWith('damage') && one !== garbage)).toEqual([])
        await using cache = await openCacheFile(disk, '', TABLE, options(now))
        kinds.add(`${JSON.stringify(decisionsOf(cache))}`)
        for (const name of NAMES) {
          const column = cache.column(view, name)
          for (let row = 0; row < 201; row++) {
            const value = column.value(row)
            if (value !== undefined && !valueOf(row + 1, name, 500).equals(value))
              throw new Error(`UID ${row + 1} has the wrong ${name}`)
          }
        }
        // It can be used as before, but for what is appended into a record that was torn.
        cache.force('always', 'yes')
        for (let i = 0; i < 2; i++) {
          cache.write([entry(202, 1000)])
          await settled()
        }
        const again = cache.column(viewOf(202), 'always').value(201)
        expect(again !== undefined && valueOf(202, 'always', 1000).equals(again)).toBe(true)
      }
      for (const kind of kinds) {
        const decisions = JSON.parse(kind) as Record<string, CacheDecision>
        expect(['yes', 'no']).toContain(decisions['always'])
        expect(['temp', 'yes']).toContain(decisions['recent'])
      }
    },
  )

  test('a compaction that fails leaves everything as it is, and is tried again after an hour', async () => {
    let ms = 20_000 * DAY_MS
    let tried = 0
    let fails = true
    const inner = memoryFs()
    const fs: Fs = {
      ...inner,
      rename: async (from, to) => {
        tried++
        if (fails) throw new FsError('FS_NO_SPACE', 'the disk is full')
        await inner.rename(from, to)
      },
    }
    await using cache = await openCacheFile(
      fs,
      '',
      TABLE,
      options(() => ms),
    )
    for (let uid = 1; uid <= 300; uid++) cache.write([entry(uid, 500)])
    await settled()
    const view = viewOf(300, new Set(Array.from({ length: 200 }, (_, i) => i + 1)))
    for (let i = 0; i < 5; i++) {
      expect(cache.column(view, 'always').value(7)?.length).toBe(valueOf(208, 'always', 500).length)
      await settled()
    }
    expect(tried).toBe(1)
    expect(await inner.stat(`${path}.new`)).toBeUndefined()
    fails = false
    ms += 3_600_000
    cache.column(view, 'always')
    await settled()
    expect(tried).toBe(2)
    expect((await kept(inner)).size).toBe(100)
    expect(cache.column(view, 'always').value(7)?.length).toBe(valueOf(208, 'always', 500).length)
  })

  test('without a file they are decided all the same', async () => {
    const down = (): never => {
      throw new FsError('FS_UNAVAILABLE', 'not mounted')
    }
    const fs: Fs = { ...memoryFs(), stat: async () => down(), open: async () => down() }
    await using cache = await openCacheFile(
      fs,
      '',
      TABLE,
      options(() => 20_000 * DAY_MS),
    )
    cache.column(viewOf(3), 'never')
    cache.force('always', 'no')
    expect(decisionsOf(cache)).toEqual({ always: 'no', recent: 'temp', never: 'temp' })
  })
})

function counting(fs: Fs, onCall: (name: string, result: unknown) => void): Fs {
  const wrap = (file: FsFile): FsFile =>
    new Proxy(file, {
      get(target, name) {
        const member = Reflect.get(target, name, target) as unknown
        if (typeof member !== 'function') return member
        return (...parameters: unknown[]): unknown => {
          const result: unknown = Reflect.apply(member, target, parameters)
          onCall(String(name), result)
          return result
        }
      },
    })
  return { ...fs, open: async (...args) => wrap(await fs.open(...args)) }
}

describe('decisions in a file', () => {
  const decided: fc.Arbitrary<Decided> = fc.record({
    dropped: fc.nat(),
    marks: fc
      .uniqueArray(fc.nat({ max: 1e6 }), { maxLength: 8 })
      .map((days) => days.sort((a, b) => a - b).map((day) => ({ day, uid: day * 3 }))),
    fields: fc
      .uniqueArray(
        fc.string({ unit: 'binary', maxLength: 16 }).filter((s) => s.isWellFormed()),
        { maxLength: 20 },
      )
      .chain((list) =>
        fc.tuple(
          fc.constant(list),
          fc.array(
            fc.record({
              decision: fc.constantFrom<CacheDecision>('no', 'temp', 'yes'),
              forced: fc.boolean(),
              usedDay: fc.nat(),
            }),
            { minLength: list.length, maxLength: list.length },
          ),
        ),
      )
      .map(([list, fields]) => new Map(list.map((name, i) => [name, fields[i]!]))),
  })
  test('what is written is read, a cut is not, and other bytes never fail', () => {
    fc.assert(
      fc.property(decided, fc.nat(), fc.uint8Array({ maxLength: 80 }), (one, n, bytes) => {
        const written = encodeDecisions(one)
        expect(decodeDecisions(written)).toEqual(one)
        expect(decodeDecisions(written.subarray(0, n % written.length))).toBeUndefined()
        decodeDecisions(bytes)
      }),
      { numRuns: 100 * times },
    )
  })
  test('only so many fields are remembered, those used last or forced', () => {
    let day = 20_000
    const decisions = new CacheDecisions({ defaults: {}, now: () => day * DAY_MS })
    decisions.force('forced', 'no')
    for (let i = 0; i < 3 * DECISIONS_MAX; i++, day++) decisions.use(`f${i}`, 1)
    const left = [...decisions].map(([name]) => name)
    expect(left).toHaveLength(DECISIONS_MAX)
    expect(left).toContain('forced')
    expect(left).toContain(`f${3 * DECISIONS_MAX - 1}`)
    expect(ownField(Buffer.alloc(100), DECISIONS_KEY, seed)).toBeUndefined()
  })
})
