/**
 * Random histories of a store, and everything that was ever true of it: what a rebuild is judged by.
 *
 * A message says in its text what it is, so that whoever sees it knows which one it is.
 */
import type { Fs } from '@mailstead/fs'
import type { Store } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { below, seeded } from '../support/depth.ts'
import { importSome, type RandomSource } from './random-imports.ts'
import { deliver, hasTiers, openTest, OWNER, picture, type SeenMailbox } from './support.ts'

const KEYWORDS = ['Work', 'Later', '$Junk']

export interface History {
  readonly seed: number
  /** As it was when the store was closed for the last time. */
  readonly last: ReadonlyMap<string, SeenMailbox>
  /** As it was at the last checkpoint: what is left where the log is lost. */
  readonly checkpointed: ReadonlyMap<string, SeenMailbox>
  /** Texts of messages that no mailbox has any more, as the journal could know: expunged before the last close. */
  readonly expunged: ReadonlySet<string>
  /** `UIDVALIDITY UID` of every row there ever was, and the text it stood for. */
  readonly everGiven: ReadonlyMap<string, string>
  /** Text of each message, and the name of the mailbox it was first saved to. */
  readonly firstHome: ReadonlyMap<string, string>
}

export interface LiveOptions {
  /** Mailboxes are imported too; some of these imports are interrupted, and go on or are given up later, or never. (default false) */
  readonly imports?: boolean
}

/** Makes a store in `fs`, and works on it. */
export async function live(
  fs: Fs,
  seed: number,
  steps: number,
  { imports = false }: LiveOptions = {},
): Promise<History> {
  const random = seeded(seed)
  // Draws of its own, so that the rest is what it is without.
  const importRandom = seeded(seed + 1_000_003)
  const pick = <T>(list: readonly T[]): T => list[below(random, list.length)]!
  const everGiven = new Map<string, string>()
  const firstHome = new Map<string, string>()
  const names = ['INBOX', 'Archive', 'Sent']
  let store: Store = await openTest(fs)
  for (const name of names.slice(1)) await store.as(OWNER).create(name)
  let count = 0
  let checkpointed: ReadonlyMap<string, SeenMailbox> = new Map()
  const note = async (): Promise<void> => {
    for (const [, { uidValidity, rows }] of await picture(fs))
      for (const { uid, text } of rows) everGiven.set(`${uidValidity} ${uid}`, text)
  }
  const sources: RandomSource[] = []
  for (let step = 0; step < steps; step++) {
    const session = store.as(OWNER)
    if (imports && importRandom() < 0.2) {
      const finished = await importSome(store, sources, importRandom, () => `message ${++count} `)
      if (finished !== undefined) {
        names.push(finished.spec.name)
        for (const { text } of finished.messages) firstHome.set(text, finished.spec.name)
      }
      await note()
    }
    await using mailbox = await session.open(pick(names))
    const { view } = mailbox
    const uids = Array.from({ length: view.count }, (_, row) => view.uid(row))
    const some = UidSet.of(...uids.filter(() => random() < 0.4))
    if (hasTiers() && random() < 0.3) {
      await store.altmove({ to: random() < 0.7 ? 'alt' : 'primary', where: () => random() < 0.6 })
      await note()
      continue
    }
    const kind = random()
    if (kind < 0.4 || uids.length === 0) {
      const home = pick(names)
      const text = `message ${++count} ${'x'.repeat(below(random, 300))}`
      await deliver(store, home, text)
      firstHome.set(text, home)
    } else if (kind < 0.55)
      await mailbox.changeFlags(some, { add: 1 << below(random, 5), addKeywords: [pick(KEYWORDS)] })
    else if (kind < 0.65) await mailbox.copy(some, pick(names.filter((name) => name !== mailbox.name)))
    else if (kind < 0.72) await mailbox.move(some, pick(names.filter((name) => name !== mailbox.name)))
    else if (kind < 0.85) await mailbox.expunge(some, { force: true })
    else if (kind < 0.9) await store.purge()
    else if (kind < 0.96) {
      await store.checkpoint()
      checkpointed = await picture(fs)
    } else {
      await mailbox[Symbol.asyncDispose]()
      await store[Symbol.asyncDispose]()
      store = await openTest(fs)
    }
    await note()
  }
  if (random() < 0.5) {
    await store.checkpoint()
    checkpointed = await picture(fs)
  }
  await store[Symbol.asyncDispose]()
  const last = await picture(fs)
  const alive = new Set([...last.values()].flatMap(({ rows }) => rows.map(({ text }) => text)))
  const expunged = new Set([...firstHome.keys()].filter((text) => !alive.has(text)))
  return { seed, last, checkpointed, expunged, everGiven, firstHome }
}
