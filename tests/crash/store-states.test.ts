/**
 * Every disk that a power cut could leave of a store at work: index, messages, caches and all that names them, whatever of it
 * was not flushed kept, lost or torn. Each is opened: what was acknowledged is there, nothing is half there, no UID is given
 * twice, bytes are equal, `check` finds nothing, and a second opening writes nothing. So are disks on which the power goes
 * again while the first opening puts things right.
 *
 * A disk, and a store, that break their promises are planted: the judge must notice each.
 */
import type { Fs } from '@mailstead/fs'
import { type CrashableFs, type CrashableFsOptions, type CrashProfile, failNth, faultyFs } from '@mailstead/fs/faults'
import { describe, expect, test } from 'vitest'
import { runSeed, say } from '../support/depth.ts'
import { FAILURES, type Judged, judged, SEEDS, STATES_MAX, tell, withFiles, worked } from './store-work.ts'

const SEED = runSeed()
const profile: CrashProfile = 'posix-minimum'

describe.each([
  ['on a disk that promises the minimum', { profile: 'posix-minimum' }],
  ['on a disk that keeps order', { profile: 'ext4-ordered' }],
  // UIDNEXT and HIGHESTMODSEQ never go back, though the flags may.
  ['where flag changes are lazy', { profile: 'posix-minimum', lazyFlags: true }],
] as const)('whatever a power cut leaves, %s,', (what, options) => {
  test('is a store with everything that was acknowledged, and nothing half done', async () => {
    for (let seed = SEED; seed < SEED + SEEDS; seed++) {
      const maxStates = 'lazyFlags' in options ? Math.ceil(STATES_MAX / 2) : STATES_MAX
      const found = await judged(await worked(options), { seed, enough: 5, maxStates })
      tell(`${what}, seed ${seed}`, found)
      expect(found.wrong).toEqual([])
    }
  })
})

test('where the disk fails once, what was refused has not happened, and the power may go at any time', async () => {
  const totals: Judged = { counts: new Map(), again: 0, wrong: [] }
  let refused = 0
  let failures = 0
  for (const operation of ['sync', 'append', 'syncDirectory', 'write', 'rename', 'writeFile'] as const)
    for (let n = 1; n <= FAILURES / 6; n++) {
      // One of them all, another in each run.
      const nth = 1 + ((SEED + n * 7) % (operation === 'sync' || operation === 'append' ? 30 : 5))
      const plan = failNth({ operation, nth, fault: 'FS_IO' })
      const run = await worked({ profile }, (disk) => faultyFs(disk, plan))
      failures += plan.fired.length
      refused += run.refused
      const found = await judged(run, { seed: SEED, enough: 3, maxStates: 1 })
      for (const [step, count] of found.counts) totals.counts.set(step, (totals.counts.get(step) ?? 0) + count)
      totals.again += found.again
      expect(found.wrong, `${operation} ${nth}`).toEqual([])
    }
  tell(`${failures} failures, ${refused} steps refused`, totals)
})

const planted: readonly (readonly [string, CrashableFsOptions, (disk: CrashableFs) => Fs])[] = [
  [
    'a disk that does not flush the log',
    { lies: (op, path) => op === 'sync' && path.endsWith('.log') },
    (disk) => disk,
  ],
  [
    'a disk that does not flush messages',
    { lies: (op, path) => op === 'sync' && path.includes('storage/m.') },
    (disk) => disk,
  ],
  [
    'a directory of messages that is not flushed',
    { lies: (op, path) => op === 'syncDirectory' && path === 'storage' },
    (disk) => disk,
  ],
  [
    'a frame that is written before the bytes it names are flushed',
    {},
    (disk) =>
      withFiles(disk, (file) =>
        file.path.includes('storage/m.')
          ? {
              sync: () => {
                // Soon, but who asked does not wait for it.
                setTimeout(() => void file.sync().catch(() => {}), 5)
                return Promise.resolve()
              },
            }
          : {},
      ),
  ],
  [
    'a flush that failed and is asked for again as if it had not',
    {},
    (disk) => {
      const failing = faultyFs(disk, failNth({ operation: 'sync', nth: 4, path: /\.log$/, fault: 'FS_IO' }))
      return withFiles(failing, (file) => ({ sync: () => file.sync().catch(() => file.sync().catch(() => {})) }))
    },
  ],
]

describe('the judge notices', () => {
  test.each(planted)('%s', async (_, options, wrap) => {
    const found = await judged(await worked({ profile, ...options }, wrap), { seed: SEED, enough: 1 })
    const states = [...found.counts.values()].reduce((sum, count) => sum + count, 0)
    say(
      `store states, planted: ${found.wrong.length === 0 ? 'not noticed' : 'noticed'} after ${states} disks: ${found.wrong[0]?.slice(0, 300)}`,
    )
    expect(found.wrong).not.toEqual([])
  })
})
