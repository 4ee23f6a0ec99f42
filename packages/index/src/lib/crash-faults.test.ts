import { FsError } from '@mailstead/fs'
import {
  type CrashableFs,
  crashableFs,
  everyFault,
  type Fault,
  type FaultRule,
  faultPlan,
  faultyFs,
  type PlannedFaults,
} from '@mailstead/fs/faults'
import { UidSet } from '@mailstead/uidset'
import { afterAll, describe, expect, test } from 'vitest'
import { FLAG_FLAGGED, type Index } from './contract.ts'
import { IndexError, type IndexErrorCode } from './error.ts'
import { openIndex } from './open-index.ts'
import { type Medium, mediumOptions } from '../../test/crash-workload.ts'
import { createBoxAndInbox } from '../../test/schema.ts'

const depth = process.env['MAILSTEAD_DEPTH']
/** Without a depth, every so manieth operation fails. */
const STRIDE = depth === undefined ? 17 : 1
const COMMITS = 8
const counted = { runs: 0, acknowledged: 0, crashed: 0 }
/** What commits were refused with, and opening and checkpoints, how often. */
const refusals = new Map<string, number>()
const failures = new Map<string, number>()
afterAll(() => {
  const list = (codes: ReadonlyMap<string, number>): string => [...codes].map(([code, n]) => `${n} ${code}`).join(', ')
  console.log(
    `faults: ${counted.runs} runs, ${counted.acknowledged} commits acknowledged, refused: ${list(refusals)}; of opening and checkpoints: ${list(failures)}; ${counted.crashed} power cuts after`,
  )
})

const settings = { segmentBytes: 700, checkpointBytes: 1 << 30, lockWaitMs: 1000 }

/** Appends a row to both tables, and says so in a value: all of it or nothing. */
async function deliver(index: Index, n: number): Promise<void> {
  await using tx = index.begin()
  const ref = tx.append('box', { columns: { size: n } })
  tx.append('inbox', { columns: { ref, guid: Buffer.alloc(16).fill(n) } })
  tx.setValue('inbox', `n${n}`, Uint8Array.of(n))
  await tx.commit()
}

/** What is delivered, from each of the places that know it. */
async function delivered(index: Index): Promise<number[]> {
  await using inbox = (await index.open('inbox'))!
  await using box = (await index.open('box'))!
  const { view } = inbox
  const guid = view.extension('guid')!
  const size = box.view.extension('size')!
  const found = Array.from({ length: view.count }, (_, row) => guid.value(row)[0]!)
  expect(Array.from({ length: box.view.count }, (_, row) => size.number(row))).toEqual(found)
  expect(new Set(view.values.keys())).toEqual(new Set(found.map((n) => `n${n}`)))
  return found
}

async function expectWhole(
  fs: CrashableFs,
  acknowledged: readonly number[],
  doubtful: ReadonlySet<number>,
): Promise<void> {
  const index = await openIndex(fs, 'store', settings)
  const found = await delivered(index)
  expect(found.filter((n) => !doubtful.has(n))).toEqual(acknowledged.filter((n) => !doubtful.has(n)))
  for await (const page of index.check()) expect(page.filter(({ severity }) => severity === 'damage')).toEqual([])
  await deliver(index, 200)
  expect(await delivered(index)).toEqual([...found, 200])
  await index[Symbol.asyncDispose]()
}

/** One run in which something fails, and then no longer does. */
async function run(plan: PlannedFaults, nth: number, medium: Medium): Promise<void> {
  counted.runs++
  const disk = crashableFs(mediumOptions(medium))
  let failing = true
  const fs = faultyFs(disk, { fail: (...asked) => (failing ? plan.fail(...asked) : undefined) })
  {
    const index = await openIndex(disk, 'store', { create: true, ...settings })
    const tx = index.begin()
    createBoxAndInbox(tx)
    await tx.commit()
    await index[Symbol.asyncDispose]()
  }
  const told = (codes: Map<string, number>, { code }: FsError | IndexError, cause?: FsError): void => {
    const why = cause === undefined ? code : `${code} for ${cause.code}`
    codes.set(why, (codes.get(why) ?? 0) + 1)
  }
  /** What a commit is refused with says what became of it, and its cause why. */
  const refused = (error: unknown, codes = refusals): IndexErrorCode => {
    if (!(error instanceof IndexError)) throw error
    expect(error.code).toMatch(/^INDEX_(WRITE_FAILED|UNCERTAIN)$/)
    expect(error.cause).toBeInstanceOf(FsError)
    told(codes, error, error.cause as FsError)
    return error.code
  }
  /** Whatever else is asked of an index passes on what the file system says. */
  const failed = (error: unknown): void => {
    if (error instanceof FsError) told(failures, error)
    else refused(error, failures)
  }
  let index: Index
  try {
    index = await openIndex(fs, 'store', settings)
  } catch (error) {
    failed(error)
    failing = false
    index = await openIndex(fs, 'store', settings)
  }
  const acknowledged: number[] = []
  const doubtful = new Set<number>()
  for (let n = 1; n <= COMMITS; n++) {
    try {
      await deliver(index, n)
      acknowledged.push(n)
      counted.acknowledged++
    } catch (error) {
      // Nobody knows of what is uncertain; of everything else it is known that it did not happen.
      if (refused(error) === 'INDEX_UNCERTAIN') doubtful.add(n)
      // There is space again, and what was there before can be read.
      failing = false
      const shown = await delivered(index)
      expect(shown.filter((one) => !doubtful.has(one))).toEqual(acknowledged)
      await deliver(index, 100 + n)
      acknowledged.push(100 + n)
    }
    if (n % 3 === 0) {
      try {
        await using tx = index.begin()
        tx.changeFlags('inbox', UidSet.of(1), { add: FLAG_FLAGGED, remove: n === 6 ? FLAG_FLAGGED : 0 })
        await tx.commit({ durability: 'lazy' })
      } catch (error) {
        refused(error)
        failing = false
      }
      try {
        await index.checkpoint()
      } catch (error) {
        failed(error)
        failing = false
      }
    }
  }
  counted.crashed++
  await expectWhole(disk.crash(nth), acknowledged, doubtful)
  // Closing never fails: what cannot be sealed is left open.
  await index[Symbol.asyncDispose]()
  failing = false
  await expectWhole(disk, acknowledged, doubtful)
}

const faults: readonly (readonly [string, Omit<FaultRule, 'nth'>])[] = [
  ...(['EIO', 'ENOSPC', 'EDQUOT', 'short'] as const satisfies readonly Fault[]).map(
    (fault) => [`${fault} once`, { fault, writing: fault !== 'EIO' }] as const,
  ),
  ...(['EIO', 'ENOSPC', 'EDQUOT'] as const).map(
    (fault) =>
      [`${fault} until there is space again`, { fault, writing: true, times: Number.POSITIVE_INFINITY }] as const,
  ),
]

describe.each(['file', 'objects'] as const)('a log in %s', (medium) => {
  test.each(faults)(
    '%s, at any operation: a commit is refused with a code and changes nothing, the next one is done',
    async (_, rule) => {
      let fired = 0
      if (STRIDE === 1) fired = await everyFault(rule, (plan, nth) => run(plan, nth, medium))
      else
        for (let nth = 1; ; nth += STRIDE) {
          const plan = faultPlan({ ...rule, nth })
          await run(plan, nth, medium)
          if (plan.fired.length === 0) break
          fired++
        }
      expect(fired).toBeGreaterThan(0)
    },
  )
})
