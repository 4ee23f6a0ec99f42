/**
 * Making the names in a mailbox's directory what the log says, after a crash or a failure: nothing is read but names, and
 * nothing is decided but from the newest rows. Files that the log knows nothing of are left alone.
 *
 * ORDER    The directory is listed first, the rows are refreshed then: so a name that is there and has no row was expunged, and
 *          is not on its way. Others may give the same names at the same time; who comes second finds them given.
 */
import { BOX_REF_COLUMN, type BoxHost, type BoxMailbox, type BoxRef } from '@mailstead/box'
import { type Fs, FsError } from '@mailstead/fs'
import type { SecondTier } from '../second-tier.ts'
import { identify, identityOf, listMailbox, renameFile } from './directory.ts'
import { copyFile } from './holds.ts'
import { IDENTITY } from './names.ts'
import { isAlt, isHome, primariesOf, type Row, type RowTable } from './row.ts'
import { rootOf, sayExpunged, type Second, secondsOf } from './tiers.ts'

export interface NamesContext {
  readonly fs: Fs
  readonly directory: string
  readonly host: BoxHost
  readonly rows: RowTable
  readonly second: SecondTier
}

/** Names the message of a row as UID `uid` of `mailbox`. False if it is nowhere to be found. */
export async function nameMessage(context: NamesContext, row: Row, mailbox: string, uid: number): Promise<boolean> {
  if (isAlt(row) && (await nameInSecond(context, row, mailbox, uid))) return true
  const { fs, directory } = context
  const to = `${directory}/${mailbox}/u.${uid}`
  const [, unnamed, expunged, leftover] = primariesOf(row)
  if (isHome(row, mailbox, uid)) {
    for (const from of [unnamed!, expunged!, leftover!])
      if (await renameFile(fs, `${directory}/${from}`, to)) return true
    return (await fs.stat(to)) !== undefined
  }
  for (const from of primariesOf(row)) if (await copyName(fs, `${directory}/${from}`, to)) return true
  return false
}

/** The same of one in the second tier. FS_UNAVAILABLE while that is away. */
async function nameInSecond({ second }: NamesContext, row: Row, mailbox: string, uid: number): Promise<boolean> {
  const fs = await second.reach()
  const to = `${second.path}/${mailbox}/u.${uid}`
  if (isHome(row, mailbox, uid)) return (await fs.stat(to)) !== undefined
  for (const from of secondsOf(row)) {
    if (!(await copyName(fs, `${second.path}/${from}`, to))) continue
    await fs.syncDirectory(`${second.path}/${mailbox}`)
    return true
  }
  return false
}

/** A second name for a file or, where that cannot be, a second file. False if there is none. */
export async function copyName(fs: Fs, from: string, to: string): Promise<boolean> {
  try {
    if (fs.supports.link) {
      await fs.link(from, to)
      return true
    }
  } catch (error) {
    if (!(error instanceof FsError)) throw error
    if (error.code === 'FS_EXISTS') return true
    if (error.code === 'FS_NOT_FOUND') return false
    // Too many names for one file, or names that may not cross a border.
    if (error.code !== 'FS_LIMIT' && error.code !== 'FS_UNSUPPORTED') throw error
  }
  return copyFile(fs, from, fs, to, { ifAbsent: true })
}

/** Takes a message out of its mailbox: what is left is known as expunged, and goes with the next purge. */
export async function expungeName(
  { fs, directory, second }: NamesContext,
  mailbox: string,
  uid: number,
): Promise<void> {
  try {
    await fs.rename(`${directory}/${mailbox}/u.${uid}`, `${directory}/${mailbox}/x.${uid}`)
  } catch (error) {
    if (!(error instanceof FsError && error.code === 'FS_NOT_FOUND')) throw error
    // It is in the second tier; or it has not been given its name yet, or somebody else was faster.
    if (await second.isKnown()) await sayExpunged(fs, directory, mailbox, uid)
  }
}

/**
 * Makes the names of a mailbox what the log says, durably. `away`: not those of messages in the second tier (`tier`), which is
 * away. `later`: while rows may be missing, a name without a row may be that of somebody's mail, so that names are given, and none
 * is taken away.
 */
export async function finishMailbox(
  context: NamesContext,
  guid: string,
  tier: Second,
): Promise<'done' | 'away' | 'later'> {
  const { fs, directory, host, rows } = context
  const { mailboxes } = host
  if (mailboxes === undefined) return 'done'
  const listing = await listMailbox(fs, directory, guid)
  const far = rootOf(tier)
  const there = far === undefined ? undefined : await listMailbox(far.fs, far.directory, guid)
  await host.refresh()
  const mailbox = mailboxes.find(guid)
  await using opened = await mailboxes.open(guid)
  if (opened === undefined) {
    if (listing.empty) return 'done'
    if (host.isIncomplete === true) return 'later'
    await markRemoved(fs, directory, guid)
    return 'done'
  }
  const { view } = opened
  await view.load?.([BOX_REF_COLUMN])
  const refs = view.extension(BOX_REF_COLUMN)!
  let outcome: 'done' | 'away' | 'later' = 'done'
  // One that has rows and no name yet is on its way in.
  if (mailbox !== undefined && (view.count > 0 || !listing.empty)) await identify(fs, directory, mailbox, false)
  for (let at = 0; at < view.count; at++) {
    const uid = view.uid(at)
    const isNamed = listing.named.delete(uid)
    // In the wrong tier, perhaps: a purge sees to that.
    if (there?.named.delete(uid) === true || isNamed) continue
    const ref: BoxRef = refs.number(at)
    const row = await rows.find(ref)
    if (row === undefined) continue
    if (tier instanceof FsError && isAlt(row)) outcome = 'away'
    else await nameMessage(context, row, guid, uid)
  }
  // UIDs that the log has not given are not its business: it may be an older one than these files are of.
  if (host.isIncomplete === true) {
    if (listing.named.size + (there?.named.size ?? 0) > 0) outcome = 'later'
  } else {
    for (const uid of listing.named) if (uid < view.uidNext) await expungeName(context, guid, uid)
    for (const uid of there?.named ?? [])
      if (uid < view.uidNext && !listing.expunged.has(uid)) await sayExpunged(fs, directory, guid, uid)
  }
  if (view.count > 0 || !listing.empty) await fs.syncDirectory(`${directory}/${guid}`)
  return outcome
}

/** The mailbox was removed: what is in its directory waits for a purge. */
export async function markRemoved(fs: Fs, directory: string, guid: string, known?: BoxMailbox): Promise<void> {
  const identity = await identityOf(fs, directory, guid)
  if (identity === undefined && (await fs.stat(`${directory}/${guid}`)) === undefined) return
  const mailbox = typeof identity === 'object' ? { ...identity, name: identity.name ?? '' } : known
  if (mailbox === undefined) return
  await identify(fs, directory, { ...mailbox, name: mailbox.name }, true)
}

/** Of a directory that holds no more than its identity. */
export async function removeDirectory(fs: Fs, directory: string, guid: string): Promise<void> {
  try {
    // A message that came back without it would not be known as one that was removed.
    await fs.syncDirectory(`${directory}/${guid}`)
    await fs.remove(`${directory}/${guid}/${IDENTITY}`)
    await fs.remove(`${directory}/${guid}`)
  } catch (error) {
    // Somebody else's files are in it.
    if (!(error instanceof FsError && (error.code === 'FS_NOT_EMPTY' || error.code === 'FS_NOT_FOUND'))) throw error
  }
}
