/**
 * The list of tables and the one before it, as files: `tables/directory`, `tables/directory.old`. The second is what is left where
 * the first is damaged; the log is kept back to what it needs.
 */
import type { Fs } from '@mailstead/fs'
import type { Entry } from './entries.ts'
import { asSeen, readIfThere } from './if-there.ts'
import type { Settings } from './settings.ts'
import {
  type LazyTableList,
  listChecksum,
  openTableList,
  readTableList,
  type TableList,
  writeTableList,
} from './table-list.ts'

export class ListFiles {
  readonly #fs: Fs
  readonly #prefix: string
  readonly #uuid: Uint8Array
  readonly #onEvent: Settings['onEvent']
  /** What `tables/directory` said when it was last read or written. */
  generation = 0
  /** Its length then, in bytes; 0 if there was none. */
  length = 0
  /** That was `directory.old`, because `directory` is lost: what it says of the files is not the newest. */
  isOld = false
  /** Without locks: nothing is replaced but what was seen. */
  readonly #conditional: boolean
  #tag: string | undefined
  #oldTag: string | undefined

  constructor(fs: Fs, prefix: string, uuid: Uint8Array, { onEvent }: Settings) {
    this.#fs = fs
    this.#prefix = prefix
    this.#uuid = uuid
    this.#onEvent = onEvent
    this.#conditional = !fs.supports.lock
  }

  /** To replace it later. Undefined if there is none, or none is left. */
  async read(): Promise<TableList | undefined> {
    // Whoever is slow must not put an older list in the place of the one that the log is kept for.
    if (this.#conditional) this.#oldTag = (await this.#fs.stat(`${this.#prefix}tables/directory.old`))?.tag
    // What is replaced later must be what is read now.
    this.#tag = this.#conditional ? (await this.#fs.stat(`${this.#prefix}tables/directory`))?.tag : undefined
    return this.#read(readTableList)
  }

  /** To open tables one by one. */
  open(): Promise<LazyTableList | undefined> {
    return this.#read(openTableList)
  }

  async #read<L extends TableList | LazyTableList>(read: (bytes: Uint8Array) => L | undefined): Promise<L | undefined> {
    this.isOld = false
    this.length = 0
    for (const name of ['directory', 'directory.old']) {
      const bytes = await readIfThere(this.#fs, `${this.#prefix}tables/${name}`)
      if (bytes === undefined) continue
      const list = read(bytes)
      if (list !== undefined && Buffer.compare(list.uuid, this.#uuid) === 0) {
        this.generation = list.generation
        this.length = bytes.length
        this.isOld = name !== 'directory'
        return list
      }
      this.#onEvent({ kind: 'directory-damaged', message: `${this.#prefix}tables/${name} is damaged` })
    }
    return undefined
  }

  /** The generation of the list that there is now; 0 if there is none. Nothing of what was read before is forgotten. */
  async newestGeneration(): Promise<number> {
    for (const name of ['directory', 'directory.old']) {
      const bytes = await readIfThere(this.#fs, `${this.#prefix}tables/${name}`)
      const list = bytes === undefined ? undefined : openTableList(bytes)
      if (list !== undefined && Buffer.compare(list.uuid, this.#uuid) === 0) return list.generation
    }
    return 0
  }

  /** The last frame up to which nothing touched a table after `from`, by what either list says; `from` where none does. */
  async untouchedUpTo(entry: Entry, from: number): Promise<number> {
    let frame = from
    for (const name of ['directory', 'directory.old']) {
      const bytes = await readIfThere(this.#fs, `${this.#prefix}tables/${name}`)
      const list = bytes === undefined ? undefined : openTableList(bytes)
      if (list === undefined || Buffer.compare(list.uuid, this.#uuid) !== 0) continue
      // A repair that was stopped wrote the older of the two first.
      if (name !== 'directory' && list.generation > this.generation) continue
      const place = list.listed.placeOfNumber(entry.number)
      if (place >= 0) frame = Math.max(frame, list.listed.entry(place).untouchedUpTo(from, list.next))
    }
    return frame
  }

  /** Writes the list of a checkpoint, keeping the one before, for which the log is kept. */
  async write(list: TableList): Promise<void> {
    const path = `${this.#prefix}tables/directory`
    const before = await readIfThere(this.#fs, path)
    const old = before === undefined ? undefined : readTableList(before)
    if (before !== undefined && old !== undefined)
      await this.#fs.writeFile(`${path}.old`, before, asSeen(this.#fs, this.#oldTag))
    await this.replace(list)
  }

  /** Writes a list that names the snapshots of the one before: what that one followed is kept, and goes on saying more of the log. */
  async replace(list: TableList): Promise<void> {
    const bytes = writeTableList(list)
    await this.#fs.writeFile(`${this.#prefix}tables/directory`, bytes, asSeen(this.#fs, this.#tag))
    this.generation = list.generation
    this.length = bytes.length
  }

  /** The checksum that the list ends with; 0 if there is none. */
  async checksum(): Promise<number> {
    const bytes = await readIfThere(this.#fs, `${this.#prefix}tables/directory`)
    return bytes === undefined ? 0 : listChecksum(bytes)
  }
}
