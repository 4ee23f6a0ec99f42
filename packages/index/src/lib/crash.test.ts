import { type CrashableFs, type CrashableFsOptions, type CrashState, crashableFs } from '@mailstead/fs/faults'
import { UidSet } from '@mailstead/uidset'
import { afterAll, expect, test } from 'vitest'
import { FLAG_FLAGGED, type Index, type IndexFinding } from './contract.ts'
import { openIndex } from './open-index.ts'
import { createBoxAndInbox } from '../../test/schema.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const rounds = depth === 'soak' ? 10_000 : depth === 'ci' ? 40 : 1
/** A failure names its seed. */
const firstSeed = Number(process.env['MAILSTEAD_SEED'] ?? 1)
/** States looked at of each position, and of how many of them one loses its power again while it is opened. */
const statesEach = 12
const secondEvery = 25
const counted = new Map<string, number>()
afterAll(() => {
  const steps = [...counted].map(([step, count]) => `${step} ${count}`).join(', ')
  console.log(`crash states: ${[...counted.values()].reduce((a, b) => a + b, 0)} (${steps})`)
})

interface Crash {
  readonly state: CrashState
  /** Messages acknowledged, expunged for good, and asked for; flags acknowledged as flushed; what was shown. */
  readonly acknowledged: ReadonlySet<number>
  readonly expunged: ReadonlySet<number>
  readonly asked: ReadonlySet<number>
  readonly expunging: ReadonlySet<number>
  readonly uidNext: number
  readonly highestModSeq: number
  readonly created: boolean
}

/** Every crash state of a workload of everything that writes, each opened again and asked. */
async function round(seed: number, lies: CrashableFsOptions['lies'] = () => false): Promise<void> {
  let state = seed
  const random = (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state >>> 8) % below
  }
  const crashes: Crash[] = []
  const acknowledged = new Set<number>()
  const asked = new Set<number>()
  const expunged = new Set<number>()
  const expunging = new Set<number>()
  const uidOf = new Map<number, number>()
  let index: Index | undefined
  let created = false
  let shown = { uidNext: 1, highestModSeq: 1 }
  const onChange = (now: CrashableFs): void => {
    const info = index?.info('inbox')
    if (info !== undefined)
      shown = {
        uidNext: Math.max(shown.uidNext, info.uidNext),
        highestModSeq: Math.max(shown.highestModSeq, info.highestModSeq),
      }
    const promised = {
      acknowledged: new Set(acknowledged),
      expunged: new Set(expunged),
      asked: new Set(asked),
      expunging: new Set(expunging),
      created,
      ...shown,
    }
    for (const state of now.states({ seed, maxStates: statesEach })) crashes.push({ state, ...promised })
  }
  const profile = seed % 4 === 0 ? 'ext4-ordered' : 'posix-minimum'
  const disk = crashableFs({ profile, lies, onChange })
  let next = 0
  const deliver = async (): Promise<void> => {
    const n = ++next
    asked.add(n)
    const tx = index!.begin()
    const ref = tx.append('box', { columns: { size: n } })
    const row = tx.append('inbox', { columns: { ref, guid: Buffer.alloc(16).fill(n) } })
    await tx.commit()
    uidOf.set(n, row.uid)
    acknowledged.add(n)
  }
  const options = { segmentBytes: 2500, checkpointBytes: 1 << 30 }
  for (let session = 0; session < 3; session++) {
    index = await openIndex(disk, 'store', { create: true, ...options })
    if (session === 0) {
      await using tx = index.begin()
      createBoxAndInbox(tx)
      await tx.commit()
      created = true
    }
    for (let step = 0; step < 7; step++) {
      switch (random(6)) {
        case 0:
        case 1:
          await deliver()
          break
        case 2:
          await Promise.all([deliver(), deliver(), deliver()])
          break
        case 3: {
          await using tx = index.begin()
          tx.changeFlags('inbox', UidSet.range(1, 100), { add: random(2) === 0 ? FLAG_FLAGGED : 1 << random(5) })
          await tx.commit({ durability: random(2) === 0 ? 'lazy' : 'flushed' })
          break
        }
        case 4: {
          const n = [...acknowledged][random(acknowledged.size)]
          if (n === undefined || expunged.has(n)) break
          expunging.add(n)
          await using tx = index.begin()
          tx.expunge('inbox', UidSet.of(uidOf.get(n)!))
          await tx.commit()
          expunged.add(n)
          break
        }
        default:
          await index.checkpoint()
      }
    }
    // Closed cleanly, or not.
    if (random(2) === 0) await index[Symbol.asyncDispose]()
    else await (index as Index & { abandon(): Promise<void> }).abandon()
  }
  await disk[Symbol.asyncDispose]()
  for (const [at, crash] of crashes.entries()) await judge(crash, seed, at % secondEvery === 0)
}

/** With `twice`, the power goes a second time while it is opened. */
async function judge(crash: Crash, seed: number, twice: boolean, before = ''): Promise<void> {
  const { state } = crash
  const step = state.after
    .replace(/store\//g, '')
    .replace(/[0-9]{16}/, 'segment')
    .replace(/ (@|to ).*/, '')
  const counter = before === '' ? step : 'while recovering'
  counted.set(counter, (counted.get(counter) ?? 0) + 1)
  const where = `seed ${seed}, ${before}${state.description}`
  if (!crash.created && !state.image().has('store/control')) return
  const during: CrashState[] = []
  let recovering = twice
  const onChange = (now: CrashableFs): void => {
    if (recovering) during.push(...now.states({ seed, maxStates: 2 }))
  }
  await using fs = state.open({ onChange })
  const events: string[] = []
  const index = await openIndex(fs, 'store', { onEvent: (event) => events.push(event.kind) })
  recovering = false
  for (const next of during) await judge({ ...crash, state: next }, seed, false, `${state.description}, then `)
  const info = index.info('inbox')
  if (info === undefined) {
    expect(crash.created, where).toBe(false)
    await index[Symbol.asyncDispose]()
    return
  }
  expect(info.uidNext, where).toBeGreaterThanOrEqual(crash.uidNext)
  expect(info.highestModSeq, where).toBeGreaterThanOrEqual(crash.highestModSeq)
  {
    await using inbox = (await index.open('inbox'))!
    const { view } = inbox
    const guid = view.extension('guid')!
    const found = new Set(Array.from({ length: view.count }, (_, row) => guid.value(row)[0]!))
    for (const n of crash.acknowledged)
      if (!crash.expunging.has(n)) expect(found.has(n), `${where}: message ${n}`).toBe(true)
    for (const n of found) {
      expect(crash.asked.has(n), where).toBe(true)
      expect(crash.expunged.has(n), `${where}: message ${n} was expunged`).toBe(false)
    }
    expect(found.size).toBe(view.count)
  }
  const damage: IndexFinding[] = []
  for await (const page of index.check()) damage.push(...page.filter((one) => one.severity === 'damage'))
  expect(damage, where).toEqual([])
  expect(
    events.filter((kind) => kind.includes('damaged')),
    where,
  ).toEqual([])
  // It goes on.
  const tx = index.begin()
  const row = tx.append('inbox', { columns: { guid: Buffer.alloc(16).fill(200) } })
  await tx.commit()
  expect(row.uid, where).toBeGreaterThanOrEqual(crash.uidNext)
  await index[Symbol.asyncDispose]()
  await using again = await openIndex(fs, 'store')
  expect(again.info('inbox')!.uidNext, where).toBe(row.uid + 1)
}

test('whatever a power cut leaves, everything acknowledged is there and nothing is half there', async () => {
  for (let seed = firstSeed; seed < firstSeed + rounds; seed++) await round(seed)
})

test('segments that are no longer needed go one after the other: a power cut leaves no gap', async () => {
  const states: CrashState[] = []
  const onChange = (now: CrashableFs): void => {
    if (now.volatile().some((what) => what.startsWith('remove '))) states.push(...now.states())
  }
  await using disk = crashableFs({ onChange })
  {
    await using index = await openIndex(disk, 'store', { create: true, segmentBytes: 1000, checkpointBytes: 1 << 30 })
    const created = index.begin()
    createBoxAndInbox(created)
    await created.commit()
    for (let checkpoint = 0; checkpoint < 3; checkpoint++) {
      for (let n = 0; n < 20; n++) {
        const tx = index.begin()
        tx.append('inbox', { columns: { guid: Buffer.alloc(16).fill(n) } })
        await tx.commit()
      }
      await index.checkpoint()
    }
  }
  expect(states.length).toBeGreaterThan(2)
  for (const state of states) {
    await using fs = state.open()
    await using index = await openIndex(fs, 'store')
    const found = (await Array.fromAsync(index.check())).flat().filter(({ severity }) => severity === 'damage')
    expect(found, state.description).toEqual([])
  }
})

test.each(['.log', 'control', '.snap'])('a disk that does not flush %s is caught', async (name) => {
  let caught = 0
  for (let seed = 1; seed <= 3 && caught === 0; seed++)
    await round(seed, (operation, path) => operation === 'sync' && path.endsWith(name)).catch(() => caught++)
  expect(caught).toBe(1)
})
