/**
 * A store lives through a random history, loses some of its files, and is rebuilt. What must hold, whatever was lost:
 *
 *   1. A message whose bytes are left is in some mailbox, unless it was expunged; where the rows of its mailboxes are left, it is in
 *      them under the UIDs, flags and keywords it had.
 *   2. What was expunged is in none, as long as index or journal is left.
 *   3. A UID stands for the message it stood for, or for none: it is never given to another. UIDVALIDITY stays where a mailbox's
 *      rows are left.
 *   4. A message whose bytes are lost is listed as damaged where its rows are left.
 *   5. A second rebuild changes nothing, and the store works.
 */
import { memoryFs } from '@mailstead/fs/memory'
import type { RebuildRecord } from '@mailstead/store'
import { expect, test } from 'vitest'
import { depth, runSeed, say, seeded } from '../support/depth.ts'
import { between } from './between.ts'
import { live } from './history.ts'
import { destroy, judge, left } from './judge.ts'
import { copyOf, deliver, fromCopy, openRebuilt, OWNER, picture, rebuild, useFormat } from './support.ts'

const HISTORIES = { normal: 2, ci: 40, soak: 1_000_000 }[depth()]
const DAMAGES_EACH = { normal: 6, ci: 20, soak: 50 }[depth()]
const STEPS = 30

const isChange = ({ kind }: RebuildRecord): boolean => kind === 'changed' || kind === 'lost' || kind === 'remains'

test.each([
  ['mdbox', 'one tier'],
  ['sdbox', 'one tier'],
  ['mdbox', 'two tiers'],
  ['sdbox', 'two tiers'],
] as const)(
  'whatever a store in %s of %s loses, a rebuild brings back all that anything is left of, and nothing that was expunged',
  async (format, tiers) => {
    const isTiered = tiers === 'two tiers'
    useFormat(format, isTiered)
    const counted = new Map<string, number>()
    const count = (what: string, by = 1): void => void counted.set(what, (counted.get(what) ?? 0) + by)
    const first = runSeed()
    for (let n = 0; n < HISTORIES; n++) {
      const seed = first + n
      const origin = memoryFs()
      const history = await live(origin, seed, STEPS)
      const files = await copyOf(origin)
      for (let d = 0; d < DAMAGES_EACH; d++) {
        const random = seeded(seed * 1000 + d)
        const damaged = await fromCopy(files)
        const damage = await destroy(damaged, history, random)
        const isLeft = (await left(damaged)).size > 0
        // Where something is left to be repaired or used, that is done first, in half of them.
        const isUsed = d % 2 === 1 && !damage.index
        const { fs, done } = isUsed ? await between(damaged, random) : { fs: damaged, done: [] }
        const where = `MAILSTEAD_SEED=${seed}, damage ${d}: ${damage.name}; ${done.join(', ')}`
        count('of them repaired or used before', done.length > 0 ? 1 : 0)
        const bytes = await left(fs)
        const scratch = memoryFs()
        const before = await copyOf(fs)
        const isNothing = damage.index && !isLeft
        if (isNothing) continue
        if (isTiered && (await fs.stat('storage/second-tier')) !== undefined) {
          useFormat(format)
          const refusal = await rebuild(fs).catch((error: unknown) => error)
          expect(refusal, where).toMatchObject({ code: 'STORE_UNAVAILABLE' })
          expect(await copyOf(fs), where).toEqual(before)
          useFormat(format, true)
          count('refused without the tier')
        }
        const planned = await rebuild(fs, { dryRunIn: scratch }).catch((error: unknown) => {
          throw new Error(where, { cause: error })
        })
        const untouched = await copyOf(fs)
        for (const [path, content] of before)
          expect(Buffer.compare(untouched.get(path) ?? Buffer.of(1), content), `${where}: ${path}`).toBe(0)
        const records = await rebuild(fs)
        expect(planned.map(told), where).toEqual(records.map(told))
        const after = await picture(fs)
        expect(judge(history, { ...damage, wasUsed: done.length > 0 }, bytes, after), where).toEqual([])
        const again = await rebuild(fs)
        expect(again.filter(isChange), where).toEqual([])
        expect(await picture(fs), where).toEqual(after)
        {
          await using store = await openRebuilt(fs)
          const findings = (await Array.fromAsync(store.check())).flat()
          const damaged = findings.filter(({ severity, kind }) => severity === 'damage' && !EXPECTED.has(kind))
          expect(damaged, where).toEqual([])
          await deliver(store, 'INBOX', 'afterwards')
          await store.purge()
          expect(store.as(OWNER).mailbox('INBOX')!.count).toBe(after.get('INBOX')!.rows.length + 1)
        }
        const now = await picture(fs)
        for (const [name, { rows }] of after)
          expect(
            now
              .get(name)!
              .rows.slice(0, rows.length)
              .map(({ text }) => text),
            where,
          ).toEqual(rows.map(({ text }) => text))
        count('rebuilds')
        if (damage.index) count('without any index')
        for (const kind of ['changed', 'lost', 'damaged'] as const)
          count(`records ${kind}`, records.filter((one) => one.kind === kind).length)
      }
      if (depth() === 'soak' && n % 100 === 99) say([...counted].map(([what, times]) => `${times} ${what}`).join(', '))
    }
    say(
      `rebuild of ${format} of ${tiers}, seed ${first}: ${[...counted].map(([what, times]) => `${times} ${what}`).join(', ')}`,
    )
    expect(counted.get('rebuilds')).toBeGreaterThan(HISTORIES)
  },
)

/** What the check says of messages whose bytes are missing. */
const EXPECTED: ReadonlySet<string> = new Set(['unreadable', 'no-message', 'file-missing', 'message-missing', 'size'])

/** Without what is random: times and GUIDs of mailboxes. */
function told({ kind, mailbox, uid, field, message }: RebuildRecord): string {
  return `${kind} ${mailbox} ${uid} ${field} ${message.replaceAll(/\d{10}/g, '')}`
}
