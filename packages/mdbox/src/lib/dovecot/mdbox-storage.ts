/**
 * The messages of an mdbox: m.N files in `storage`, here and in alternate storage, and the map that says where each one is.
 *
 * The map is believed only where the file agrees: a message is found by its number in the map and has to have the GUID that its
 * mailbox knows. Where it has not, or the map is lost, all files are gone through once and the message is found by its GUID.
 */
import { u16, u32 } from './binary.ts'
import { findHeader } from '../walk.ts'
import { Window } from '../window.ts'
import { type DboxRecord, readRecord } from './dbox-record.ts'
import type { Faults } from './fault.ts'
import type { FilePool, PooledFile } from './file-pool.ts'
import { type GuidPlace, GuidTable } from './guid-table.ts'
import { type MailIndex, UID_VALIDITY_AT } from './mail-index.ts'
import { readIndex } from './read-index.ts'
import { join, type NamedRoot, namesIn } from './root.ts'

/** Of a file whose first line is damaged: as everybody writes it. */
const HEADER_BYTES = 30
export const MAP_INDEX = 'dovecot.map.index'

export interface FoundRecord {
  readonly root: NamedRoot
  /** The file's name in the root. */
  readonly name: string
  readonly record: DboxRecord
}

/** Where a message should be and is not. */
export interface LostRecord {
  readonly why: string
  readonly file: string | undefined
  readonly offset: number | undefined
}

/** Whose message is looked for, for faults. */
export interface Owner {
  readonly mailbox: string
  readonly uid: number
}

export class MdboxStorage {
  readonly map: MailIndex | undefined
  /** The map has everything that happened to it. */
  readonly current: boolean
  readonly #roots: readonly NamedRoot[]
  readonly #pool: FilePool
  readonly #faults: Faults
  #scan: Promise<Scan> | undefined

  private constructor(
    map: MailIndex | undefined,
    current: boolean,
    roots: readonly NamedRoot[],
    pool: FilePool,
    faults: Faults,
  ) {
    this.map = map
    this.current = current
    this.#roots = roots
    this.#pool = pool
    this.#faults = faults
  }

  /** `roots`: `storage` of the store, then that of alternate storage. `index`: where the map is. */
  static async open(
    index: NamedRoot,
    roots: readonly NamedRoot[],
    pool: FilePool,
    faults: Faults,
  ): Promise<MdboxStorage> {
    const read = await readIndex(index, MAP_INDEX, faults)
    const map = read?.index
    const usable = map?.extension('map')?.stride === 12
    if (!usable) {
      const file = join(index.shown, MAP_INDEX)
      faults.add('map-lost', 'the map of messages is lost: they are found by their GUIDs', { file })
    }
    return new MdboxStorage(usable ? map : undefined, read?.current === true, roots, pool, faults)
  }

  get uidValidity(): number | undefined {
    return this.map?.headerField(UID_VALIDITY_AT)
  }

  /** How many mailboxes have the message of this row, as the map counts. */
  uses(row: number): number {
    const { map } = this
    const extension = map?.extension('ref')
    if (map === undefined || extension === undefined || extension.stride !== 2) return 0
    const data = map.data(extension, row)
    return data.length < 2 ? 0 : u16(data, 0, map.little)
  }

  /** The row's file, offset and size (0 if unknown); undefined if the row has none. */
  placeOf(row: number): { readonly file: number; readonly offset: number; readonly size: number } | undefined {
    const { map } = this
    const extension = map?.extension('map')
    if (map === undefined || extension === undefined) return undefined
    const data = map.data(extension, row)
    if (data.length < 12) return undefined
    return { file: u32(data, 0, map.little), offset: u32(data, 4, map.little), size: u32(data, 8, map.little) }
  }

  /** The message of a mailbox's row; faults say so too if it is lost. */
  async find(mapUid: number, guid: Uint8Array | undefined, owner: Owner): Promise<FoundRecord | LostRecord> {
    const { map } = this
    const row = map === undefined ? -1 : map.rowOf(mapUid)
    const place = row < 0 ? undefined : this.placeOf(row)
    let other: FoundRecord | undefined
    let why = map === undefined ? 'there is no map' : `the map has no message ${mapUid}`
    if (place !== undefined) {
      const name = `m.${place.file}`
      why = `there is no ${name}`
      for (const root of this.#roots) {
        const record = await this.#read(root, name, place.offset)
        if (record === undefined) continue
        if (typeof record === 'string') why = `${record}: ${join(root.shown, name)} at ${place.offset}`
        else if (guid !== undefined && record.guid !== undefined && Buffer.compare(guid, record.guid) === 0) {
          if (place.size !== 0 && record.end - record.offset !== place.size)
            this.#faults.add(
              'map-differs',
              `the map says ${place.size} bytes, there are ${record.end - record.offset}`,
              {
                file: join(root.shown, name),
                offset: place.offset,
                ...owner,
              },
            )
          return { root, name, record }
        } else {
          why = `${join(root.shown, name)} at ${place.offset} has another GUID`
          other ??= { root, name, record }
        }
      }
    }
    const scan = await this.scan()
    if (guid !== undefined) {
      const found = await this.byGuid(guid)
      if (found !== undefined) {
        if (map !== undefined)
          this.#faults.add('map-differs', `found by its GUID, since ${why}`, {
            file: join(found.root.shown, found.name),
            offset: found.record.offset,
            ...owner,
          })
        return found
      }
    }
    // Nothing else has the GUID and nothing is missing: then the GUID is what is wrong.
    if (other !== undefined && scan.whole && !scan.lostFiles(map, this)) {
      this.#faults.add('guid-differs', 'the mailbox knows another GUID than the message has, which no message has', {
        file: join(other.root.shown, other.name),
        offset: other.record.offset,
        ...owner,
      })
      return other
    }
    const lost: LostRecord = {
      why: `the message is lost: ${why}`,
      file: place === undefined ? undefined : join(this.#roots[0]!.shown, `m.${place.file}`),
      offset: place?.offset,
    }
    this.#faults.add('message-lost', lost.why, { file: lost.file, offset: lost.offset, ...owner })
    return lost
  }

  /** The first message with this GUID that can be read. */
  async byGuid(guid: Uint8Array): Promise<FoundRecord | undefined> {
    const { table } = await this.scan()
    for (const place of table.places(guid)) {
      const found = await this.at(place)
      if (found?.record.guid !== undefined && Buffer.compare(guid, found.record.guid) === 0) return found
    }
    return undefined
  }

  async at({ root, file, offset }: GuidPlace): Promise<FoundRecord | undefined> {
    const where = this.#roots[root]
    if (where === undefined) return undefined
    const name = `m.${file}`
    const record = await this.#read(where, name, offset)
    return record === undefined || typeof record === 'string' ? undefined : { root: where, name, record }
  }

  /** Where every message is, by going through all files; once. */
  scan(): Promise<Scan> {
    this.#scan ??= this.#scanAll()
    return this.#scan
  }

  #read(root: NamedRoot, name: string, offset: number): Promise<DboxRecord | string | undefined> {
    return this.#pool.with(root, name, (file) =>
      file === undefined
        ? Promise.resolve(undefined)
        : readRecord(file, offset, file.head?.headerBytes ?? HEADER_BYTES).catch(String),
    )
  }

  async #scanAll(): Promise<Scan> {
    const scan = new Scan()
    const offsets = this.#mapOffsets()
    for (let root = 0; root < this.#roots.length; root++) {
      const where = this.#roots[root]!
      for (const name of await namesIn(where, 'file', this.#faults)) {
        const id = /^m\.([1-9][0-9]{0,9})$/.exec(name)
        const file = Number(id?.[1] ?? 0)
        if (file === 0 || file > 0xffff_ffff) continue
        scan.files.add(file)
        await this.#pool.with(where, name, async (opened) => {
          if (opened === undefined) scan.whole = false
          else await this.#scanFile(opened, scan, { root, file }, offsets.get(file) ?? [])
        })
      }
    }
    return scan
  }

  async #scanFile(
    opened: PooledFile,
    scan: Scan,
    { root, file }: { readonly root: number; readonly file: number },
    known: readonly number[],
  ): Promise<void> {
    const headerBytes = opened.head?.headerBytes ?? HEADER_BYTES
    let at = opened.head?.length ?? 0
    let window: Window | undefined
    if (opened.head === undefined) scan.whole = false
    while (at < opened.size) {
      const record = await readRecord(opened, at, headerBytes).catch(String)
      if (typeof record !== 'string') {
        if (record.guid === undefined) scan.whole = false
        else scan.table.add(record.guid, { root, file, offset: at })
        at = record.end
        continue
      }
      scan.whole = false
      if (opened.head !== undefined || at > 0)
        this.#faults.add('file-damaged', record, { file: opened.shown, offset: at })
      // The map knows better where the next message begins than bytes that anybody may have sent.
      let next = firstAbove(known, at)
      if (next < 0) {
        window ??= new Window(opened.file, opened.size)
        next = await window.run(findHeader(at + 1, opened.size)).catch(() => -1)
      }
      if (next < 0) return
      at = next
    }
  }

  /** Offsets that the map has, by file, ascending. */
  #mapOffsets(): Map<number, number[]> {
    const found = new Map<number, number[]>()
    const { map } = this
    if (map === undefined) return found
    for (let row = 0; row < map.count; row++) {
      const place = map.gone[row] === 0 ? this.placeOf(row) : undefined
      if (place === undefined) continue
      const list = found.get(place.file)
      if (list === undefined) found.set(place.file, [place.offset])
      else list.push(place.offset)
    }
    for (const list of found.values()) list.sort((a, b) => a - b)
    return found
  }
}

/** The first of ascending numbers that is larger; -1 if none is. */
function firstAbove(numbers: readonly number[], value: number): number {
  let low = 0
  let high = numbers.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (numbers[middle]! <= value) low = middle + 1
    else high = middle
  }
  return numbers[low] ?? -1
}

/** What going through all files found. */
export class Scan {
  readonly table: GuidTable = new GuidTable()
  readonly files: Set<number> = new Set<number>()
  /** Nothing was damaged. */
  whole = true
  #lost: boolean | undefined

  /** Whether the map speaks of files that are not there. */
  lostFiles(map: MailIndex | undefined, storage: MdboxStorage): boolean {
    if (this.#lost === undefined) {
      this.#lost = map === undefined
      for (let row = 0; map !== undefined && row < map.count; row++) {
        const place = map.gone[row] === 0 ? storage.placeOf(row) : undefined
        if (place !== undefined && !this.files.has(place.file)) this.#lost = true
      }
    }
    return this.#lost
  }
}
