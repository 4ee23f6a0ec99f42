/**
 * A store over a disk that can lose its power, and the judge of what such a disk may hold.
 *
 * INVARIANTS of the judge
 *   1. Steps follow each other; what is acknowledged is what the store showed when the step ended. So a disk of any moment
 *      holds what the last step that had ended left, or, whole, what the step under way was about to.
 *   2. Transactions that go on at once are parts of one step, and change different mailboxes: of each the disk holds all or nothing.
 *   3. Nothing is compared with what the code says that it did, only with what it showed before the power went.
 */
import { createHash } from 'node:crypto'
import type { AttachmentFormat } from '@mailstead/box'
import type { Fs } from '@mailstead/fs'
import { type CrashImage, imageOf } from '@mailstead/fs/faults'
import { mdbox } from '@mailstead/mdbox'
import { openStore, type Store, StoreError, type StoreFinding, type StoreOptions } from '@mailstead/store'

export const OWNER: { readonly name: string } = { name: 'anna' }
/** Small, so that a few messages fill several files. */
const ROTATE_BYTES = 3_000

/** What the messages are kept in. */
export interface StateBox {
  readonly box: StoreOptions['box']
  /** Where attachments are kept once. (default: messages are whole) */
  readonly attachments?: (root: Fs) => AttachmentFormat
  /** What is wrong with a disk that was recovered and worked on, as only this box knows; `ever`: see JudgeOptions. */
  readonly afterwards?: (disk: Fs, shown: Picture, ever: ReadonlySet<string>) => Promise<readonly string[]>
}
let kept: StateBox = { box: (root) => mdbox(root, 'storage', { rotateBytes: ROTATE_BYTES }) }
/** Another box, for all tests of this file. */
export function useBox(other: StateBox): void {
  kept = other
}

export async function openOn(fs: Fs, options: Partial<StoreOptions> = {}): Promise<Store> {
  let clock = 1_800_000_000_000
  return openStore({
    owner: OWNER.name,
    fs,
    box: kept.box,
    ...(kept.attachments === undefined ? {} : { attachments: kept.attachments(fs) }),
    cacheFields: [{ name: 'length', compute: ({ header }) => Buffer.from(String(header.length)) }],
    now: () => (clock += 1000),
    ...options,
  })
}

/** A mailbox as a client sees it. */
export interface Shown {
  readonly guid: string
  readonly uidValidity: number
  readonly uidNext: number
  readonly highestModSeq: number
  /** UID, flags, keywords, GUID and the hash of all bytes, as one line each. */
  readonly rows: readonly string[]
}
export interface Picture {
  readonly mailboxes: ReadonlyMap<string, Shown>
  readonly subscriptions: readonly string[]
}
/** What a disk without a store holds. */
export const NOTHING: Picture = { mailboxes: new Map(), subscriptions: [] }

export interface PictureOptions {
  /** Flags may be lost, and are not in the picture. (default false) */
  readonly lazyFlags?: boolean
}

export async function pictureOf(store: Store, { lazyFlags = false }: PictureOptions = {}): Promise<Picture> {
  const session = store.as(OWNER)
  const mailboxes = new Map<string, Shown>()
  const hashes = new Map<number, string>()
  for (const { name, guid, uidValidity, uidNext, highestModSeq } of session.mailboxes()) {
    await using mailbox = await session.open(name)
    const { view } = mailbox
    const rows: string[] = []
    for (let row = 0; row < view.count; row++) {
      const id = Buffer.from(view.extension('guid')!.value(row)).toString('hex')
      // Copies share their bytes; a body is read, and verified, once.
      // By where they are: two messages may have one GUID.
      const ref = view.extension('box')!.number(row)
      let hash = hashes.get(ref)
      if (hash === undefined) {
        const digest = createHash('sha256')
        await using body = await mailbox.body(view, row)
        for await (const chunk of body.stream(0, body.size)) digest.update(chunk)
        hashes.set(ref, (hash = digest.digest('hex')))
      }
      const keywords = view.keywordSets[view.keywordSet(row)]!.map((k) => view.keywords[k]!).toSorted()
      const flags = lazyFlags ? '' : ` ${view.flags(row)} (${keywords.join(' ')})`
      rows.push(`${view.uid(row)}${flags} ${id} ${hash}`)
    }
    mailboxes.set(name, { guid, uidValidity, uidNext, highestModSeq, rows })
  }
  return { mailboxes, subscriptions: session.subscriptions() }
}

/** Something that was asked of the store, and what it showed before and after. */
export interface Step {
  readonly name: string
  /** When it was asked, and when it was acknowledged. */
  readonly from: number
  readonly to: number
  readonly before: Picture
  readonly after: Picture
  /** It was not done: the storage failed. What it would have shown is not known. */
  readonly refused: boolean
  /** Transactions at once, each of which changes the mailboxes (or, as undefined, the subscriptions) of its own. */
  readonly parts?: readonly (readonly (string | undefined)[])[]
}

/** What a disk may hold when the power goes at `tick`; nothing is known of it while a step that will be refused is under way. */
export function allowedAt(steps: readonly Step[], tick: number): { step: Step; pictures: readonly Picture[] } {
  let last = steps[0]!
  for (const step of steps) {
    if (step.from >= tick) break
    last = step
  }
  if (last.to <= tick && last.to !== last.from) return { step: last, pictures: [last.after] }
  const { before, after, parts } = last
  if (last.refused) return { step: last, pictures: [] }
  if (parts === undefined) return { step: last, pictures: [before, after] }
  const pictures: Picture[] = []
  for (let mask = 0; mask < 1 << parts.length; mask++) {
    const mailboxes = new Map(before.mailboxes)
    let { subscriptions } = before
    for (const [at, names] of parts.entries()) {
      if ((mask & (1 << at)) === 0) continue
      for (const name of names)
        if (name === undefined) subscriptions = after.subscriptions
        else mailboxes.set(name, after.mailboxes.get(name)!)
    }
    pictures.push({ mailboxes, subscriptions })
  }
  return { step: last, pictures }
}

/** Why `found` is none of the pictures; undefined if it is one. Numbers that only grow may be beyond it. */
export function differences(found: Picture, allowed: readonly Picture[]): string | undefined {
  if (allowed.length === 0) return undefined
  const reasons = allowed.map((picture) => difference(found, picture))
  return reasons.includes(undefined) ? undefined : reasons.join('; or ')
}

function difference(found: Picture, expected: Picture): string | undefined {
  const names = (picture: Picture): string => [...picture.mailboxes.keys()].join(', ')
  if (names(found) !== names(expected)) return `mailboxes ${names(found)}, not ${names(expected)}`
  if (found.subscriptions.join() !== expected.subscriptions.join())
    return `subscriptions ${found.subscriptions.join()}, not ${expected.subscriptions.join()}`
  for (const [name, box] of found.mailboxes) {
    const other = expected.mailboxes.get(name)!
    if (box.guid !== other.guid || box.uidValidity !== other.uidValidity)
      return `${name} is another mailbox: ${box.guid} ${box.uidValidity}, not ${other.guid} ${other.uidValidity}`
    if (box.rows.join('\n') !== other.rows.join('\n'))
      return `${name} has [${short(box.rows)}], not [${short(other.rows)}]`
    if (box.uidNext < other.uidNext) return `UIDNEXT of ${name} is ${box.uidNext}, and was ${other.uidNext}`
    if (box.highestModSeq < other.highestModSeq)
      return `HIGHESTMODSEQ of ${name} is ${box.highestModSeq}, and was ${other.highestModSeq}`
  }
  return undefined
}

/** GUIDs of the messages in a picture. */
export function guidsOf({ mailboxes }: Picture): ReadonlySet<string> {
  return new Set([...mailboxes.values()].flatMap(({ rows }) => rows.map((row) => row.split(' ').at(-2)!)))
}

function short(rows: readonly string[]): string {
  return rows.map((row) => row.replace(/([0-9a-f]{6})[0-9a-f]+/g, '$1')).join(', ')
}

export interface JudgeOptions extends PictureOptions {
  /** What the store had shown for certain before the power went. */
  readonly told: Picture
  /** GUIDs of all messages that it had ever shown by then. (default: none) */
  readonly ever?: ReadonlySet<string>
  /** Open it a second time, which must find nothing to do, and go on. */
  readonly twice: boolean
  /** Caches are never flushed: on a disk that may show old bytes, anything may be in them. */
  readonly caches: 'notes' | 'anything'
}

/** Everything that is wrong with a disk that a power cut left; nothing if it is as it should be. */
export async function judge(
  disk: Fs,
  allowed: readonly Picture[],
  { told, ever = new Set(), twice, caches, ...options }: JudgeOptions,
): Promise<readonly string[]> {
  const wrong: string[] = []
  let found = NOTHING
  try {
    await using store = await openOn(disk)
    found = await pictureOf(store, options)
    const finds = (await Array.fromAsync(store.check())).flat().filter((each) => counts(each, caches))
    for (const { kind, file, offset, message } of finds) wrong.push(`check: ${kind} ${file} ${offset}: ${message}`)
  } catch (error) {
    if (!(error instanceof StoreError && error.code === 'STORE_NOT_FOUND')) return [`opening: ${String(error)}`]
  }
  const reason = differences(found, allowed)
  if (reason !== undefined) wrong.push(reason)
  if (wrong.length > 0 || !twice) return wrong
  // What was put right stays so: whoever opens it next has nothing to write.
  const image = await imageOf(disk)
  try {
    await using again = await openOn(disk, { create: found === NOTHING })
    const written = found === NOTHING ? [] : changed(image, await imageOf(disk))
    if (written.length > 0) wrong.push(`the second opening wrote ${written.join(', ')}`)
    const session = again.as(OWNER)
    if (found !== NOTHING) {
      const once = differences(await pictureOf(again, options), [found])
      if (once !== undefined) wrong.push(`the second opening: ${once}`)
    }
    // It goes on, and gives no UID twice, whatever became of those that were told.
    await using batch = session.save()
    await batch.add(Buffer.from('Subject: afterwards\r\n\r\n'), [{ mailbox: 'INBOX' }])
    const [saved] = await batch.commit()
    const before = told.mailboxes.get('INBOX')
    if (before !== undefined && saved!.uidValidity === before.uidValidity && saved!.uid < before.uidNext)
      wrong.push(`UID ${saved!.uid} is given again: UIDNEXT was ${before.uidNext}`)
  } catch (error) {
    wrong.push(`going on: ${String(error)}`)
  }
  if (wrong.length > 0 || kept.afterwards === undefined) return wrong
  let shown: Picture
  {
    await using last = await openOn(disk)
    shown = await pictureOf(last, options)
  }
  return kept.afterwards(disk, shown, ever)
}

/** Paths of what is not the same in both. */
function changed(before: CrashImage, after: CrashImage): readonly string[] {
  return [...new Set([...before.keys(), ...after.keys()])].filter((path) => {
    const [one, two] = [before.get(path), after.get(path)]
    return typeof one === 'object' && typeof two === 'object' ? Buffer.compare(one, two) !== 0 : one !== two
  })
}

function counts({ severity, kind }: StoreFinding, caches: JudgeOptions['caches']): boolean {
  return severity === 'damage' && !(caches === 'anything' && kind === 'cache-record')
}
