/** What lies in the directories of a box, and the identity of each mailbox's. */
import type { BoxMailbox } from '@mailstead/box'
import { type Fs, FsError } from '@mailstead/fs'
import { findTierRecord } from '../tier-record.ts'
import {
  IDENTITY,
  IDENTITY_MAX,
  type Identity,
  idOfName,
  isGuid,
  readIdentity,
  UNNAMED,
  uidOfName,
  writeIdentity,
} from './names.ts'

/** The names in one mailbox's directory. */
export interface Listing {
  /** UIDs of messages, and of those that were expunged. */
  readonly named: Set<number>
  readonly expunged: Set<number>
  hasIdentity: boolean
  /** Nothing is there. */
  empty: boolean
}

/** GUIDs that have a directory, ascending. */
export async function listMailboxes(fs: Fs, directory: string): Promise<string[]> {
  const guids: string[] = []
  for await (const page of fs.list(directory))
    for (const { name, kind } of page) if (kind === 'directory' && isGuid(name)) guids.push(name)
  return guids.sort()
}

export async function listMailbox(fs: Fs, directory: string, guid: string): Promise<Listing> {
  const listing: Listing = { named: new Set(), expunged: new Set(), hasIdentity: false, empty: true }
  for await (const page of fs.list(`${directory}/${guid}`))
    for (const { name, kind } of page) {
      listing.empty = false
      if (kind !== 'file') continue
      const uid = uidOfName(name, 'u')
      if (uid > 0) listing.named.add(uid)
      else if (name === IDENTITY) listing.hasIdentity = true
      else {
        const expunged = uidOfName(name, 'x')
        if (expunged > 0) listing.expunged.add(expunged)
      }
    }
  return listing
}

/** Ids of messages that have no name in a mailbox. */
export async function listUnnamed(fs: Fs, directory: string): Promise<Set<string>> {
  const ids = new Set<string>()
  for await (const page of fs.list(`${directory}/${UNNAMED}`))
    for (const { name, kind } of page) {
      const id = kind === 'file' ? idOfName(name) : undefined
      if (id !== undefined) ids.add(id)
    }
  return ids
}

export async function hasMessages(fs: Fs, directory: string): Promise<boolean> {
  for (const guid of await listMailboxes(fs, directory))
    if ((await listMailbox(fs, directory, guid)).named.size > 0) return true
  if ((await listUnnamed(fs, directory)).size > 0) return true
  // What says that they are in a second tier, which is not asked: it may be away.
  const record = await findTierRecord(fs, directory)
  return record !== undefined && (record === 'damaged' || record.format === 'sdbox')
}

/** `damaged` if it is there and cannot be read; undefined if it is not there. */
export async function identityOf(fs: Fs, directory: string, guid: string): Promise<Identity | 'damaged' | undefined> {
  try {
    const identity = readIdentity(await fs.readFile(`${directory}/${guid}/${IDENTITY}`, { end: IDENTITY_MAX }))
    return identity?.guid === guid ? identity : 'damaged'
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
    throw error
  }
}

/** Says, durably, what mailbox a directory is, and makes it. Writes nothing if that is said already. */
export async function identify(fs: Fs, directory: string, mailbox: BoxMailbox, removed: boolean): Promise<void> {
  const { guid, uidValidity, name } = mailbox
  const wanted = writeIdentity({ guid, uidValidity, removed, name })
  const path = `${directory}/${guid}/${IDENTITY}`
  try {
    if (Buffer.compare(await fs.readFile(path, { end: IDENTITY_MAX }), wanted) === 0) return
  } catch (error) {
    if (!(error instanceof FsError && error.code === 'FS_NOT_FOUND')) throw error
  }
  await fs.writeFile(path, wanted)
}

/** True if it was there. */
export async function removeFile(fs: Fs, path: string): Promise<boolean> {
  try {
    await fs.remove(path)
    return true
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return false
    throw error
  }
}

/** Renames unless `from` is not there or `to` is. Who else may give this name gives it to the same message. */
export async function renameFile(fs: Fs, from: string, to: string): Promise<boolean> {
  if ((await fs.stat(to)) !== undefined) return false
  try {
    await fs.rename(from, to)
    return true
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return false
    throw error
  }
}
