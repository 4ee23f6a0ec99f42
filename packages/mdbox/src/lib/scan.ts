/** Everything on disk, whatever the index says: for rebuilds, and for people. */
import type { BoxOrigin, BoxScanned } from '@mailstead/box'
import { parseHex } from '@mailstead/bytes'
import { type Fs, FsError } from '@mailstead/fs'
import { isDead, JOURNAL } from './journal.ts'
import type { Dead, ReadJournal } from './journal-format.ts'
import { FLAG_ALT, FLAG_CANONICAL } from './place.ts'
import { fileName } from './read.ts'
import { fileId } from './slot.ts'
import { readOrigin } from './sdbox/names.ts'
import { type Walked, walkFile } from './walk.ts'
import { Window } from './window.ts'

/** Messages handed over at a time. */
const PAGE = 256
/** Mailboxes that are remembered while messages of theirs go by. */
const ORIGINS_MAX = 1024

/** `alt`: it is the second tier that is in this directory. */
export async function* scanBox(
  fs: Fs,
  directory: string,
  { dead, alt = false }: { readonly dead: Dead; readonly alt?: boolean },
): AsyncGenerator<readonly BoxScanned[]> {
  const origins = new Map<string, BoxOrigin>()
  for (const id of await listFiles(fs, directory)) {
    const file = fileName(alt, id)
    // A purge may have removed it since it was listed.
    await using opened = await fs.open(`${directory}/m.${id}`, 'read').catch(gone)
    if (opened === undefined) continue
    const { size } = await opened.stat()
    // Begun, and never flushed.
    if (size === 0) continue
    let page: BoxScanned[] = []
    for await (const found of new Window(opened, size).walk(walkFile(size))) {
      if ('line' in found) {
        if (found.damage === undefined) continue
        page.push({ file, offset: 0, ...NOTHING, damage: found.damage })
      } else {
        const { offset, guid, receivedMs, physicalSize, size, mailbox, damage } = found
        const row = damage === undefined ? rowOf(alt, id, found) : undefined
        const expunged = isDead(dead, id, offset, found.sum)
        const origin = originOf(found, origins)
        const whose = origin === undefined ? {} : { origin }
        page.push({ file, offset, guid, receivedMs, physicalSize, size, mailbox, ...whose, damage, row, expunged })
      }
      if (page.length < PAGE) continue
      yield page
      page = []
    }
    if (page.length > 0) yield page
  }
}

/** Its mailbox when it was saved; the UID came later. The same object for the same mailbox, as long as there are few. */
function originOf({ origin }: Walked, known: Map<string, BoxOrigin>): BoxOrigin | undefined {
  if (origin === undefined) return undefined
  let found = known.get(origin)
  if (found === undefined) {
    const read = readOrigin(origin)
    if (read === undefined) return undefined
    found = { mailbox: parseHex(read.guid), uidValidity: read.uidValidity }
    if (known.size < ORIGINS_MAX) known.set(origin, found)
  }
  return found
}

/** What is wrong with the journal. */
export function journalDamage({ damage }: ReadJournal): BoxScanned[] {
  return damage.map(({ offset, message }) => ({ file: JOURNAL, offset, ...NOTHING, damage: message }))
}

const NOTHING = { guid: undefined, receivedMs: 0, physicalSize: 0, mailbox: undefined }

function rowOf(
  alt: boolean,
  file: number,
  { offset, length, sum, size, physicalSize }: Walked,
): Record<string, number> {
  return { file, offset, length, sum, flags: (size === physicalSize ? FLAG_CANONICAL : 0) | (alt ? FLAG_ALT : 0) }
}

function gone(error: unknown): undefined {
  if (!(error instanceof FsError && error.code === 'FS_NOT_FOUND')) throw error
}

/** Numbers of all message files, ascending. */
export async function listFiles(fs: Fs, directory: string): Promise<number[]> {
  const ids: number[] = []
  for await (const page of fs.list(directory))
    for (const { name } of page) {
      const id = fileId(name)
      if (id > 0) ids.push(id)
    }
  return ids.sort((a, b) => a - b)
}
