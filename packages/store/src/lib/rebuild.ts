/**
 * The rebuild of a closed store from everything that is left of it: the index's own evidence first (`repairIndex`), then the
 * message files, then the box's expunge journal. What each of them decides: `rebuild-plan.ts`.
 *
 * HOW   1. The index is repaired; tables of which nothing is left are made anew, empty. What it replaces it copies first. What it
 *          loses the tables themselves say from then on (`LOSS_KEY` of the index), so that whoever goes on after a crash knows it
 *          too, and nobody takes for dead meanwhile what is merely named by nobody (I-19).
 *       2. Every message file is read and verified.
 *       3. One transaction makes rows and messages fit each other, and takes back what the tables say is lost.
 *
 * What a crash leaves, so that the rebuild is made again, with the same end: 1. what the repair of the index leaves; after it,
 * an index whose lost tables are empty, and which says so: a store that has lost its tree cannot be opened, and nothing is purged;
 * 3. all of it or nothing.
 *
 * MEMORY   some 100 bytes for each message and row, and what messages say of parts that lie elsewhere; bodies are read through a window.
 */
import { MOVED_COLUMNS, MOVED_TABLE, privateColumns } from '@mailstead/acl/private-flags'
import { randomFillSync } from 'node:crypto'
import { type AttachmentFormat, BOX_USES_COLUMN, type BoxFormat, type BoxHost, type BoxTableView } from '@mailstead/box'
import { type Fs, FsError } from '@mailstead/fs'
import {
  type ColumnSpec,
  type Index,
  IndexError,
  LOSS_KEY,
  lossOf,
  openIndex,
  type RepairOptions,
  type RepairRecord,
  repairIndex,
  type Table,
} from '@mailstead/index'
import { mustBeOf, notGiven, recordedAttachments } from './attachments.ts'
import { MAILBOX_COLUMNS, type StoreOptions, type StoreRoots } from './contract.ts'
import { StoreError } from './error.ts'
import { storeError } from './failure.ts'
import { AttachmentsRebuild, mustHaveNoAttachments, mustReach } from './rebuild-attachments.ts'
import { RebuildAccess } from './rebuild-access.ts'
import { FoundMessages } from './rebuild-found.ts'
import { Mailboxes } from './rebuild-mailboxes.ts'
import { type Evidence, Plan } from './rebuild-plan.ts'
import { ofRepair, record, type RebuildRecord } from './rebuild-record.ts'
import { isIncomplete } from './incomplete.ts'
import { Ledger, saysMore } from './ledger.ts'
import { INDEX_PATH } from './path.ts'
import { checkRootOptions, hasIndex, indexPlace, mustBeOfRoots, recordedRoots } from './roots.ts'
import { BLOBS_TABLE, BOX_TABLE, guidOfTable, KEY_BOX, TREE_TABLE } from './tree.ts'

export interface RebuildOptions {
  /** Rooted at the store's own directory. Needs locks. */
  readonly fs: Fs
  /** As in `StoreOptions`. */
  readonly indexFs?: Fs
  /** As in `StoreOptions`. Compared with what the store records, before anything is written. */
  readonly roots?: StoreRoots
  /** As in `StoreOptions`, but not told the format that is recorded, which may be lost: told the roots, where they can be read. */
  readonly box: StoreOptions['box']
  /**
   * As `StoreOptions.attachments`. A store of which some message has parts elsewhere is not rebuilt without: STORE_UNAVAILABLE, before
   * anything is written.
   */
  readonly attachments?: AttachmentFormat
  /**
   * Say what would be done, and leave the store as it is: the index is copied to this empty file system (one in memory) and
   * rebuilt there. (default: the store is rebuilt)
   */
  readonly dryRunIn?: Fs
  /**
   * Whether it depends on the names of two mailboxes that have the same access list who may do what in them: a global file says something
   * of one of them. A message that may have been in either is then shown to nobody but the owner. (default: it does not)
   */
  readonly namesDiffer?: (one: string, other: string) => boolean
  /**
   * Whether nobody but the owner has any right in a mailbox of this name of which no access list of the store says anything: no default,
   * no INBOX and no global file does either. A message that was first saved there comes back there, wherever it may have been. (default:
   * nobody knows)
   */
  readonly isOwners?: (name: string) => boolean
  /** The clock, in milliseconds since the epoch. (default Date.now) */
  readonly now?: () => number
  /** Fills a buffer with randomness: GUIDs and salts. (default node:crypto) */
  readonly random?: (bytes: Uint8Array) => void
}

/** Records of one page. */
const PAGE = 64

/**
 * Rebuilds a store that nobody may have open (STORE_UNAVAILABLE if somebody has; where the storage has no
 * locks, it is the caller who sees to it). Gives what it changes, what cannot be
 * restored, and every message whose bytes are missing or damaged: those stay listed. It is done when the iteration ends; a
 * second one changes nothing. STORE_UNAVAILABLE, before anything is written, while a second tier that has messages is away or
 * not configured. STORE_NOT_FOUND if there is neither an index nor a message.
 */
export async function* rebuildStore(
  options: RebuildOptions,
): AsyncGenerator<readonly RebuildRecord[], void, undefined> {
  const { fs, dryRunIn, now = Date.now, random = (bytes: Uint8Array) => void randomFillSync(bytes) } = options
  checkRootOptions(options)
  try {
    await using held = new AsyncDisposableStack()
    const place = await indexPlace(options)
    const isThere = await hasIndex(place.fs)
    const ledger = new Ledger(fs)
    if (!isThere && (await options.box(fs).hasMessages?.()) !== true && !saysMore(await ledger.read()))
      throw new StoreError('STORE_NOT_FOUND', 'the directory holds neither an index nor messages')
    const format = await mustReachAll(options, place.fs, isThere)
    if (dryRunIn === undefined) await place.settle()
    else if (isThere) {
      held.use(await exclusive(place.fs))
      await copyIndex(place.fs, dryRunIn)
    }
    yield* paged(
      new Rebuild(dryRunIn ?? place.fs, format, options.attachments, {
        now: wholeMs(now),
        random,
        isDryRun: dryRunIn !== undefined,
        ledger,
        namesDiffer: options.namesDiffer ?? ((): boolean => false),
        isOwners: options.isOwners ?? ((): boolean => false),
      }).run(),
    )
  } catch (error) {
    throw storeError(error)
  }
}

/**
 * The format, which knows the roots then. STORE_UNAVAILABLE while messages are out of reach that the index, as far as it can be
 * read, or something beside the others says are there, or something else is mounted: what is not found is taken for lost.
 */
async function mustReachAll(
  { fs, roots = {}, box: boxOf, attachments }: RebuildOptions,
  indexFs: Fs,
  isThere: boolean,
): Promise<BoxFormat> {
  await using held = new AsyncDisposableStack()
  let format = boxOf(fs)
  let table: Table | undefined
  let tree: Table | undefined
  let index: Index | undefined
  try {
    index = held.use(await openIndex(indexFs, INDEX_PATH, { readOnly: true }))
    tree = index.info(TREE_TABLE) === undefined ? undefined : await index.open(TREE_TABLE)
    if (tree !== undefined) {
      const { values } = held.use(tree).view
      mustBeOfRoots(values, roots)
      format = boxOf(fs, undefined, recordedRoots(values))
    }
    table = index.info(BOX_TABLE) === undefined ? undefined : await index.open(BOX_TABLE)
    if (table !== undefined) await held.use(table).view.load(format.columns.map(({ name }) => name))
  } catch (error) {
    if (!(error instanceof IndexError)) throw error
    table = undefined
  }
  const recorded = recordedAttachments(tree) ?? (index?.info(BLOBS_TABLE) === undefined ? undefined : '?')
  if (recorded !== undefined) {
    if (attachments === undefined) throw notGiven(recorded)
    if (recorded !== '?') mustBeOf(attachments, recorded)
    await mustReach(attachments)
  }
  const box = held.use(await format.open(readingHost(index, table)))
  // Where the index is all gone the messages are looked at before anything is written anyway.
  if (isThere && tree === undefined && attachments === undefined) await mustHaveNoAttachments(box)
  const away = await box.unavailable?.()
  if (away !== undefined) throw away
  return format
}

function wholeMs(now: () => number): () => number {
  return () => Math.max(0, Math.floor(now()))
}

async function* paged(records: AsyncIterable<readonly RebuildRecord[]>): AsyncGenerator<readonly RebuildRecord[]> {
  for await (const list of records) for (let at = 0; at < list.length; at += PAGE) yield list.slice(at, at + PAGE)
}

function* pages(records: Iterable<RebuildRecord>): Generator<readonly RebuildRecord[]> {
  let page: RebuildRecord[] = []
  for (const one of records) {
    if (page.push(one) < PAGE) continue
    yield page
    page = []
  }
  if (page.length > 0) yield page
}

async function exclusive(fs: Fs): Promise<AsyncDisposable> {
  const lock = await fs.lock(`${INDEX_PATH}/open`)
  if (lock.tryAcquire('exclusive')) return lock
  await lock[Symbol.asyncDispose]()
  throw new IndexError('INDEX_LOCKED', 'the store is open: it can be rebuilt only when nobody uses it')
}

/** All that counts: caches do not, nor what earlier repairs replaced. */
async function copyIndex(from: Fs, to: Fs): Promise<void> {
  const files: string[] = [`${INDEX_PATH}/control`]
  for (const name of ['log', 'tables'])
    for await (const page of from.list(`${INDEX_PATH}/${name}`))
      for (const entry of page) files.push(`${INDEX_PATH}/${name}/${entry.name}`)
  for (const file of files) {
    const bytes = await readIfThere(from, file)
    if (bytes !== undefined) await to.writeFile(file, bytes)
  }
}

async function readIfThere(fs: Fs, path: string): Promise<Uint8Array | undefined> {
  try {
    return await fs.readFile(path)
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
    throw error
  }
}

interface Settings {
  readonly now: () => number
  readonly random: (bytes: Uint8Array) => void
  readonly isDryRun: boolean
  readonly ledger: Ledger
  readonly namesDiffer: (one: string, other: string) => boolean
  readonly isOwners: (name: string) => boolean
}

class Rebuild {
  readonly #fs: Fs
  readonly #format: BoxFormat
  readonly #attachments: AttachmentFormat | undefined
  readonly #settings: Settings
  #evidence: Evidence = { isLossy: false, lostRows: false }
  constructor(fs: Fs, format: BoxFormat, attachments: AttachmentFormat | undefined, settings: Settings) {
    this.#fs = fs
    this.#format = format
    this.#attachments = attachments
    this.#settings = settings
  }

  async *run(): AsyncGenerator<readonly RebuildRecord[]> {
    const isThere = await hasIndex(this.#fs)
    yield* this.#repairIndex()
    const found = new FoundMessages(this.#format.columns)
    if (!isThere) yield* this.#find(found, undefined, undefined)
    const { now, random } = this.#settings
    const { lock: alone } = this.#fs.supports
    await using index = await openIndex(this.#fs, INDEX_PATH, { create: true, alone, now, random })
    yield* this.#fit(index, found, isThere)
  }

  async *#find(
    found: FoundMessages,
    index: Index | undefined,
    boxTable: Table | undefined,
  ): AsyncGenerator<readonly RebuildRecord[]> {
    await using box = await this.#format.open(readingHost(index, boxTable))
    yield* found.read(box)
    if (!found.hasAttachments) return
    if (this.#attachments === undefined) throw notGiven('?')
    await mustReach(this.#attachments)
  }

  #learn({ isLossy, lostRows }: Evidence): void {
    const before = this.#evidence
    this.#evidence = { isLossy: before.isLossy || isLossy, lostRows: before.lostRows || lostRows }
  }

  /** What the index knows by itself. */
  async *#repairIndex(): AsyncGenerator<readonly RebuildRecord[]> {
    const { now, random } = this.#settings
    const repair: RepairOptions = { now, random, anew: (id) => this.#columnsOf(id) }
    if (!(await hasIndex(this.#fs))) {
      yield [record('lost', 'index', 'missing', 'none', 'made anew from the messages', { file: INDEX_PATH })]
      return
    }
    try {
      for await (const page of repairIndex(this.#fs, INDEX_PATH, repair))
        yield page.filter((one) => !isCountedAgain(one)).map(ofRepair)
    } catch (error) {
      if (!(error instanceof IndexError && error.code === 'INDEX_CORRUPT')) throw error
      yield [record('lost', 'index', 'damaged', 'none', `${error.message}; made anew`, { file: INDEX_PATH })]
      await this.#setAside()
    }
  }

  #columnsOf(id: string): readonly ColumnSpec[] | undefined {
    if (id === TREE_TABLE) return []
    if (id === BOX_TABLE) return [...this.#format.columns, { name: BOX_USES_COLUMN, bytes: 4 }]
    if (id === BLOBS_TABLE) return this.#attachments?.columns
    if (id === MOVED_TABLE) return MOVED_COLUMNS
    return guidOfTable(id) === undefined ? privateColumns(id) : MAILBOX_COLUMNS
  }

  /** Files of an index that nothing names: kept, out of the way. */
  async #setAside(): Promise<void> {
    const fs = this.#fs
    const stamp = new Date(this.#settings.now()).toISOString().replace(/[:.]/g, '-')
    for (const name of ['log', 'tables']) {
      const files: string[] = []
      for await (const page of fs.list(`${INDEX_PATH}/${name}`)) for (const entry of page) files.push(entry.name)
      for (const file of files) {
        const from = `${INDEX_PATH}/${name}/${file}`
        await fs.writeFile(`${INDEX_PATH}/repair-${stamp}/${name}/${file}`, await fs.readFile(from))
        await fs.remove(from)
      }
      await fs.syncDirectory(`${INDEX_PATH}/${name}`)
    }
    const control = `${INDEX_PATH}/control`
    if ((await fs.stat(control)) !== undefined) await fs.remove(control)
    await fs.syncDirectory(INDEX_PATH)
  }

  /** Makes rows and messages fit. */
  async *#fit(index: Index, found: FoundMessages, isThere: boolean): AsyncGenerator<readonly RebuildRecord[]> {
    const { now, random } = this.#settings
    const records: RebuildRecord[] = []
    await using opened = new AsyncDisposableStack()
    const tree = index.info(TREE_TABLE) === undefined ? undefined : await index.open(TREE_TABLE)
    const boxTable = index.info(BOX_TABLE) === undefined ? undefined : await index.open(BOX_TABLE)
    if (tree !== undefined) opened.use(tree)
    if (boxTable !== undefined) {
      opened.use(boxTable)
      await boxTable.view.load([...this.#format.columns.map(({ name }) => name), BOX_USES_COLUMN])
    }
    const known = tree?.view.values.get(KEY_BOX)
    if (known !== undefined && Buffer.from(known).toString() !== this.#format.name)
      throw new StoreError(
        'STORE_UNAVAILABLE',
        `the store's messages are in the format ${Buffer.from(known).toString()}, not ${this.#format.name}`,
      )
    if (tree === undefined || boxTable === undefined) this.#learn({ isLossy: true, lostRows: tree === undefined })
    for (const table of [tree, boxTable]) {
      const loss = table === undefined ? undefined : lossOf(table.view.values)
      if (loss !== undefined) this.#learn({ isLossy: true, lostRows: loss.rows })
    }

    if (isThere) yield* this.#find(found, index, boxTable)
    const attachments = await AttachmentsRebuild.open(this.#attachments, index, tree, found)

    await using tx = index.begin()
    const uidValidity = Math.max(1, Math.floor(now() / 1000))
    if (tree === undefined) tx.createTable({ id: TREE_TABLE, columns: [], uidValidity })
    if (boxTable === undefined) tx.createTable({ id: BOX_TABLE, columns: this.#columnsOf(BOX_TABLE)!, uidValidity })
    const guid = (): string => {
      const bytes = new Uint8Array(16)
      random(bytes)
      return Buffer.from(bytes).toString('hex')
    }
    const { ledger, namesDiffer, isOwners } = this.#settings
    const access = new RebuildAccess({ tx, records, ledger: await ledger.read(), namesDiffer, isOwners })
    await using mailboxes = new Mailboxes(index, tx, records, { now, guid, access })
    await mailboxes.open(tree)
    mailboxes.nameTables(found, this.#evidence.isLossy)
    if (mailboxes.lostTable || mailboxes.wereLost) this.#learn({ isLossy: true, lostRows: true })
    const plan = new Plan({ tx, found, mailboxes, box: boxTable, evidence: this.#evidence, now: now(), records })
    plan.decide()
    const values = new Map([[KEY_BOX, Buffer.from(this.#format.name)]])
    // Rows that still cannot be read may name anything.
    if (!mailboxes.areIncomplete)
      for (const table of [tree, boxTable])
        if (table !== undefined && isIncomplete(table)) tx.setValue(table.id, LOSS_KEY, undefined)
    attachments?.plan(tx, values, { uidValidity, isChanged: records.length > 0, keepsLoss: mailboxes.areIncomplete })
    mailboxes.finish(values)
    await tx.commit()
    yield records
    yield* pages(plan.settle())
    if (attachments !== undefined) yield* attachments.repair(plan, this.#settings.isDryRun)
    if (this.#settings.isDryRun) return
    await using settled = await index.open(TREE_TABLE)
    await ledger.replace(settled!.view.values)
    await using box = await this.#format.open(readingHost(index, boxTable))
    if (boxTable !== undefined) await box.journal?.()
    await box.rebuilt?.([...mailboxes.all].map(({ entry }) => entry))
  }
}

/** What the box sees while it only reads. */
function readingHost(index: Index | undefined, table: Table | undefined): BoxHost {
  return {
    table: table ?? { id: BOX_TABLE, view: NO_ROWS },
    transact: () => Promise.reject(new TypeError('a box changes nothing while its store is rebuilt')),
    refresh: async () => index?.refresh(),
    rebuilding: true,
    get isIncomplete() {
      return isIncomplete(table)
    },
  }
}

/** The box's uses are counted again when every row is what it should be. */
function isCountedAgain({ kind, table, field }: RepairRecord): boolean {
  return kind === 'remains' && table === BOX_TABLE && field === 'uses-miscounted'
}

const NO_ROWS: BoxTableView = {
  count: 0,
  uid: () => 0,
  rowOf: () => -1,
  extension: () => ({ number: () => 0, value: () => new Uint8Array(0) }),
}
