/**
 * Two users of one shared mailbox, one of them in two processes, in seeded order: each sees what the plain model says,
 * a client that comes back from any earlier state has what one has that stayed, and is told of nothing else; counters
 * come out without opening.
 */
import { memoryFs } from '@mailstead/fs/memory'
import type { TableView } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { expect, test } from 'vitest'
import { depth, runSeed } from '../../../../tests/support/depth.ts'
import {
  createShared,
  type Handle,
  KEY,
  KEYWORDS,
  MAILBOX,
  Model,
  openHandle,
  randomChange,
  randomOf,
  randomUids,
  resync,
  sameSeen,
  seenOf,
  type Snapshot,
  snapshotOf,
} from '../../test/private-world.ts'
import { parsePrivacyPolicy, type PrivacyPolicy } from './private-policy.ts'

const RUNS = depth() === 'soak' ? 1e9 : depth() === 'ci' ? 400 : 30
const STEPS = 40
const POLICIES: readonly string[] = [
  'shared \\Seen',
  'shared \\Seen $p*',
  'shared \\Seen \\Deleted consent:\\Deleted pThree initial:shared',
  'private $s* \\Flagged',
  'private shared:$p2 \\Answered initial:shared',
  'shared',
]

function policyOf(text: string): PrivacyPolicy {
  const policy = parsePrivacyPolicy(text)
  if ('fault' in policy) throw new Error(policy.fault)
  return policy
}

test('each user sees what the model says, and a client that comes back misses nothing and is told of nothing else', async () => {
  const counts = { steps: 0, resyncs: 0, told: 0, conditional: 0, statuses: 0, unknown: 0, synced: 0, forgotten: 0 }
  const first = runSeed()
  for (let seed = first; seed < first + RUNS; seed++) {
    try {
      await run(seed, counts)
    } catch (error) {
      throw new Error(`MAILSTEAD_SEED=${seed}`, { cause: error })
    }
  }
  console.log(`overlays against a model from seed ${first}: ${JSON.stringify(counts)}`)
  expect(counts.resyncs).toBeGreaterThan(RUNS * STEPS)
})

async function run(seed: number, counts: Record<string, number>): Promise<void> {
  const random = randomOf(seed)
  const policy = policyOf(POLICIES[seed % POLICIES.length]!)
  const fs = memoryFs()
  await using shared = await createShared(fs)
  await using mailbox = (await shared.open(MAILBOX))!
  const model = new Model(policy, ['ann', 'bob'])
  const open = (user: string): Promise<Handle> => openHandle({ user, sharedFs: fs, ownFs: fs, policy })
  await using handles = new AsyncDisposableStack()
  const all = [handles.use(await open('ann')), handles.use(await open('ann')), handles.use(await open('bob'))]
  const snapshots: (Snapshot & { readonly user: string })[] = []
  let uidNext = 1
  for (let step = 0; step < STEPS; step++) {
    counts['steps']!++
    const uids = [...model.messages.keys()]
    const handle = all[random(all.length)]!
    const kind = random(12)
    if (kind < 2 || uids.length === 0) {
      await using tx = shared.begin()
      for (let n = 1 + random(4); n > 0; n--) {
        uidNext += random(3) === 0 ? random(3) : 0
        const flags = random(3) === 0 ? random(32) : 0
        const keywords = random(4) === 0 ? [KEYWORDS[random(KEYWORDS.length)]!] : []
        tx.append(MAILBOX, { uid: uidNext, flags, keywords })
        model.append(uidNext++, flags, keywords)
      }
      await tx.commit()
    } else if (kind === 2) {
      const gone = randomUids(random, uids)
      await using tx = shared.begin()
      tx.expunge(MAILBOX, random(3) === 0 ? gone : UidSet.of(gone.first))
      if (random(3) === 0) tx.raise(MAILBOX, { uidNext: (uidNext += 2) })
      await tx.commit()
      model.expunge(uids.filter((uid) => mailbox.view.rowOf(uid) < 0))
    } else if (kind === 3) {
      await handle.overlay.sync()
      if (model.own.has(handle.user)) model.takeIn(handle.user)
      counts['synced']!++
    } else if (kind === 4 && snapshots.length > 0) {
      // Conditional: what changed since a state that some client had is left alone.
      const given = randomUids(random, uids)
      const change = randomChange(random)
      const { modSeq } = snapshots[random(snapshots.length)]!
      await handle.overlay.refresh()
      const { view } = handle.overlay
      const old = [...given].filter((uid) => view.rowOf(uid) >= 0 && view.modSeq(view.rowOf(uid)) <= modSeq)
      const outcome = await handle.overlay.changeFlags(given, change, { unchangedSince: modSeq })
      expect([...outcome.changed]).toEqual(model.change(handle.user, old, change))
      expect([...outcome.failed]).toEqual([...given].filter((uid) => !old.includes(uid)))
      counts['conditional']!++
    } else if (kind === 5) {
      const given = randomUids(random, uids)
      const flags = random(32)
      const keywords = KEYWORDS.filter(() => random(3) === 0)
      await handle.overlay.assign([{ uids: given, flags, keywords }])
      const clock = model.clock++
      const own = keywords.filter((name) => model.rules.isPrivate(name))
      for (const uid of given) {
        if (!model.messages.has(uid)) continue
        const others = KEYWORDS.filter((name) => model.rules.isPrivate(name) && !own.includes(name))
        const { mask } = model.rules
        model.clock = clock
        model.change(handle.user, [uid], {
          add: flags & mask,
          remove: mask & ~flags,
          addKeywords: own,
          removeKeywords: others,
        })
      }
    } else if (kind === 6 && random(3) === 0) {
      await handle.overlay.forget()
      const own = model.own.get(handle.user)
      if (own !== undefined) {
        const marked = [...own].filter(([, { flags, keywords }]) => flags !== 0 || keywords.size > 0)
        const cleared = KEYWORDS.filter((name) => model.rules.isPrivate(name))
        model.takeIn(handle.user)
        for (const uid of model.change(
          handle.user,
          marked.map(([uid]) => uid),
          { remove: model.rules.mask, removeKeywords: cleared },
        ))
          expect(own.get(uid)).toEqual({ flags: 0, keywords: new Map() })
        counts['forgotten']! += marked.length
      }
    } else {
      const given = randomUids(random, uids)
      const change = randomChange(random)
      const outcome = await handle.overlay.changeFlags(given, change)
      const changed = model.change(handle.user, given, change)
      expect([...outcome.changed]).toEqual(changed)
      expect([...outcome.failed]).toEqual([...given].filter((uid) => !model.messages.has(uid)))
      const { view } = handle.overlay
      for (const uid of outcome.changed) expect(view.modSeq(view.rowOf(uid))).toBeLessThanOrEqual(outcome.modSeq)
      if (!outcome.changed.isEmpty) expect(view.highestModSeq).toBeGreaterThanOrEqual(outcome.modSeq)
    }
    // One who did not look: what it shows is some earlier moment, and a client of it may go away with that.
    const idle = all[random(all.length)]!
    snapshots.push({ ...snapshotOf(idle.overlay.view), user: idle.user })
    const looking = all[random(all.length)]!
    await looking.overlay.refresh()
    const { view } = looking.overlay
    const seen = seenOf(view)
    expect([...seen]).toEqual([...model.seen(looking.user)])
    checkCounters(view)
    for (const snapshot of snapshots) {
      if (snapshot.user !== looking.user) continue
      const back = resync(snapshot, looking.overlay)
      counts['resyncs']!++
      counts['told']! += back.told.length
      if (!sameSeen(back.seen, seen)) expect(back.seen).toEqual(seen)
      if (snapshot.clock !== undefined) expect(back.told).toEqual(model.changedSince(looking.user, snapshot.clock))
    }
    snapshots.push({ ...snapshotOf(view, model.clock), user: looking.user })
    await checkStatus(looking, policy, model, counts)
  }
}

function checkCounters(view: TableView): void {
  let unseen = 0
  let deleted = 0
  let highest = 0
  for (const { first, rows, uids } of view.chunks)
    for (let i = 0; i < rows; i++) expect(view.uid(first + i)).toBe(uids[i])
  for (let row = 0; row < view.count; row++) {
    if ((view.flags(row) & 8) === 0) unseen++
    if ((view.flags(row) & 4) !== 0) deleted++
    highest = Math.max(highest, view.modSeq(row))
  }
  expect([view.unseen, view.deleted]).toEqual([unseen, deleted])
  expect(view.highestModSeq).toBeGreaterThanOrEqual(highest)
}

/** From the counters of both indexes. Where they do not tell, they do once the mailbox was synced. */
async function checkStatus(
  handle: Handle,
  policy: PrivacyPolicy,
  model: Model,
  counts: Record<string, number>,
): Promise<void> {
  const { shared, flags, overlay, user } = handle
  let status = flags.status(KEY, shared.info(MAILBOX)!, policy)
  if (status === undefined) {
    counts['unknown']!++
    await overlay.sync()
    model.takeIn(user)
    status = flags.status(KEY, shared.info(MAILBOX)!, policy)
  }
  counts['statuses']!++
  const { unseen, deleted, highestModSeq } = overlay.view
  expect(status).toEqual({ unseen, deleted, highestModSeq })
}
