/**
 * Rebuilds the index of a box that is used alone from its message files: all of it, if it is lost, or what a repair of it lost.
 *
 * HOW   1. The index is repaired, as far as there is one. Before anything is written, `<path>/rebuilding` says that rows are lost:
 *          nobody opens the box until a rebuild has ended, and one that was cut short is made again with the same end.
 *       2. Every message file is read and verified.
 *       3. One transaction: rows whose message lies elsewhere are led there; where rows are lost, messages that no row names get
 *          one. Those that the expunge journal calls dead, and copies that a purge or a move left, get one without a use, so
 *          that the next purge takes them.
 *
 * INVARIANTS
 *   1. No row goes because its bytes are missing.
 *   2. A second rebuild changes nothing.
 *
 * MEMORY   some hundred bytes for each message; bodies are read through a window.
 */
import { BOX_USES_COLUMN, BoxError, type BoxHost, type BoxScanned, type BoxTableView } from '@mailstead/box'
import { type Fs, FsError } from '@mailstead/fs'
import {
  type AppendedRow,
  type Index,
  IndexError,
  LOSS_KEY,
  lossOf,
  openIndex,
  repairIndex,
  type Table,
} from '@mailstead/index'
import { hasMessages } from './altmove-tier.ts'
import { mdbox } from './mdbox.ts'
import type { MdboxOptions } from './options.ts'
import { COLUMNS, FLAG_ALT, PLACE_COLUMNS, Places } from './place.ts'
import { ownColumns, REBUILDING, TABLE, uidValidityAt } from './standalone-table.ts'

export interface MdboxRebuilt {
  /**
   * `back`: a message that no row named has the reference `ref` now. `led`: that of `ref` lies elsewhere than its row said.
   * `missing`: the bytes of `ref` are nowhere; it stays, damaged. `damaged`: these bytes are no whole message. `gone`: a message
   * that was removed, or is a copy of another. `index`: what the repair of the index says.
   */
  readonly kind: 'back' | 'led' | 'missing' | 'damaged' | 'gone' | 'index'
  readonly ref?: number
  /** 16 bytes: what tells which message it is, where references were lost. */
  readonly guid?: Uint8Array
  readonly file?: string
  readonly offset?: number
  /** For people. */
  readonly message: string
}

/** Records of one page. */
const PAGE = 256

/**
 * Rebuilds the index of the box in `path`, which nobody may have open (an IndexError, INDEX_LOCKED). Without any index
 * references are given anew: who kept them knows his messages by `guid`. Messages that were removed since the last purge
 * and whose rows are lost come back, unless the expunge journal has them. BOX_NOT_FOUND if there is neither an index nor a message;
 * BOX_DAMAGED if of the index nothing is left that says which it is: move `<path>/index` away then.
 */
export async function* rebuildMdbox(
  fs: Fs,
  path: string,
  options: MdboxOptions = {},
): AsyncGenerator<readonly MdboxRebuilt[], void, undefined> {
  const { now = Date.now } = options
  const records: MdboxRebuilt[] = []
  const isLossy = await repairOwn(fs, path, { now, records })
  yield* pagesOf(records.splice(0))
  {
    const { lock: alone } = fs.supports
    await using index = await openIndex(fs, `${path}/index`, { create: true, alone, now })
    const table = await index.open(TABLE)
    await using box = await mdbox(fs, path, options).open(readingHost(index, table))
    const found: Found[] = []
    for await (const page of box.scan())
      for (const one of page) {
        const { file, offset, damage, guid, row, expunged = false } = one
        if (guid !== undefined && row !== undefined) found.push({ file, offset, guid, row: placeOf(row), expunged })
        else records.push({ kind: 'damaged', file, offset, message: damage ?? 'no message' })
      }
    // Somebody may have repaired the index alone.
    const wasLossy = table === undefined || lossOf(table.view.values) !== undefined
    await fit(index, table, { found, isLossy: isLossy || wasLossy, now, records })
  }
  await forget(fs, path)
  yield* pagesOf(records)
}

function* pagesOf(records: readonly MdboxRebuilt[]): Generator<readonly MdboxRebuilt[]> {
  for (let at = 0; at < records.length; at += PAGE) yield records.slice(at, at + PAGE)
}

interface Work {
  readonly now: () => number
  readonly records: MdboxRebuilt[]
}

/** What the index knows by itself. Resolves to whether rows are lost, or were, in a rebuild that did not end. */
async function repairOwn(fs: Fs, path: string, { now, records }: Work): Promise<boolean> {
  const place = `${path}/index`
  const anew = (id: string): ReturnType<typeof ownColumns> | undefined => (id === TABLE ? ownColumns() : undefined)
  let isLossy = (await fs.stat(`${path}/${REBUILDING}`)) !== undefined
  try {
    let isDone = true
    for await (const page of repairIndex(fs, place, { now, anew, dryRun: true }))
      for (const { kind, field } of page) {
        if (kind !== 'note') isDone = false
        if (kind === 'lost' && field !== 'cache') isLossy = true
      }
    if (isDone) return isLossy
    if (isLossy) await note(fs, path)
    for await (const page of repairIndex(fs, place, { now, anew }))
      for (const { message, file } of page)
        records.push({ kind: 'index', message, ...(file === undefined ? {} : { file }) })
    return isLossy
  } catch (error) {
    if (!(error instanceof IndexError)) throw error
    if (error.code === 'INDEX_CORRUPT')
      throw new BoxError(
        'BOX_DAMAGED',
        `nothing of the index in ${place} can be used: move it away, and it is made anew`,
        {
          cause: error,
        },
      )
    if (error.code !== 'INDEX_NOT_FOUND') throw error
  }
  if (!(await hasMessages(fs, path))) throw new BoxError('BOX_NOT_FOUND', `there is no box in ${path}`)
  await note(fs, path)
  records.push({ kind: 'index', message: 'it is missing, and made anew from the messages', file: place })
  return true
}

async function note(fs: Fs, path: string): Promise<void> {
  await fs.writeFile(`${path}/${REBUILDING}`, Buffer.from('lossy\n'))
}

async function forget(fs: Fs, path: string): Promise<void> {
  try {
    await fs.remove(`${path}/${REBUILDING}`)
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return
    throw error
  }
  await fs.syncDirectory(path)
}

/** What a row says of the place of a message. */
type Placed = Record<(typeof COLUMNS)[number]['name'], number>

interface Found {
  readonly file: string
  readonly offset: number
  readonly guid: Uint8Array
  readonly row: Placed
  readonly expunged: boolean
}

function placeOf(row: NonNullable<BoxScanned['row']>): Placed {
  return Object.fromEntries(COLUMNS.map(({ name }) => [name, row[name] as number]))
}

const keyOfPlace = (alt: boolean, file: number, offset: number): string => `${alt ? 'alt' : ''}${file}:${offset}`
/** The same bytes, wherever they lie: header and metadata, the GUID among them, and the checksums of the body are in the sum. */
const keyOfBytes = (length: number, sum: number): string => `${length}:${sum}`

async function fit(
  index: Index,
  table: Table | undefined,
  { found, isLossy, now, records }: Work & { readonly found: readonly Found[]; readonly isLossy: boolean },
): Promise<void> {
  await using tx = index.begin()
  if (table === undefined) tx.createTable({ id: TABLE, columns: ownColumns(), uidValidity: uidValidityAt(now) })
  else if (lossOf(table.view.values) !== undefined) tx.setValue(TABLE, LOSS_KEY, undefined)
  const byPlace = new Map<string, number>()
  const byBytes = new Map<string, number[]>()
  for (const [at, { row }] of found.entries()) {
    byPlace.set(keyOfPlace((row['flags']! & FLAG_ALT) !== 0, row['file']!, row['offset']!), at)
    const key = keyOfBytes(row['length']!, row['sum']!)
    const list = byBytes.get(key)
    if (list === undefined) byBytes.set(key, [at])
    else list.push(at)
  }
  const named = new Set<number>()
  if (table !== undefined) {
    const { view } = table
    await view.load([...PLACE_COLUMNS, BOX_USES_COLUMN])
    const places = new Places(view)
    const uses = view.extension(BOX_USES_COLUMN)!
    const astray: number[] = []
    for (let row = 0; row < view.count; row++) {
      const alt = (places.flags.number(row) & FLAG_ALT) !== 0
      const at = byPlace.get(keyOfPlace(alt, places.file.number(row), places.offset.number(row)))
      const there = at === undefined ? undefined : found[at]!.row
      if (there?.['sum'] === places.sum.number(row) && there['length'] === places.length.number(row)) named.add(at!)
      else if (uses.number(row) > 0) astray.push(row)
    }
    for (const row of astray) {
      const ref = view.uid(row)
      const same = byBytes.get(keyOfBytes(places.length.number(row), places.sum.number(row))) ?? []
      const at = same.find((one) => !named.has(one))
      if (at === undefined) {
        records.push({
          kind: 'missing',
          ref,
          message: 'its bytes are missing or damaged; it stays until they are back',
        })
        continue
      }
      named.add(at)
      const { row: columns, file, offset, guid } = found[at]!
      for (const [name, value] of Object.entries(columns)) tx.setColumn(TABLE, name, ref, value)
      records.push({ kind: 'led', ref, guid, file, offset, message: 'it lies elsewhere than its row said' })
    }
  }
  const appended: { readonly row: AppendedRow; readonly of: Found; readonly kind: 'back' | 'gone' }[] = []
  for (const [at, one] of found.entries()) {
    if (!isLossy || named.has(at)) continue
    const same = byBytes.get(keyOfBytes(one.row['length']!, one.row['sum']!))!
    const kind = one.expunged || same.some((other) => named.has(other)) ? 'gone' : 'back'
    named.add(at)
    const columns = { ...one.row, [BOX_USES_COLUMN]: kind === 'back' ? 1 : 0 }
    appended.push({ row: tx.append(TABLE, { columns }), of: one, kind })
  }
  await tx.commit()
  for (const { row, of: one, kind } of appended) {
    const { guid, file, offset } = one
    const why = one.expunged ? 'the journal says that it was removed' : 'a copy of another'
    const message = kind === 'back' ? 'no row named it' : why
    records.push({ kind, ...(kind === 'back' ? { ref: row.uid } : {}), guid, file, offset, message })
  }
}

/** What the box sees while it only reads. */
function readingHost(index: Index, table: Table | undefined): BoxHost {
  return {
    table: table ?? { id: TABLE, view: NO_ROWS },
    transact: () => Promise.reject(new TypeError('a box changes nothing while it is rebuilt')),
    refresh: () => index.refresh(),
    rebuilding: true,
  }
}

const NO_COLUMN = { number: () => 0, value: () => new Uint8Array(0) }
const NO_ROWS: BoxTableView = { count: 0, uid: () => 0, rowOf: () => -1, extension: () => NO_COLUMN }
