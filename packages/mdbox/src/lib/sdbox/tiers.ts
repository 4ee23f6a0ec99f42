/**
 * The two tiers of an sdbox: its own directory, and perhaps a second one elsewhere (../second-tier.ts).
 *
 * A message of which the row says so is in the second tier: `<tier>/<mailbox>/u.<uid>` under the same names as it would have in the
 * first, one for each mailbox that has it. Nothing else is there. What is expunged is said in the first tier, whether or
 * not the second is there: a message in the second has, instead of a file that is renamed, an empty `x.<uid>` in the first.
 * That goes after the file in the second.
 */
import { type Fs, FsError } from '@mailstead/fs'
import type { SecondTier } from '../second-tier.ts'
import { UNNAMED } from './names.ts'
import { isAlt, type Row, type Rows } from './row.ts'

/** A directory with the directories of mailboxes. */
export interface Root {
  readonly alt: boolean
  readonly fs: Fs
  readonly directory: string
}
/** The second tier, if it is there; why it is away; undefined if there is none. */
export type Second = Root | FsError | undefined

/** Looks for it. */
export async function secondOf(second: SecondTier): Promise<Second> {
  try {
    if (!(await second.isKnown())) return undefined
    const fs = await second.present()
    return fs === undefined ? undefined : { alt: true, fs, directory: second.path }
  } catch (error) {
    if (error instanceof FsError) return error
    throw error
  }
}

export function rootOf(second: Second): Root | undefined {
  return second instanceof FsError ? undefined : second
}

/** Flushes the names in a directory of a tier. FS_UNAVAILABLE if that went away with it. */
export async function syncIn(second: SecondTier, { alt, fs, directory }: Root, name: string): Promise<void> {
  try {
    await fs.syncDirectory(`${directory}/${name}`)
  } catch (error) {
    if (alt) await second.verify()
    throw error
  }
}

/** As findings and errors call a file. */
export function fileIn({ alt }: Root, name: string): string {
  return alt ? `alt/${name}` : name
}

/** Where the message is in the second tier, if it is there. */
export function secondsOf({ mailbox, uid, id }: Row): readonly string[] {
  return uid === 0 ? [`${UNNAMED}/${id}`] : [`${mailbox}/u.${uid}`, `${UNNAMED}/${id}`]
}

const haveAlt = new WeakMap<Rows, boolean>()

/** Whether rows, all in memory, have messages in the second tier. */
export function hasAlt(rows: Rows): boolean {
  let found = haveAlt.get(rows)
  if (found !== undefined) return found
  found = false
  for (let at = 0; at < rows.view.count && !found; at++) found = isAlt({ flags: rows.flags.number(at) })
  haveAlt.set(rows, found)
  return found
}

/** Says in the first tier that a message, of which it has no file, was expunged. */
export async function sayExpunged(fs: Fs, directory: string, mailbox: string, uid: number): Promise<void> {
  try {
    await fs.writeFile(`${directory}/${mailbox}/x.${uid}`, new Uint8Array(0), { ifAbsent: true })
  } catch (error) {
    if (!(error instanceof FsError && error.code === 'FS_EXISTS')) throw error
  }
}
