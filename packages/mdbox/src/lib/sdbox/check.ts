/**
 * The consistency check: every byte of every file is read and verified; every row's message is in one of its places, and every
 * message of a mailbox has its name. Reads only. Names that a crash left undone are notes: messages are found without them. While the
 * second tier is away nothing is said of it: once the first is checked, the pass fails as reaching it does.
 */
import { BOX_REF_COLUMN, type BoxFinding, type BoxHost, type BoxRef } from '@mailstead/box'
import { type Fs, FsError } from '@mailstead/fs'
import { LINE_MAX, readFileLine } from '../format.ts'
import { FLAGS_OF_RECORD, flagsOfRecord } from '../place.ts'
import { checkTier, type SecondTier } from '../second-tier.ts'
import { verifyRecord } from '../walk.ts'
import { Window } from '../window.ts'
import { identityOf, listMailbox, listMailboxes, listUnnamed } from './directory.ts'
import { IDENTITY, UNNAMED } from './names.ts'
import { isAlt, primariesOf, type Row, type RowTable } from './row.ts'
import { fileIn, type Root, rootOf, type Second, secondOf, secondsOf } from './tiers.ts'

/** Findings handed over at a time. */
const PAGE = 256

interface CheckContext {
  readonly fs: Fs
  readonly directory: string
  readonly host: BoxHost
  readonly rows: RowTable
  readonly second: SecondTier
}
interface Checking extends CheckContext {
  readonly near: Root
  readonly tier: Second
}
type Severity = BoxFinding['severity']
/** What is wrong with a file. */
interface Wrong {
  readonly severity: Severity
  readonly kind: string
  readonly offset: number
  readonly message: string
}

export async function* checkBox(context: CheckContext): AsyncGenerator<readonly BoxFinding[]> {
  const { fs, directory, second } = context
  const tier = await secondOf(second)
  let page: BoxFinding[] = []
  if (!(tier instanceof FsError)) for await (const finding of checkTier(second)) page.push(finding)
  for await (const finding of checkAll({ ...context, near: { alt: false, fs, directory }, tier })) {
    page.push(finding)
    if (page.length < PAGE) continue
    yield page
    page = []
  }
  // What was unmounted meanwhile was not seen.
  if (rootOf(tier) !== undefined && page.some(({ severity }) => severity === 'damage')) await second.verify()
  if (page.length > 0) yield page
  if (tier instanceof FsError) throw tier
  if (tier !== undefined) await second.verify()
}

async function* checkAll(context: Checking): AsyncGenerator<BoxFinding> {
  const { fs, directory, host, rows } = context
  const far = rootOf(context.tier)
  // Names first: what is there now has its row once the rows are refreshed.
  const guids = new Set(await listMailboxes(fs, directory))
  if (far !== undefined) for (const guid of await listMailboxes(far.fs, far.directory)) guids.add(guid)
  const unnamed = await listUnnamed(fs, directory)
  await host.refresh()
  const all = await rows.loaded()
  const homes = new Map<string, Set<number>>()
  for (let at = 0; at < all.view.count; at++) {
    const row = all.at(at)
    unnamed.delete(row.id)
    if (row.uid > 0) {
      const uids = homes.get(row.mailbox)
      if (uids === undefined) homes.set(row.mailbox, new Set([row.uid]))
      else uids.add(row.uid)
    }
    yield* checkMessage(context, row)
  }
  for (const id of unnamed)
    yield note('file-unnamed', `${UNNAMED}/${id}`, undefined, 'no message is known in this file')
  for (const guid of guids) yield* checkMailbox(context, guid, homes.get(guid))
}

function note(kind: string, file: string, ref: BoxRef | undefined, message: string): BoxFinding {
  return { severity: 'note', kind, file, offset: 0, ref, message }
}

async function* checkMessage(context: Checking, row: Row): AsyncGenerator<BoxFinding> {
  let [file, wrong] = await judgeMessage(context, row)
  if (wrong.length === 0) return
  // Only what still holds of the newest row is said.
  await context.host.refresh()
  const newest = await context.rows.find(row.ref)
  if (newest === undefined) return
  ;[file, wrong] = await judgeMessage(context, newest)
  for (const one of wrong) yield { file, ref: row.ref, ...one }
}

/** Where the message is, and what is wrong there; the first place where nothing is. Nothing is of one in a tier that is away. */
async function judgeMessage({ near, tier }: Checking, row: Row): Promise<[string, readonly Wrong[]]> {
  let first: [string, readonly Wrong[]] | undefined
  const far = rootOf(tier)
  const here = primariesOf(row).map((name) => [near, name] as const)
  const there = far === undefined ? [] : secondsOf(row).map((name) => [far, name] as const)
  for (const [root, name] of isAlt(row) ? [...there, ...here] : [...here, ...there]) {
    // What is expunged in the second tier has no message in the first.
    if (isAlt(row) && !root.alt && name.includes('/x.')) continue
    const wrong = await judgeFile(root.fs, `${root.directory}/${name}`, row)
    if (wrong === undefined) continue
    const file = fileIn(root, name)
    const isElsewhere = root.alt !== isAlt(row)
    if (wrong.every(({ severity }) => severity === 'note'))
      return [file, isElsewhere ? [...wrong, unchecked('file-elsewhere', 0, 'the file is in the other tier')] : wrong]
    first ??= [file, wrong]
  }
  if (first === undefined && tier instanceof FsError) return [primariesOf(row)[0]!, []]
  return first ?? [primariesOf(row)[0]!, [damage('file-missing', 0, 'the file of this message is missing')]]
}

/** Undefined if there is no file. `row`: the message it must be. */
async function judgeFile(fs: Fs, path: string, row: Row | undefined): Promise<readonly Wrong[] | undefined> {
  await using file = await fs.open(path, 'read').catch((error: unknown) => {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
    throw error
  })
  if (file === undefined) return undefined
  const wrong: Wrong[] = []
  const { size } = await file.stat()
  // All that the first tier has of one that was expunged in the second, though an older row may not know that it was moved.
  if (size === 0 && path.includes('/x.')) return undefined
  const window = new Window(file, size)
  const line = readFileLine(await window.bytes(0, Math.min(LINE_MAX, size)))
  if (line === undefined) wrong.push(damage('first-line', 0, 'the first line is damaged'))
  else if (!line.verified)
    wrong.push(unchecked('first-line-unchecked', 0, 'the first line has no checksum: somebody else wrote it'))
  const offset = line?.length ?? (row === undefined ? size : size - row.length)
  if (offset < 0 || offset >= size) {
    wrong.push(damage('message-missing', 0, `the file of ${size} bytes is too short for its message`))
    return wrong
  }
  const found = await window.run(verifyRecord(offset, size, line?.headerBytes))
  const add = (kind: string, message: string): void => void wrong.push(damage(kind, offset, message))
  if (found.damage !== undefined) add('message-damaged', found.damage)
  else if (offset + found.length !== size)
    add('message-damaged', `the message ends at ${offset + found.length}, and its file at ${size}`)
  else if (row !== undefined && found.length !== row.length)
    add('message-damaged', `${found.length} bytes where the row has ${row.length}`)
  else if (row !== undefined && found.sum !== row.sum)
    add('message-damaged', 'header or metadata are not those of the row')
  else if (row !== undefined && (row.flags & FLAGS_OF_RECORD) !== flagsOfRecord(found))
    add('row-flags', 'the row is wrong about the line ends of the message, or its attachments')
  else if (!found.checksummed)
    wrong.push(unchecked('message-unchecked', offset, 'the body has no checksum: somebody else wrote it'))
  return wrong
}

function damage(kind: string, offset: number, message: string): Wrong {
  return { severity: 'damage', kind, offset, message }
}
function unchecked(kind: string, offset: number, message: string): Wrong {
  return { severity: 'note', kind, offset, message }
}

async function* checkMailbox(
  context: Checking,
  guid: string,
  homes: ReadonlySet<number> | undefined,
): AsyncGenerator<BoxFinding> {
  const { fs, directory, host, rows, near, tier } = context
  const far = rootOf(tier)
  const listing = await listMailbox(fs, directory, guid)
  const there = far === undefined ? new Set<number>() : (await listMailbox(far.fs, far.directory, guid)).named
  for (const uid of listing.expunged) there.delete(uid)
  await host.refresh()
  const mailbox = host.mailboxes?.find(guid)
  const identity = await identityOf(fs, directory, guid)
  const path = `${guid}/${IDENTITY}`
  if (identity === 'damaged' || (identity === undefined && listing.named.size + listing.expunged.size > 0))
    yield {
      ...note(
        'identity',
        path,
        undefined,
        `what mailbox this is ${identity === undefined ? 'is missing' : 'is unreadable'}`,
      ),
      severity: 'damage',
    }
  else if (identity !== undefined && mailbox !== undefined && identity.uidValidity !== mailbox.uidValidity)
    yield {
      ...note(
        'identity',
        path,
        undefined,
        `UIDVALIDITY ${identity.uidValidity}, and the index says ${mailbox.uidValidity}`,
      ),
      severity: 'damage',
    }
  await using opened = await host.mailboxes?.open(guid)
  if (opened === undefined) {
    if (listing.named.size > 0 && !(typeof identity === 'object' && identity.removed))
      yield note('mailbox-unknown', guid, undefined, `${listing.named.size} messages of a mailbox that is not known`)
    return
  }
  const { view } = opened
  await view.load?.([BOX_REF_COLUMN])
  const refs = view.extension(BOX_REF_COLUMN)!
  for (let at = 0; at < view.count; at++) {
    const uid = view.uid(at)
    const ref = refs.number(at)
    const file = `${guid}/u.${uid}`
    const isThere = there.delete(uid)
    const isHere = listing.named.delete(uid)
    if (!isHere && !isThere) {
      if (tier instanceof FsError) continue
      yield note('name-missing', file, ref, 'the message has no name in its mailbox (yet)')
      continue
    }
    if (homes?.has(uid) === true) continue
    // A name that is read by nobody but rebuilds, and Dovecot.
    const row = await rows.find(ref)
    for (const root of isHere ? (isThere ? [near, far!] : [near]) : [far!])
      for (const one of (await judgeFile(root.fs, `${root.directory}/${file}`, row)) ?? [])
        yield { file: fileIn(root, file), ref, ...one }
  }
  for (const uid of listing.named)
    yield note('name-unknown', `${guid}/u.${uid}`, undefined, 'the mailbox has no such message')
  for (const uid of there)
    yield note('name-unknown', fileIn(far!, `${guid}/u.${uid}`), undefined, 'the mailbox has no such message')
}
