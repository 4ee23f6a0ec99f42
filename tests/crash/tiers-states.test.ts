/**
 * As store-states.test.ts, for a store of two tiers, compressed, whose files are soon full: messages go to the second tier and come
 * back, and both are purged within a budget. Once the power is back, what was under way can be done again: all of it, and once.
 */
import type { Fs } from '@mailstead/fs'
import { type CrashableFs, type CrashableFsOptions, failNth, faultyFs } from '@mailstead/fs/faults'
import { beforeEach, describe, expect, test } from 'vitest'
import { depth, runSeed, say } from '../support/depth.ts'
import { useBox } from './store-states.ts'
import { FAILURES, type Judged, judged, SEEDS, STATES_MAX, tell, withFiles, worked } from './store-work.ts'
import { newCounts, type TierFormat, tiered, tieredBox } from './tiers.ts'

const SEED = runSeed()
const STATES_EACH = depth() === 'normal' ? 1 : Math.ceil(STATES_MAX / 8)
const SEEDS_EACH = Math.ceil(SEEDS / 2)
const FAILURES_EACH = depth() === 'soak' ? FAILURES : 1
/** What only this store does. */
const TIERS = /altmove|purge/
const OPERATIONS = ['sync', 'append', 'syncDirectory', 'remove', 'writeFile'] as const

const FORMATS = ['mdbox', 'sdbox'] as const
beforeEach(() => useBox(tieredBox('mdbox')))

describe.each([
  ['on a disk that promises the minimum', { profile: 'posix-minimum' }] as const,
  ...(depth() === 'normal' ? [] : [['on a disk that keeps order', { profile: 'ext4-ordered' }] as const]),
])('whatever a power cut leaves of two tiers, %s,', (what, options) => {
  test.each(FORMATS)('of an %s, has everything that was acknowledged, and is moved and purged once', async (format) => {
    useBox(tieredBox(format))
    for (let seed = SEED; seed < SEED + SEEDS_EACH; seed++) {
      const counts = newCounts()
      const run = await worked({ ...options, workload: tiered(counts) })
      const found = await judged(run, { seed, enough: 5, maxStates: STATES_EACH })
      tell(`two tiers of ${format}, ${what}, seed ${seed}, ${JSON.stringify(counts)}`, found)
      expect(found.wrong).toEqual([])
      for (const [name, count] of Object.entries(counts)) expect(count, name).toBeGreaterThan(0)
    }
  })
})

test.each(FORMATS)(
  'where the disk fails once, nothing acknowledged of an %s is lost, whatever was to be moved or purged',
  async (format) => {
    useBox(tieredBox(format))
    const totals: Judged = { counts: new Map(), again: 0, wrong: [] }
    let failures = 0
    let refused = 0
    for (const [at, operation] of OPERATIONS.entries()) {
      // One of them in a normal run, another in the next.
      if (depth() === 'normal' && (at + SEED) % OPERATIONS.length !== 0) continue
      for (let n = 0; n < FAILURES_EACH; n++) {
        const plan = failNth({
          operation,
          nth: 1 + ((SEED + n * 5) % 12),
          path: /^(?:storage|alternate)/,
          fault: 'FS_IO',
        })
        const run = await worked({ profile: 'posix-minimum', workload: tiered(newCounts()) }, (disk) =>
          faultyFs(disk, plan),
        )
        failures += plan.fired.length
        refused += run.refused
        const found = await judged(run, {
          seed: SEED,
          enough: 3,
          maxStates: 1,
          steps: TIERS,
        })
        for (const [step, count] of found.counts) totals.counts.set(step, (totals.counts.get(step) ?? 0) + count)
        totals.again += found.again
        expect(found.wrong, `${operation} ${n}`).toEqual([])
      }
    }
    tell(`two tiers of ${format}, ${failures} failures, ${refused} steps refused`, totals)
  },
)

interface Planted {
  readonly what: string
  readonly format?: TierFormat
  readonly options?: CrashableFsOptions
  readonly wrap?: (disk: CrashableFs) => Fs
}
const planted: readonly Planted[] = [
  {
    what: 'an sdbox whose names in the second tier are not flushed',
    format: 'sdbox',
    options: { lies: (op, path) => op === 'syncDirectory' && path.startsWith('alternate/') },
  },
  {
    what: 'a second tier whose disk does not flush messages',
    options: { lies: (op, path) => op === 'sync' && path.startsWith('alternate/m.') },
  },
  {
    what: 'a second tier whose directory is not flushed',
    options: { lies: (op, path) => op === 'syncDirectory' && path === 'alternate' },
  },
  {
    what: 'a frame that is written before the bytes that were moved are flushed',
    wrap: (disk) =>
      withFiles(disk, (file) =>
        file.path.startsWith('alternate/m.')
          ? {
              sync: () => {
                setTimeout(() => void file.sync().catch(() => {}), 5)
                return Promise.resolve()
              },
            }
          : {},
      ),
  },
]

describe('of two tiers, the judge notices', () => {
  // One of them in a normal run, another in the next.
  test.each(planted.filter((_, at) => depth() !== 'normal' || (at + SEED) % planted.length === 0))(
    '$what',
    async ({ options, wrap, format = 'mdbox' }) => {
      useBox(tieredBox(format))
      const run = await worked({ profile: 'posix-minimum', ...options, workload: tiered(newCounts()) }, wrap)
      const found = await judged(run, { seed: SEED, enough: 1, steps: TIERS })
      const states = [...found.counts.values()].reduce((sum, count) => sum + count, 0)
      say(
        `two tiers, planted: ${found.wrong.length === 0 ? 'not noticed' : 'noticed'} after ${states} disks: ${found.wrong[0]?.slice(0, 300)}`,
      )
      expect(found.wrong).not.toEqual([])
    },
  )
})
