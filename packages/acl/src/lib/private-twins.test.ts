/**
 * Privacy: the same history twice, once with what one user does privately and once without. Everything another user can observe
 * is the same, to the byte: what he is shown, what he is told of, and every file of the shared store.
 */
import { createHash } from 'node:crypto'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import { expect, test } from 'vitest'
import { depth, runSeed } from '../../../../tests/support/depth.ts'
import {
  createShared,
  KEY,
  KEYWORDS,
  MAILBOX,
  openHandle,
  randomChange,
  randomOf,
  randomUids,
  seenOf,
} from '../../test/private-world.ts'
import { splitChange } from './overlay-change.ts'
import { parsePrivacyPolicy, type PrivacyPolicy } from './private-policy.ts'

const RUNS = depth() === 'soak' ? 1e9 : depth() === 'ci' ? 400 : 30
const STEPS = 40
const POLICIES: readonly string[] = ['shared \\Seen $p*', 'shared \\Seen initial:shared', 'private $s* \\Flagged']

/** Everything that the second user, and whoever reads the shared store's files, saw. */
async function history(seed: number, withPrivate: boolean): Promise<{ observed: string[]; own: number }> {
  const random = randomOf(seed)
  const policy = parsePrivacyPolicy(POLICIES[seed % POLICIES.length]!) as PrivacyPolicy
  const fs = memoryFs({ now: () => 1_700_000_000_000 })
  const observed: string[] = []
  let own = 0
  await using shared = await createShared(fs)
  await using ann = await openHandle({ user: 'ann', sharedFs: fs, ownFs: memoryFs(), policy })
  await using bob = await openHandle({ user: 'bob', sharedFs: fs, ownFs: memoryFs(), policy })
  let calls = 0
  using _watching = bob.overlay.watch(() => calls++)
  for (let step = 0; step < STEPS; step++) {
    const uids = [...seenOf(ann.overlay.view).keys()]
    const given = randomUids(random, uids)
    const change = randomChange(random)
    const kind = random(8)
    const flags = random(32)
    if (kind === 0 || uids.length === 0) {
      await using tx = shared.begin()
      tx.append(MAILBOX, { flags, keywords: [KEYWORDS[flags % KEYWORDS.length]!] })
      await tx.commit()
    } else if (kind === 1) {
      await using tx = shared.begin()
      tx.expunge(MAILBOX, UidSet.of(given.first))
      await tx.commit()
    } else if (kind === 2) {
      // What he does himself.
      const outcome = await bob.overlay.changeFlags(given, change)
      observed.push(`${String(outcome.changed)} ${String(outcome.failed)} ${outcome.modSeq}`)
    } else if (kind === 3) {
      if (withPrivate) await ann.overlay.assign([{ uids: given, flags, keywords: KEYWORDS.slice(0, 2) }])
    } else if (withPrivate) {
      const { changed } = await ann.overlay.changeFlags(given, change)
      own += changed.size
    } else await ann.overlay.changeFlags(given, splitChange(ann.overlay.rules, change, ann.overlay.view).shared)
    await ann.overlay.refresh()
    await bob.overlay.refresh()
    const { view } = bob.overlay
    observed.push(
      JSON.stringify([
        calls,
        view.count,
        view.unseen,
        view.deleted,
        view.uidNext,
        view.highestModSeq,
        view.digest,
        view.keywords,
        view.keywordSets,
        [...seenOf(view)],
        Array.from({ length: view.count }, (_, row) => view.modSeq(row)),
        String(bob.overlay.expungedSince(random(view.highestModSeq + 1))),
        bob.flags.status(KEY, bob.shared.info(MAILBOX)!, policy),
        bob.shared.tables,
      ]),
    )
  }
  observed.push(...(await filesOf(fs)))
  return { observed, own }
}

async function filesOf(fs: Fs, directory = 'shared'): Promise<string[]> {
  const files: string[] = []
  for await (const page of fs.list(directory))
    for (const { name, kind } of page) {
      const path = `${directory}/${name}`
      if (kind === 'directory') files.push(...(await filesOf(fs, path)))
      else
        files.push(
          `${path} ${createHash('sha256')
            .update(await fs.readFile(path))
            .digest('hex')}`,
        )
    }
  return files.sort((a, b) => (a < b ? -1 : 1))
}

test('what one user changes privately, another cannot observe, in what he is shown or in any file', async () => {
  const first = runSeed()
  let lines = 0
  let own = 0
  for (let seed = first; seed < first + RUNS; seed++) {
    const [one, other] = [await history(seed, true), await history(seed, false)]
    if (String(one.observed) !== String(other.observed)) expect({ seed, ...one }).toEqual({ seed, ...other })
    lines += one.observed.length
    own += one.own
  }
  console.log(
    `privacy: ${RUNS} histories twice from seed ${first}, ${lines} observations equal, ${own} flags set by the other`,
  )
  expect(own).toBeGreaterThan(RUNS)
})
