/**
 * A Maildir of Dovecot: the root is INBOX, each directory `.A.B` below it the mailbox A/B (Maildir++), and so is each
 * directory `A/B` that has `cur` and `new` (`LAYOUT=fs`). UIDs and GUIDs are in `dovecot-uidlist`, flags in the names of files,
 * modseqs and what has no letter in Dovecot's index.
 */
import type { DovecotMailbox, DovecotStore, OpenDovecotOptions } from './contract.ts'
import { Faults } from './fault.ts'
import { MaildirMailbox } from './maildir-mailbox.ts'
import { UIDLIST_BYTES_MAX, readUidlist } from './maildir-uidlist.ts'
import { readIndex } from './read-index.ts'
import { below, type NamedRoot, namesIn, readIfThere } from './root.ts'
import { storedName } from './stored-name.ts'
import { readSubscriptions, SUBSCRIPTIONS_BYTES_MAX, SUBSCRIPTIONS_FILE } from './subscriptions.ts'

const INBOX = 'INBOX'
const DEPTH_MAX = 50
const UIDLIST_FILE = 'dovecot-uidlist'
export const INDEX_BASE = 'dovecot.index'

export async function openMaildir(root: NamedRoot, options: OpenDovecotOptions): Promise<DovecotStore> {
  const { separator = '.' } = options
  const faults = new Faults()
  const indexes = options.index === undefined ? undefined : { ...options.index, shown: options.index.path }
  const found = new Map<string, DovecotMailbox>()
  const add = async (name: string, directory: NamedRoot, stored: string): Promise<void> => {
    const index = indexes === undefined ? directory : below(indexes, stored)
    found.set(name, await mailboxOf(name, directory, index, faults))
  }
  await add(INBOX, root, `.${INBOX}`)
  for (const { levels, path } of await directories(root, separator, faults)) {
    const shown = levels.map(storedName)
    const name = shown.map((level) => level.name).join('/')
    const directory = path.reduce<NamedRoot>(below, root)
    if (shown.some(({ known }) => !known))
      faults.add('name', `${JSON.stringify(path.join('/'))} is no name in modified UTF-7 or UTF-8`, {
        file: directory.shown,
      })
    if (found.has(name)) {
      faults.add('name', `two directories are the mailbox ${JSON.stringify(name)}: this one is left out`, {
        file: directory.shown,
        mailbox: name,
      })
      continue
    }
    await add(name, directory, path.join('/'))
  }
  for (const name of Array.from(found.keys()))
    for (let at = name.indexOf('/'); at >= 0; at = name.indexOf('/', at + 1)) {
      const parent = name.slice(0, at)
      if (!found.has(parent)) found.set(parent, childrenOnly(parent))
    }
  const list = await readIfThere(root, SUBSCRIPTIONS_FILE, SUBSCRIPTIONS_BYTES_MAX, faults)
  return {
    kind: 'maildir',
    mailboxes: [...found.values()].sort((a, b) => (a.name < b.name ? -1 : 1)),
    subscriptions: list === undefined ? [] : readSubscriptions(list, separator),
    defaults: undefined,
    faults: faults.list,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }
}

/** A directory that is a mailbox: the levels of its name as stored, and the way to it. */
interface Directory {
  readonly levels: readonly string[]
  readonly path: readonly string[]
}

async function directories(root: NamedRoot, separator: string, faults: Faults): Promise<readonly Directory[]> {
  const found: Directory[] = []
  const walk = async (at: NamedRoot, path: readonly string[]): Promise<void> => {
    for (const name of await namesIn(at, 'directory', faults)) {
      const directory = below(at, name)
      const here = [...path, name]
      if (name.startsWith('.')) {
        if (path.length === 0 && (await isMailbox(directory)))
          found.push({ levels: name.slice(1).split(separator), path: here })
        continue
      }
      if (name === 'cur' || name === 'new' || name === 'tmp' || here.length > DEPTH_MAX) continue
      if (await isMailbox(directory)) found.push({ levels: here, path: here })
      await walk(directory, here)
    }
  }
  await walk(root, [])
  return found
}

async function isMailbox({ fs, path }: NamedRoot): Promise<boolean> {
  for (const name of ['cur', 'new', 'maildirfolder', UIDLIST_FILE])
    if ((await fs.stat(`${path}/${name}`)) !== undefined) return true
  return false
}

async function mailboxOf(
  name: string,
  directory: NamedRoot,
  indexRoot: NamedRoot,
  faults: Faults,
): Promise<DovecotMailbox> {
  const readList = async (): Promise<ReturnType<typeof readUidlist> | undefined> => {
    const bytes = await readIfThere(directory, UIDLIST_FILE, UIDLIST_BYTES_MAX, faults)
    if (bytes === undefined) return undefined
    const file = below(directory, UIDLIST_FILE).shown
    return readUidlist(bytes, (message, offset) =>
      faults.add('uidlist-damaged', message, { file, offset, mailbox: name }),
    )
  }
  const index = await readIndex(indexRoot, INDEX_BASE, faults, name)
  const list = await readList()
  if (list === undefined && index !== undefined)
    faults.add('uidlist-lost', `there is no ${UIDLIST_FILE}: UIDs are given anew`, {
      file: below(directory, UIDLIST_FILE).shown,
      mailbox: name,
    })
  return new MaildirMailbox({
    name,
    directory,
    indexRoot,
    faults,
    guid: list?.guid,
    uidValidity: list?.uidValidity,
    uidNext: list?.uidNext,
    highestModSeq: list === undefined ? undefined : index?.highestModSeq,
    readList,
    readIndex: () => readIndex(indexRoot, INDEX_BASE, faults, name),
  })
}

/** A name that has children, and is no mailbox. */
function childrenOnly(name: string): DovecotMailbox {
  return {
    name,
    selectable: false,
    guid: undefined,
    uidValidity: undefined,
    uidNext: undefined,
    highestModSeq: undefined,
    directory: undefined,
    hasPrivateFlags: () => Promise.resolve(false),
    // oxlint-disable-next-line require-yield
    messages: async function* () {},
  }
}
