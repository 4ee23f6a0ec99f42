/** What a store loses, and what must be true of it after a rebuild: see `rebuild.test.ts`. */
import type { Fs } from '@mailstead/fs'
import { below } from '../support/depth.ts'
import type { History } from './history.ts'
import { copyOf, hasTiers, removeAll, type SeenMailbox } from './support.ts'

export interface Damage {
  readonly name: string
  /** Message files that are gone. */
  readonly files: readonly string[]
  /** Texts of messages that were in these, dead or alive. */
  readonly texts: ReadonlySet<string>
  /** Names of mailboxes whose snapshots are gone. */
  readonly mailboxes: readonly string[]
  readonly box: boolean
  readonly tree: boolean
  readonly log: boolean
  readonly index: boolean
  readonly journal: boolean
  /** It was used, or tried to be, before the rebuild: whether every row is there still, nobody can tell then. */
  readonly wasUsed?: boolean
}

/** Takes something away: each of the parts with some probability. */
export async function destroy(fs: Fs, { last }: History, random: () => number): Promise<Damage> {
  const files: string[] = []
  const stored: string[] = []
  for (const path of (await copyOf(fs)).keys()) if (isMessageFile(path)) stored.push(path)
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
  const texts = new Set<string>()
  for (const file of files) {
    for (const text of textsIn(await fs.readFile(file))) texts.add(text)
    await removeAll(fs, file)
  }
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
  return { name: [...name, ...mailboxes, ...files].join(' '), files, texts, mailboxes, box, tree, log, index, journal }
}

function isMessageFile(path: string): boolean {
  return /^(?:storage|alternate)\/(m\.\d+|[0-9a-f]{32}\/u\.\d+)$/.test(path)
}

/** In the second tier a message is that was expunged until a purge; the first tier says so. */
function isExpunged(path: string, files: ReadonlyMap<string, unknown>): boolean {
  return path.startsWith('alternate/') && files.has(path.replace('alternate/', 'storage/').replace('/u.', '/x.'))
}

/** Texts that can be read from what is left, and GUID and UID where files are named by them. */
export async function left(fs: Fs): Promise<Set<string>> {
  const texts = new Set<string>()
  const files = await copyOf(fs)
  for (const [path, bytes] of files)
    if (isMessageFile(path) && !isExpunged(path, files)) {
      const own = /([0-9a-f]{32})\/u\.(\d+)$/.exec(path)
      if (own !== null) texts.add(`${own[1]} ${own[2]}`)
      for (const text of textsIn(bytes)) texts.add(text)
    }
  return texts
}

function textsIn(bytes: Uint8Array): string[] {
  return (
    Buffer.from(bytes)
      .toString('latin1')
      .match(/message \d+ x*/g) ?? []
  )
}

/** Everything that is wrong. */
export function judge(
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
  const allRows = damage.wasUsed !== true && isWhole && (!damage.log || damage.mailboxes.length === 0)
  // Of a message that was moved, files that are named by UIDs do not say whether an older row of it was there still.
  const isNamed = [...bytes].some((one) => /^[0-9a-f]{32} /.test(one))
  // What was moved to the other tier may still lie, dead, where it was: with its row in the box and the journal lost, nobody knows it.
  const knowsDead = allRows && !damage.tree && !(hasTiers() && damage.box)
  if (isNamed ? damage.index || (allRows && !damage.tree) : !damage.journal || knowsDead)
    for (const text of history.expunged) if (listed.has(text)) wrong.push(`${short(text)} was expunged, and is back`)
  // Where a message was before it was moved the journal calls dead, and nobody tells such a copy from one that was expunged: it
  // does not stand in for a message whose own file is lost with what the index knew of it.
  const isLossy = damage.index || damage.log || damage.box || damage.tree || damage.mailboxes.length > 0
  const isDeadCopy = (text: string): boolean =>
    hasTiers() && !isNamed && !damage.journal && isLossy && damage.texts.has(text)
  for (const { rows } of history.last.values())
    for (const { text } of rows)
      if (bytes.has(text) && !listed.has(text) && !isDeadCopy(text))
        wrong.push(`${short(text)} is nowhere, and its bytes are there`)
  // Files that are named by mailbox and UID know what they are.
  for (const [name, { guid, uidValidity, rows }] of history.last)
    for (const { uid, text } of rows) {
      if (!bytes.has(`${guid} ${uid}`)) continue
      const now = [...after.values()].find((one) => one.guid === guid)
      if (now?.uidValidity !== uidValidity)
        wrong.push(`UIDVALIDITY of ${name} was ${uidValidity}, though files know it`)
      if (now?.rows.find((one) => one.uid === uid)?.text !== text) wrong.push(`${name} ${uid} is not what its file is`)
    }
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
      if (row === undefined) {
        if (!isDeadCopy(text)) wrong.push(`${name} ${uid} is gone`)
      } else if (row.flags !== flags || row.keywords !== keywords)
        wrong.push(`${name} ${uid} had ${flags} (${keywords}), and has ${row.flags} (${row.keywords})`)
      // The bytes of one that is gone may be those of a copy which was expunged, and not purged yet.
      else if (row.text !== text && (bytes.has(text) || row.text !== 'STORE_DAMAGED'))
        wrong.push(`${name} ${uid} is ${short(row.text)}`)
    }
  }
  return wrong
}

const NO_MAILBOXES: ReadonlyMap<string, SeenMailbox> = new Map()

function short(text: string): string {
  return text.slice(0, 14).trim()
}
