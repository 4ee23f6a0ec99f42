/**
 * Power cuts between and within the two logs: whatever one leaves, every acknowledged change of flags is there, of one that was
 * under way at most one flag set, the private one first, and no client that comes back misses what is there now.
 */
import { type CrashableFs, type CrashableFsOptions, crashableFs } from '@mailstead/fs/faults'
import { UidSet } from '@mailstead/uidset'
import { expect, test } from 'vitest'
import { depth, runSeed } from '../../../../tests/support/depth.ts'
import {
  createShared,
  KEYWORDS,
  MAILBOX,
  openHandle,
  randomChange,
  randomOf,
  randomUids,
  resync,
  sameSeen,
  type Seen,
  seenOf,
  type Snapshot,
  snapshotOf,
} from '../../test/private-world.ts'
import { parsePrivacyPolicy, type PrivacyPolicy } from './private-policy.ts'

// Absence is an answer that file systems give as an error: nobody reads where those came from.
Error.stackTraceLimit = 4

const STATES = depth() === 'soak' ? 1e9 : depth() === 'ci' ? 4_000 : 400
const STEPS = 14
const POLICY = parsePrivacyPolicy('shared \\Seen $p*') as PrivacyPolicy

interface Counts {
  states: number
  acknowledged: number
  under: number
  half: number
  resyncs: number
}

test('a power cut leaves at most one flag set of a change that was not acknowledged, and takes none that was', async () => {
  const first = runSeed()
  const counts: Counts = { states: 0, acknowledged: 0, under: 0, half: 0, resyncs: 0 }
  let seed = first
  for (; counts.states < STATES; seed++) {
    try {
      await run(seed, counts)
    } catch (error) {
      throw new Error(`MAILSTEAD_SEED=${seed}`, { cause: error })
    }
  }
  console.log(`power cuts of two logs: ${JSON.stringify(counts)} in ${seed - first} runs from seed ${first}`)
  expect(counts.half).toBeGreaterThan(0)
})

test("a disk that does not flush the user's own log is found out: the test can fail", async () => {
  const counts: Counts = { states: 0, acknowledged: 0, under: 0, half: 0, resyncs: 0 }
  const lies = (operation: string, path: string): boolean => operation === 'sync' && path.startsWith('ann/')
  await expect(run(1, counts, { lies })).rejects.toThrow()
  console.log(`power cuts of a disk that lies: found in state ${counts.states}`)
})

/** Moments of a run, and what may be seen after a power cut then. */
interface Moment {
  readonly tick: number
  /** When the change was acknowledged. */
  readonly end: number
  readonly before: Seen
  /** What was under way may have done: nothing, its private part, all. */
  readonly after: readonly Seen[]
  readonly snapshots: number
}

async function run(seed: number, counts: Counts, options: CrashableFsOptions = {}): Promise<void> {
  const random = randomOf(seed)
  const disk = crashableFs(options)
  const snapshots: Snapshot[] = []
  const moments: Moment[] = []
  {
    await using shared = await createShared(disk)
    const ann = await openHandle({ user: 'ann', sharedFs: disk, ownFs: disk, policy: POLICY })
    try {
      let uidNext = 1
      for (let step = 0; step < STEPS; step++) {
        const uids = [...seenOf(ann.overlay.view).keys()]
        if (step === 0 || random(5) === 0) {
          await using tx = shared.begin()
          for (let n = step === 0 ? 5 : 1; n > 0; n--) {
            const flags = random(4) === 0 ? 2 : 0
            tx.append(MAILBOX, { uid: uidNext++, flags, keywords: random(3) === 0 ? [KEYWORDS[3]!] : [] })
          }
          if (step > 0 && uids.length > 2 && random(2) === 0) tx.expunge(MAILBOX, UidSet.of(uids[0]!))
          await tx.commit()
          await ann.overlay.refresh()
        } else {
          const given = randomUids(random, uids)
          const change = random(3) === 0 ? { add: 10 } : randomChange(random)
          await ann.overlay.refresh()
          snapshots.push(snapshotOf(ann.overlay.view))
          const before = seenOf(ann.overlay.view)
          const tick = disk.tick
          await ann.overlay.changeFlags(given, change)
          const after = seenOf(ann.overlay.view)
          const possible = [halfOf(before, after), after]
          moments.push({ tick, end: disk.tick, before, after: possible, snapshots: snapshots.length })
        }
      }
    } finally {
      await ann[Symbol.asyncDispose]()
    }
  }
  for (const moment of moments)
    for (let tick = moment.tick; ; tick = Math.min(tick + 1 + random(3), moment.end)) {
      for (const state of disk.states({ seed: seed + tick, maxStates: 2 }, tick)) {
        counts.states++
        if (tick === moment.end) counts.acknowledged++
        const told = snapshots.slice(0, moment.snapshots)
        await judge(state.open(), moment, told, counts, { what: state.description, isDone: tick === moment.end })
      }
      if (tick === moment.end) break
    }
}

/** With the private part alone. */
function halfOf(before: Seen, after: Seen): Seen {
  const half = new Map<number, string>()
  for (const [uid, line] of before) half.set(uid, joined(line, after.get(uid)!))
  return half
}

/** Private flags of the second line, shared ones of the first. */
function joined(shared: string, own: string): string {
  const [sharedFlags, ...sharedNames] = shared.split(' ')
  const [ownFlags, ...ownNames] = own.split(' ')
  const flags = (Number(sharedFlags) & ~8) | (Number(ownFlags) & 8)
  const isPrivate = (name: string): boolean => name.startsWith('$p')
  const names = [...sharedNames.filter((name) => !isPrivate(name)), ...ownNames.filter(isPrivate)]
  return `${flags} ${names
    .filter((name) => name !== '')
    .sort((a, b) => (a < b ? -1 : 1))
    .join(' ')}`
}

async function judge(
  disk: CrashableFs,
  moment: Moment,
  snapshots: readonly Snapshot[],
  counts: Counts,
  description: { readonly what: string; readonly isDone: boolean },
): Promise<void> {
  await using ann = await openHandle({ user: 'ann', sharedFs: disk, ownFs: disk, policy: POLICY })
  const { overlay } = ann
  const seen = seenOf(overlay.view)
  const [half, after] = moment.after
  if (description.isDone) expect({ description, seen }).toEqual({ description, seen: after })
  else if (!sameSeen(seen, moment.before)) {
    counts.under++
    if (sameSeen(seen, half!) && !sameSeen(half!, after!)) counts.half++
    else if (!sameSeen(seen, after!)) expect({ description, seen }).toEqual({ description, seen: after })
  }
  const check = (): void => {
    const now = seenOf(overlay.view)
    for (const snapshot of snapshots) {
      counts.resyncs++
      const back = resync(snapshot, overlay).seen
      if (!sameSeen(back, now)) expect({ description, back }).toEqual({ description, back: now })
      expect(overlay.view.highestModSeq).toBeGreaterThanOrEqual(snapshot.modSeq)
    }
  }
  check()
  // What is done next is news to all of them too.
  await overlay.changeFlags(UidSet.of(...moment.before.keys()), { add: 8, addKeywords: ['$p1', '$s1'] })
  check()
}
