/**
 * As store-states.test.ts, for a store whose messages are in an sdbox: whatever a power cut leaves, every acknowledged message is
 * read under its reference; and once somebody writes again, the names on disk are those that the log says, no more and no less,
 * and tell without any index which message of which mailbox each file is.
 */
import type { BoxFormat } from '@mailstead/box'
import type { Fs } from '@mailstead/fs'
import { type CrashableFs, type CrashableFsOptions, failNth, faultyFs } from '@mailstead/fs/faults'
import { beforeEach, describe, expect, test } from 'vitest'
import { depth, runSeed, say } from '../support/depth.ts'
import { formatOf, namedBox, STORAGE } from './sdbox-named.ts'
import { useBox } from './store-states.ts'
import { FAILURES, type Judged, judged, SEEDS, STATES_MAX, tell, withFiles, worked } from './store-work.ts'

const SEED = runSeed()
/** Fewer than of other boxes in a normal run: what is the index's is judged there. */
const STATES_EACH = depth() === 'normal' ? 1 : Math.ceil(STATES_MAX / 2)
const FAILURES_EACH = depth() === 'normal' ? 1 : FAILURES / 6
const OPERATIONS = ['sync', 'append', 'syncDirectory', 'rename', 'link', 'writeFile'] as const

beforeEach(() => useBox(namedBox))

describe.each([
  ['on a disk that promises the minimum', { profile: 'posix-minimum' }] as const,
  ...(depth() === 'normal' ? [] : [['on a disk that keeps order', { profile: 'ext4-ordered' }] as const]),
])('whatever a power cut leaves of an sdbox, %s,', (what, options) => {
  test('is a store with everything that was acknowledged, whose names are finished', async () => {
    for (let seed = SEED; seed < SEED + SEEDS; seed++) {
      const found = await judged(await worked(options), { seed, enough: 5, maxStates: STATES_EACH })
      tell(`sdbox, ${what}, seed ${seed}`, found)
      expect(found.wrong).toEqual([])
    }
  })
})

test('where the disk fails once, nothing acknowledged is lost, and names are given later', async () => {
  const totals: Judged = { counts: new Map(), again: 0, wrong: [] }
  let failures = 0
  for (const [at, operation] of OPERATIONS.entries()) {
    // One of them in a normal run, another in the next.
    if (depth() === 'normal' && (at + SEED) % OPERATIONS.length !== 0) continue
    for (let n = 0; n < FAILURES_EACH; n++) {
      const plan = failNth({ operation, nth: 1 + ((SEED + n * 5) % 6), path: /^storage/, fault: 'FS_IO' })
      const run = await worked({ profile: 'posix-minimum' }, (disk) => faultyFs(disk, plan))
      failures += plan.fired.length
      const found = await judged(run, { seed: SEED, enough: 3, maxStates: 1 })
      for (const [step, count] of found.counts) totals.counts.set(step, (totals.counts.get(step) ?? 0) + count)
      totals.again += found.again
      expect(found.wrong, `${operation} ${n}`).toEqual([])
    }
  }
  tell(`sdbox, ${failures} failures`, totals)
})

/** A box that breaks its promise. */
function notingNothing(fs: Fs): BoxFormat {
  const format = formatOf(fs)
  return {
    ...format,
    open: async (host) => {
      const box = await format.open(host)
      const { naming } = box
      return new Proxy(box, {
        get(target, key) {
          if (key === 'naming' && naming !== undefined)
            return {
              begin: (tx: Parameters<typeof naming.begin>[0], mailboxes: Parameters<typeof naming.begin>[1]) =>
                naming.begin(
                  { append: tx.append.bind(tx), setColumn: tx.setColumn.bind(tx), setValue: () => {} },
                  mailboxes,
                ),
            }
          const value = Reflect.get(target, key, target) as unknown
          // No bound function: a stack of disposables takes none.
          return typeof value === 'function'
            ? (...rest: unknown[]): unknown => Reflect.apply(value, target, rest)
            : value
        },
      })
    },
  }
}

/** Renames in two steps. */
function withoutRename(disk: CrashableFs): Fs {
  return new Proxy(disk as Fs, {
    get(target, key) {
      if (key === 'rename')
        return async (from: string, to: string): Promise<void> => {
          if (!from.startsWith(STORAGE)) return target.rename(from, to)
          await target.link(from, to)
          await target.remove(from)
        }
      const value = Reflect.get(target, key, target) as unknown
      return typeof value === 'function' ? (value as (...rest: unknown[]) => unknown).bind(target) : value
    },
  })
}

interface Planted {
  readonly what: string
  readonly options?: CrashableFsOptions
  readonly wrap?: (disk: CrashableFs) => Fs
  readonly box?: (fs: Fs) => BoxFormat
  /** Where it shows. */
  readonly steps?: RegExp
}
const planted: readonly Planted[] = [
  {
    what: 'a disk that does not flush messages',
    options: { lies: (op, path) => op === 'sync' && path.startsWith('storage/unnamed/') },
  },
  {
    what: 'a directory of new messages that is not flushed',
    options: { lies: (op, path) => op === 'syncDirectory' && path === 'storage/unnamed' },
  },
  {
    what: 'a mailbox whose names are not flushed before others go',
    options: { lies: (op, path) => op === 'syncDirectory' && /^storage\/[0-9a-f]{32}$/.test(path) },
    steps: /^purge/,
  },
  {
    what: 'a frame that is written before the bytes it names are flushed',
    wrap: (disk) =>
      withFiles(disk, (file) =>
        file.path.startsWith('storage/unnamed/')
          ? {
              sync: () => {
                setTimeout(() => void file.sync().catch(() => {}), 5)
                return Promise.resolve()
              },
            }
          : {},
      ),
  },
  { what: 'a rename that is not whole', wrap: withoutRename },
  { what: 'names that nobody noted', box: notingNothing },
]

describe('of an sdbox, the judge notices', () => {
  test.each(planted)('$what', async ({ options, wrap, box = formatOf, steps }) => {
    useBox({ ...namedBox, box })
    const run = await worked({ profile: 'posix-minimum', ...options }, wrap)
    const found = await judged(run, { seed: SEED, enough: 1, ...(steps === undefined ? {} : { steps }) })
    const states = [...found.counts.values()].reduce((sum, count) => sum + count, 0)
    say(
      `sdbox states, planted: ${found.wrong.length === 0 ? 'not noticed' : 'noticed'} after ${states} disks: ${found.wrong[0]?.slice(0, 300)}`,
    )
    expect(found.wrong).not.toEqual([])
  })
})
