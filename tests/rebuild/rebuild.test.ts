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
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import type { RebuildRecord } from '@mailstead/store'
import { expect, test } from 'vitest'
import { below, depth, runSeed, say, seeded } from '../support/depth.ts'
import { type History, live } from './history.ts'
import {
  copyOf,
  deliver,
  fromCopy,
  openRebuilt,
  OWNER,
  picture,
  rebuild,
  removeAll,
  type SeenMailbox,
} from './support.ts'

const HISTORIES = { normal: 2, ci: 40, soak: 1_000_000 }[depth()]
const DAMAGES_EACH = { normal: 6, ci: 20, soak: 50 }[depth()]
const STEPS = 30

interface Damage {
  readonly name: string
  /** Numbers of message files that are gone. */
  readonly files: readonly string[]
  /** Names of mailboxes whose snapshots are gone. */
  readonly mailboxes: readonly string[]
  readonly box: boolean
  readonly tree: boolean
  readonly log: boolean
  readonly index: boolean
  readonly journal: boolean
}

/** Takes something away: each of the parts with some probability. */
async function destroy(fs: Fs, { last }: History, random: () => number): Promise<Damage> {
  const files: string[] = []
  const stored: string[] = []
  for await (const page of fs.list('storage')) for (const { name } of page) if (name.startsWith('m.')) stored.push(name)
  const chance = (p: number): boolean => random() < p
  const index = chance(0.15)
  const log = index || chance(0.5)
  const box = index || chance(0.35)
  const tree = index || chance(0.15)
  const journal = chance(0.15)
  const mailboxes: string[] = []
  for (const [name, { guid }] of last)
    if (index || chance(0.25)) {
      mailboxes.push(name)
      if (!index) await removeAll(fs, `index/tables/mailbox-${guid}.snap`)
    }
  if (chance(0.4))
    for (let n = 1 + below(random, 2); n > 0 && stored.length > 0; n--)
      files.push(...stored.splice(below(random, stored.length), 1))
  for (const file of files) await removeAll(fs, `storage/${file}`)
  if (index) await removeAll(fs, 'index')
  else {
    if (box) await removeAll(fs, 'index/tables/box.snap')
    if (tree) await removeAll(fs, 'index/tables/tree.snap')
    if (log) await removeAll(fs, 'index/log')
  }
  if (journal) await removeAll(fs, 'storage/journal')
  const name = Object.entries({ index, log, box, tree, journal })
    .filter(([, gone]) => gone)
    .map(([part]) => part)
  return { name: [...name, ...mailboxes, ...files].join(' '), files, mailboxes, box, tree, log, index, journal }
}

/** Texts that can be read from what is left. */
async function left(fs: Fs): Promise<Set<string>> {
  const texts = new Set<string>()
  for (const [path, bytes] of await copyOf(fs))
    if (path.startsWith('storage/m.'))
      for (const [text] of Buffer.from(bytes)
        .toString('latin1')
        .matchAll(/message \d+ x*/g))
        texts.add(text)
  return texts
}

function judge(
  history: History,
  damage: Damage,
  bytes: ReadonlySet<string>,
  after: ReadonlyMap<string, SeenMailbox>,
): string[] {
  const wrong: string[] = []
  const listed = new Map<string, number>()
  for (const [name, { uidValidity, rows }] of after)
    for (const { uid, text } of rows) {
      listed.set(text, (listed.get(text) ?? 0) + 1)
      const before = history.everGiven.get(`${uidValidity} ${uid}`)
      if (before !== undefined && text !== 'STORE_DAMAGED' && before !== text)
        wrong.push(`${name} ${uid} stood for ${short(before)}, now for ${short(text)}`)
    }
  // What the index still knows where nothing of it is lost but what `damage` says.
  const known = damage.index ? NO_MAILBOXES : damage.log ? history.checkpointed : history.last
  const isWhole = JSON.stringify([...known]) === JSON.stringify([...history.last])
  const allRows = isWhole && (!damage.log || damage.mailboxes.length === 0)
  if (!damage.journal || (allRows && !damage.tree))
    for (const text of history.expunged) if (listed.has(text)) wrong.push(`${short(text)} was expunged, and is back`)
  for (const { rows } of history.last.values())
    for (const { text } of rows)
      if (bytes.has(text) && !listed.has(text)) wrong.push(`${short(text)} is nowhere, and its bytes are there`)
  for (const [name, { uidValidity, guid, rows }] of known) {
    if (damage.log && damage.mailboxes.includes(name)) continue
    const now = [...after.values()].find((one) => one.guid === guid)
    if (!damage.tree && after.get(name)?.guid !== guid) wrong.push(`the mailbox ${name} has lost its name`)
    if (now === undefined) wrong.push(`the mailbox ${name} is gone`)
    if (now?.uidValidity !== uidValidity) wrong.push(`UIDVALIDITY of ${name} was ${uidValidity}`)
    for (const { uid, flags, keywords, text } of rows) {
      // What came after the last checkpoint is known to nobody.
      const last = history.last.get(name)!.rows.find((one) => one.uid === uid)
      if (last === undefined) continue
      const row = now?.rows.find((one) => one.uid === uid)
      if (row === undefined) wrong.push(`${name} ${uid} is gone`)
      else if (row.flags !== flags || row.keywords !== keywords)
        wrong.push(`${name} ${uid} had ${flags} (${keywords}), and has ${row.flags} (${row.keywords})`)
      else if (row.text !== (bytes.has(text) ? text : 'STORE_DAMAGED'))
        wrong.push(`${name} ${uid} is ${short(row.text)}`)
    }
  }
  return wrong
}

const NO_MAILBOXES: ReadonlyMap<string, SeenMailbox> = new Map()

function short(text: string): string {
  return text.slice(0, 14).trim()
}

const isChange = ({ kind }: RebuildRecord): boolean => kind === 'changed' || kind === 'lost' || kind === 'remains'

test('whatever a store loses, a rebuild brings back all that anything is left of, and nothing that was expunged', async () => {
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
      const fs = await fromCopy(files)
      const damage = await destroy(fs, history, random)
      const where = `MAILSTEAD_SEED=${seed}, damage ${d}: ${damage.name}`
      const bytes = await left(fs)
      const scratch = memoryFs()
      const before = await copyOf(fs)
      const isNothing = damage.index && bytes.size === 0
      if (isNothing) continue
      const planned = await rebuild(fs, { dryRunIn: scratch }).catch((error: unknown) => {
        throw new Error(where, { cause: error })
      })
      const untouched = await copyOf(fs)
      for (const [path, content] of before)
        expect(Buffer.compare(untouched.get(path) ?? Buffer.of(1), content), `${where}: ${path}`).toBe(0)
      const records = await rebuild(fs)
      expect(planned.map(told), where).toEqual(records.map(told))
      const after = await picture(fs)
      expect(judge(history, damage, bytes, after), where).toEqual([])
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
  say(`rebuild, seed ${first}: ${[...counted].map(([what, times]) => `${times} ${what}`).join(', ')}`)
  expect(counted.get('rebuilds')).toBeGreaterThan(HISTORIES)
})

/** What the check says of messages whose bytes are missing. */
const EXPECTED: ReadonlySet<string> = new Set(['unreadable', 'no-message', 'file-missing', 'message-missing', 'size'])

/** Without what is random: times and GUIDs of mailboxes. */
function told({ kind, mailbox, uid, field, message }: RebuildRecord): string {
  return `${kind} ${mailbox} ${uid} ${field} ${message.replaceAll(/\d{10}/g, '')}`
}
