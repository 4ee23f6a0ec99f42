/** Everything on disk, whatever the index says: for rebuilds, and for people. */
import type { BoxOrigin, BoxScanned } from '@mailstead/box'
import { parseHex } from '@mailstead/bytes'
import { type Fs, FsError, type FsFile } from '@mailstead/fs'
import { Ahead } from './ahead.ts'
import { isDead, JOURNAL } from './journal.ts'
import type { Dead, ReadJournal } from './journal-format.ts'
import { FLAG_ALT, flagsOfRecord } from './place.ts'
import { fileName } from './read.ts'
import { fileId } from './slot.ts'
import { readOrigin } from './sdbox/names.ts'
import { type Walked, walkFile } from './walk.ts'
import { Pieces, Window } from './window.ts'

/** Mailboxes that are remembered while messages of theirs go by. */
const ORIGINS_MAX = 1024
/**
 * Message files that are read at once. While one is looked at the disk works for another: two readers get from it what one, which
 * waits at every turn and begins slowly in every file, does not.
 */
const FILES_AT_ONCE = 3
/** Messages that are kept of a file whose turn has not come. */
const KEPT_MAX = 4096

/** `alt`: it is the second tier that is in this directory. */
export async function* scanBox(
  fs: Fs,
  directory: string,
  { dead, alt = false }: { readonly dead: Dead; readonly alt?: boolean },
): AsyncGenerator<readonly BoxScanned[]> {
  const origins = new Map<string, BoxOrigin>()
  const ids = await listFiles(fs, directory)
  using pieces = new Pieces(FILES_AT_ONCE)
  const coming: Ahead<BoxScanned>[] = []
  let next = 0
  try {
    for (;;) {
      for (; coming.length < FILES_AT_ONCE && next < ids.length; next++)
        coming.push(new Ahead(scanFile({ fs, directory, id: ids[next]!, alt, dead, pieces, origins }), KEPT_MAX))
      const first = coming[0]
      if (first === undefined) return
      yield* first.pages()
      coming.shift()
    }
  } finally {
    await Promise.all(coming.map((one) => one[Symbol.asyncDispose]()))
  }
}

interface ScannedFile {
  readonly fs: Fs
  readonly directory: string
  readonly id: number
  readonly alt: boolean
  readonly dead: Dead
  readonly pieces: Pieces
  readonly origins: Map<string, BoxOrigin>
}

async function* scanFile(parts: ScannedFile): AsyncGenerator<readonly BoxScanned[]> {
  const { fs, directory, id, alt, dead, pieces, origins } = parts
  await using begun = await Begun.open(fs, `${directory}/m.${id}`, pieces)
  if (begun === undefined) return
  const file = fileName(alt, id)
  for await (const list of begun.window.walk(walkFile(begun.size))) {
    const page: BoxScanned[] = []
    for (const found of list) {
      if ('line' in found) {
        if (found.damage !== undefined) page.push({ file, offset: 0, ...NOTHING, damage: found.damage })
      } else {
        const { offset, guid, receivedMs, physicalSize, size, mailbox, segments, damage, sum } = found
        const row = damage === undefined ? rowOf(alt, id, found) : undefined
        const expunged = isDead(dead, id, offset, sum)
        const one: { -readonly [K in keyof BoxScanned]: BoxScanned[K] } = {
          file,
          offset,
          guid,
          receivedMs,
          physicalSize,
          size,
          mailbox,
          damage,
          row,
          expunged,
          checksum: sum,
        }
        const origin = originOf(found, origins)
        // Tens of thousands go by here: a spread costs more than all the rest of it.
        if (origin !== undefined) one.origin = origin
        if (segments !== undefined) one.segments = segments
        page.push(one)
      }
    }
    if (page.length > 0) yield page
  }
}

/** A message file that is being read. */
class Begun implements AsyncDisposable {
  readonly size: number
  readonly window: Window
  readonly #file: FsFile

  private constructor(file: FsFile, size: number, pieces: Pieces) {
    this.#file = file
    this.size = size
    this.window = new Window(file, size, pieces)
  }

  /** Undefined if there is nothing in it: it was begun and never flushed, or a purge removed it since it was listed. */
  static async open(fs: Fs, path: string, pieces: Pieces): Promise<Begun | undefined> {
    const file = await fs.open(path, 'read').catch(gone)
    if (file === undefined) return undefined
    try {
      const { size } = await file.stat()
      if (size > 0) return new Begun(file, size, pieces)
    } catch (error) {
      await file[Symbol.asyncDispose]()
      throw error
    }
    await file[Symbol.asyncDispose]()
    return undefined
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.window[Symbol.asyncDispose]()
    await this.#file[Symbol.asyncDispose]()
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

function rowOf(alt: boolean, file: number, record: Walked): Record<string, number> {
  const { offset, length, sum } = record
  return { file, offset, length, sum, flags: flagsOfRecord(record) | (alt ? FLAG_ALT : 0) }
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
