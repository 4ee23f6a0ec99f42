/** Opens an mdbox or sdbox: finds its roots and mailboxes, and reads what identifies each mailbox. */
import type { Fs } from '@mailstead/fs'
import type { DovecotMailbox, DovecotRoot, DovecotStore, OpenDovecotOptions } from './contract.ts'
import type { DboxContext } from './dbox-context.ts'
import { DboxMailbox, headOf, indexDirectory, MAIL_INDEX, type MailboxHead, numberOf } from './dbox-mailbox.ts'
import { Faults } from './fault.ts'
import { FilePool } from './file-pool.ts'
import { GuidTable } from './guid-table.ts'
import { type FoundMailbox, findMailboxes, mailboxName, MAILBOXES } from './mailbox-tree.ts'
import { checkSubscriptions } from './mailbox-log.ts'
import { MdboxStorage } from './mdbox-storage.ts'
import { type ReadIndex, readIndex } from './read-index.ts'
import { type Claims, compareUses, restore } from './restored.ts'
import { below, join, type NamedRoot, readIfThere } from './root.ts'
import { readSubscriptions, SUBSCRIPTIONS_BYTES_MAX, SUBSCRIPTIONS_FILE } from './subscriptions.ts'

const STORAGE = 'storage'
/** A link to alternate storage, kept by Dovecot in the store. */
const ALT_LINK = 'dbox-alt-root'

/** `path` is the store, in the directory `opened`, or the same. */
export async function openDbox(
  kind: 'mdbox' | 'sdbox',
  fs: Fs,
  path: string,
  opened: string,
  options: OpenDovecotOptions,
): Promise<DovecotStore> {
  const faults = new Faults()
  const root: NamedRoot = { fs, path, shown: path === opened ? '' : path.slice(opened === '' ? 0 : opened.length + 1) }
  const beside = besideOf(root, path === opened)
  const alt = named(options.alt, 'alt') ?? (await findAlt(kind, root, beside, faults))
  const attachments = named(options.attachments, 'attachments') ?? (await directoryAt(beside, 'attachments'))
  const index = named(options.index, 'index') ?? root
  const pool = new FilePool(faults)
  const storageRoots = [root, ...(alt === undefined ? [] : [alt])].map((one) => below(one, STORAGE))
  const storage =
    kind === 'mdbox' ? await MdboxStorage.open(below(index, STORAGE), storageRoots, pool, faults) : undefined
  const context: DboxContext = { kind, root, index, alt, attachments, pool, faults, storage }
  const mails = [root, ...(alt === undefined || kind === 'mdbox' ? [] : [alt])]
  const found = await findMailboxes(mails, index, faults)
  const mailboxes = await openMailboxes(context, found)
  const control = named(options.control, 'control') ?? root
  const file = await readIfThere(control, SUBSCRIPTIONS_FILE, SUBSCRIPTIONS_BYTES_MAX, faults)
  const names = file === undefined ? [] : readSubscriptions(file, '/')
  const subscriptions = await checkSubscriptions(
    index,
    join(control.shown, SUBSCRIPTIONS_FILE),
    names,
    mailboxes.map((mailbox) => mailbox.name),
    faults,
  )
  return {
    kind,
    mailboxes: [...mailboxes].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0)),
    subscriptions,
    defaults: below(root, MAILBOXES),
    faults: faults.list,
    [Symbol.asyncDispose]: () => pool[Symbol.asyncDispose](),
  }
}

async function openMailboxes(context: DboxContext, found: readonly FoundMailbox[]): Promise<readonly DovecotMailbox[]> {
  const { storage, faults } = context
  const claims: Claims = { rows: new Uint32Array(storage?.map?.count ?? 0), guids: new GuidTable() }
  const mailboxes: DovecotMailbox[] = []
  const lost: { readonly found: FoundMailbox; readonly head: MailboxHead }[] = []
  let stale = false
  for (const one of found) {
    const read = one.selectable
      ? await readIndex(indexDirectory(context, one), MAIL_INDEX, faults, mailboxName(one.storageName))
      : undefined
    const mailbox = namedAgain(one, read, faults)
    const name = mailboxName(mailbox.storageName)
    if (read?.deleted === true) {
      faults.add('deleted', 'Dovecot has begun to delete this mailbox: it is left out', { mailbox: name })
      continue
    }
    const head = headOf(context, mailbox, read)
    const known = read?.complete === true
    if (known) compareWithList(context, mailbox, head, read)
    if (known && !read.current) stale = true
    if (known && storage !== undefined) claim(storage, read, claims)
    if (mailbox.selectable && !known)
      faults.add('mailbox-index-lost', lostMessage(context), {
        file: indexDirectory(context, mailbox).shown,
        mailbox: name,
      })
    if (mailbox.selectable && !known && storage !== undefined) lost.push({ found: mailbox, head })
    else mailboxes.push(new DboxMailbox(context, mailbox, head))
  }
  if (storage !== undefined) {
    compareUses(storage, claims, context, lost.length)
    const none = !found.some((mailbox) => mailbox.selectable)
    if (none) faults.add('mailbox-lost', 'there are no directories of mailboxes')
    if (lost.length > 0 || none || (stale && storage.map !== undefined))
      mailboxes.push(
        ...(await restore(context, claims, lost, new Set(found.map((one) => mailboxName(one.storageName))))),
      )
  }
  return mailboxes
}

/** A mailbox whose name only the list had, if the list has lost it: its index may have it too. */
function namedAgain(mailbox: FoundMailbox, read: ReadIndex | undefined, faults: Faults): FoundMailbox {
  if (mailbox.listed !== undefined || !/^[0-9a-f]{32}$/.test(mailbox.storageName)) return mailbox
  const header = read?.index.extension('box-name')?.header ?? new Uint8Array(0)
  // Later versions put flags behind the name, as if they were one more part of it.
  const parts = Buffer.from(header)
    .toString()
    .split('\0')
    .filter((part) => part.length > 1 || part > ' ')
  const usable = parts.length > 0 && parts.every((part) => part !== '.' && part !== '..' && !part.includes('/'))
  const storageName = usable ? parts.join('/') : `recovered-lost-folder-${mailbox.storageName}`
  faults.add('list-damaged', 'the list has no name for this mailbox', {
    file: mailbox.indexes,
    mailbox: mailboxName(storageName),
  })
  return { ...mailbox, storageName }
}

function lostMessage({ kind, storage }: DboxContext): string {
  if (kind === 'sdbox') return 'the index of this mailbox is lost: messages are there, their flags are not'
  if (storage?.map !== undefined) return 'the index of this mailbox is lost: its messages get new UIDs'
  return 'the index of this mailbox and the map are lost: messages get new UIDs, and expunged ones may be among them'
}

/** Counts the messages of a mailbox. */
function claim(storage: MdboxStorage, { index }: ReadIndex, { rows, guids }: Claims): void {
  const extension = index.extension('guid')
  for (let row = 0; row < index.count; row++) {
    if (index.gone[row] !== 0) continue
    const at = storage.map?.rowOf(numberOf(index, 'mdbox', row, 0)) ?? -1
    if (at >= 0) rows[at]!++
    const guid = extension?.stride === 16 ? index.data(extension, row) : undefined
    if (storage.map === undefined && guid?.length === 16) guids.add(guid, { root: 0, file: 0, offset: 0 })
  }
}

/** The list of mailboxes keeps copies of what identifies each. */
function compareWithList(
  context: DboxContext,
  { listed, storageName }: FoundMailbox,
  head: MailboxHead,
  read: ReadIndex,
): void {
  if (listed === undefined) return
  const place = { mailbox: mailboxName(storageName) }
  if (listed.guid !== undefined && head.guid !== undefined && Buffer.compare(listed.guid, head.guid) !== 0)
    context.faults.add('list-differs', 'the list knows another GUID of this mailbox', place)
  if (listed.uidValidity !== undefined && head.uidValidity !== undefined && listed.uidValidity !== head.uidValidity)
    context.faults.add(
      'list-differs',
      `UIDVALIDITY is ${head.uidValidity} in the mailbox, ${listed.uidValidity} in the list`,
      place,
    )
  const { log } = read
  if (log !== undefined && log.begun <= listed.logTime && log.size < listed.logSize)
    context.faults.add('log-short', `the log has ${log.size} bytes, the list has seen ${listed.logSize}`, place)
}

function named(root: DovecotRoot | undefined, shown: string): NamedRoot | undefined {
  return root === undefined ? undefined : { ...root, shown }
}

/** The directory that the store is in; undefined at the root of the file system. */
function besideOf({ fs, path }: NamedRoot, opened: boolean): NamedRoot | undefined {
  if (path === '') return undefined
  const slash = path.lastIndexOf('/')
  return { fs, path: slash < 0 ? '' : path.slice(0, slash), shown: opened ? '..' : '' }
}

async function directoryAt(beside: NamedRoot | undefined, name: string): Promise<NamedRoot | undefined> {
  if (beside === undefined) return undefined
  const root = below(beside, name)
  const stat = await root.fs.stat(root.path).catch(() => undefined)
  return stat?.kind === 'directory' ? root : undefined
}

/** Alternate storage where the link leads (if it leads to a place that may be read), or beside the store. */
async function findAlt(
  kind: 'mdbox' | 'sdbox',
  root: NamedRoot,
  beside: NamedRoot | undefined,
  faults: Faults,
): Promise<NamedRoot | undefined> {
  const holds = kind === 'mdbox' ? STORAGE : 'mailboxes'
  for (const one of [await directoryAt(root, ALT_LINK), await directoryAt(beside, 'alt')])
    if (one !== undefined && (await directoryAt(one, holds)) !== undefined) return one
  if (await isNamed(root, ALT_LINK))
    faults.add('alt-unknown', 'the store has alternate storage, which is not found: say where it is', {
      file: join(root.shown, ALT_LINK),
    })
  return undefined
}

/** Whether there is something by this name, be it a link that leads out of what may be read. */
async function isNamed(root: NamedRoot, name: string): Promise<boolean> {
  try {
    return (await root.fs.stat(join(root.path, name))) !== undefined
  } catch {
    return true
  }
}
