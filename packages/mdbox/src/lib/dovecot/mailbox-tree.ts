/**
 * Which mailboxes a dbox store has: its directories, and what the index of the list of mailboxes says of them.
 *
 * A mailbox is a directory below `mailboxes`, named in modified UTF-7, with a `dbox-Mails` in it; a directory without one only
 * holds others. Where the list index is the list (`mailbox_list_layout=index`), directories are named by GUID. There, and where
 * indexes are kept apart, files are in the directory itself.
 */
import { storedName } from './stored-name.ts'
import { u32, u64 } from './binary.ts'
import type { Faults } from './fault.ts'
import type { MailIndex } from './mail-index.ts'
import { readIndex } from './read-index.ts'
import { below, isAbsence, join, messageOf, type NamedRoot, namesIn } from './root.ts'

/** The directory of all of them. */
export const MAILBOXES = 'mailboxes'
const MAILS = 'dbox-Mails'
/** What tells a directory of a mailbox. */
const MAILBOX_FILE = /^(?:dovecot\.index(?:\.log|\.log\.2|\.backup)?|u\.[1-9][0-9]*)$/
const LIST_INDEX = 'dovecot.list.index'
const DEPTH_MAX = 64
/** Most mailboxes of one store. */
export const MAILBOXES_MAX = 100_000
const NONEXISTENT = 0x04
const NO_SELECT = 0x10
const NOTHING = new Uint8Array(0)

/** What the list index says of a mailbox. */
export interface ListedMailbox {
  /** As on disk, parts joined by `/`. */
  readonly storageName: string
  readonly selectable: boolean
  readonly guid: Uint8Array | undefined
  readonly uidValidity: number | undefined
  /** UIDNEXT and HIGHESTMODSEQ when the list was last brought up to date; 0 if unknown. */
  readonly uidNext: number
  readonly highestModSeq: number
  /** Size of its log when it was last looked at, and when that was (seconds); 0 if unknown. */
  readonly logSize: number
  readonly logTime: number
}

export interface FoundMailbox {
  readonly storageName: string
  /** Where its messages are, and where its index is: below the roots. */
  readonly mails: string
  readonly indexes: string
  readonly selectable: boolean
  readonly listed: ListedMailbox | undefined
  /** False for one that only the list knows. */
  readonly exists: boolean
}

/** All mailboxes. `mails`: the roots of messages, the store first. `index`: the root of indexes, often the store. */
export async function findMailboxes(
  mails: readonly NamedRoot[],
  index: NamedRoot,
  faults: Faults,
): Promise<readonly FoundMailbox[]> {
  const apart = !mails.includes(index)
  const inMails = new Map<string, string | undefined>()
  for (const root of mails) await walk(below(root, MAILBOXES), '', inMails, faults, 0)
  const inIndex = new Map<string, string | undefined>()
  if (apart) await walk(below(index, MAILBOXES), '', inIndex, faults, 0)
  const place = (directory: string): Pick<FoundMailbox, 'mails' | 'indexes'> => {
    const mailsAt = join(join(MAILBOXES, directory), inMails.get(directory) ?? MAILS)
    return { mails: mailsAt, indexes: apart ? join(join(MAILBOXES, directory), inIndex.get(directory) ?? '') : mailsAt }
  }
  const read = await readIndex(index, LIST_INDEX, faults)
  const listed = read === undefined ? [] : readList(read.index, faults, join(index.shown, LIST_INDEX))
  const byName = new Map(listed.map((mailbox) => [mailbox.storageName, mailbox]))
  const byGuid = new Map(
    listed.flatMap((mailbox) => (mailbox.guid === undefined ? [] : [[hex(mailbox.guid), mailbox] as const])),
  )
  const found = new Map<string, FoundMailbox>()
  for (const directory of new Set([...inMails.keys(), ...inIndex.keys()])) {
    const known = byName.get(directory) ?? (/^[0-9a-f]{32}$/.test(directory) ? byGuid.get(directory) : undefined)
    const storageName = known?.storageName ?? directory
    const selectable = (inMails.get(directory) ?? inIndex.get(directory)) !== undefined
    found.set(storageName, { storageName, ...place(directory), selectable, listed: known, exists: true })
  }
  for (const mailbox of listed) {
    if (found.has(mailbox.storageName)) continue
    const { storageName, selectable } = mailbox
    if (selectable)
      faults.add('mailbox-lost', 'the list knows this mailbox, but it has no directory', {
        mailbox: mailboxName(storageName),
      })
    found.set(storageName, { storageName, ...place(storageName), selectable, listed: mailbox, exists: false })
  }
  return [...found.values()]
}

/** A name on disk in Unicode; what is no modified UTF-7 is taken as it is. */
export function mailboxName(storageName: string): string {
  return storageName
    .split('/')
    .map((part) => storedName(part).name)
    .join('/')
}

/**
 * Collects directories of mailboxes, with where in them their files are (`dbox-Mails`, or '' for the directory itself), and those
 * above them, with undefined. Resolves to whether there is a mailbox at or below this one.
 */
async function walk(
  directory: NamedRoot,
  path: string,
  found: Map<string, string | undefined>,
  faults: Faults,
  depth: number,
): Promise<boolean> {
  if (depth > DEPTH_MAX || found.size >= MAILBOXES_MAX) {
    faults.add('too-many', 'directories this deep, or this many, are not read', { file: directory.shown })
    return false
  }
  let any = false
  let own: string | undefined
  for (const name of await namesIn(directory, 'directory', faults)) {
    if (name === MAILS && path !== '') own = MAILS
    else if (await walk(below(directory, name), join(path, name), found, faults, depth + 1)) any = true
  }
  if (own === undefined && path !== '' && (await hasMailboxFiles(directory, faults))) own = ''
  if (path !== '' && (own !== undefined || any)) found.set(path, own ?? found.get(path))
  return own !== undefined || any
}

async function hasMailboxFiles(directory: NamedRoot, faults: Faults): Promise<boolean> {
  try {
    for await (const page of directory.fs.list(directory.path))
      if (page.some(({ name, kind }) => kind === 'file' && MAILBOX_FILE.test(name))) return true
  } catch (error) {
    if (!isAbsence(error)) faults.add('unreadable', messageOf(error), { file: directory.shown })
  }
  return false
}

/** Nodes of the list: name, parent, GUID and UIDVALIDITY of each. */
function readList(index: MailIndex, faults: Faults, file: string): readonly ListedMailbox[] {
  const list = index.extension('list')
  if (list === undefined || list.stride !== 28) return []
  const names = readNames(list.header, index.little)
  const found: ListedMailbox[] = []
  for (let row = 0; row < index.count && found.length < MAILBOXES_MAX; row++) {
    if (index.gone[row] !== 0) continue
    const storageName = pathOf(index, row, names)
    if (storageName === undefined) {
      faults.add('list-damaged', `a mailbox of the list has no name`, { file, uid: index.uids[row]! })
      continue
    }
    const data = index.data(list, row)
    const guid = data.subarray(8, 24)
    const uidValidity = data.length < 28 ? 0 : u32(data, 24, index.little)
    const of = (name: string): Uint8Array => {
      const extension = index.extension(name)
      return extension === undefined ? NOTHING : index.data(extension, row)
    }
    const synced = of('index sync')
    const status = of('msgs')
    const modSeq = of('hmodseq')
    found.push({
      storageName,
      selectable: (index.flags[row]! & (NONEXISTENT | NO_SELECT)) === 0,
      guid: guid.length < 16 || guid.every((byte) => byte === 0) ? undefined : Uint8Array.from(guid),
      uidValidity: uidValidity === 0 ? undefined : uidValidity,
      uidNext: status.length < 16 ? 0 : u32(status, 12, index.little),
      highestModSeq: modSeq.length < 8 ? 0 : u64(modSeq, 0, index.little),
      logSize: synced.length < 8 ? 0 : u32(synced, 0, index.little),
      logTime: synced.length < 8 ? 0 : u32(synced, 4, index.little),
    })
  }
  return found
}

/** A byte, then {u32 id, name, NUL} until an id of 0. */
function readNames(header: Uint8Array, little: boolean): ReadonlyMap<number, string> {
  const names = new Map<number, string>()
  for (let at = 1; at + 5 <= header.length; ) {
    const id = u32(header, at, little)
    const end = header.indexOf(0, at + 4)
    if (id === 0 || end < 0) break
    names.set(id, Buffer.from(header.subarray(at + 4, end)).toString())
    at = end + 1
  }
  return names
}

function pathOf(index: MailIndex, start: number, names: ReadonlyMap<number, string>): string | undefined {
  const list = index.extension('list')!
  const parts: string[] = []
  for (let row = start; parts.length < DEPTH_MAX; ) {
    const data = index.data(list, row)
    const name = data.length < 28 ? undefined : names.get(u32(data, 0, index.little))
    if (name === undefined || name === '' || name === '.' || name === '..' || name.includes('/')) return undefined
    parts.unshift(name)
    const parent = u32(data, 4, index.little)
    if (parent === 0) return parts.join('/')
    row = index.rowOf(parent)
    if (row < 0) return undefined
  }
  return undefined
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
