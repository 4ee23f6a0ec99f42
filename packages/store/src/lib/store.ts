/**
 * A store: one directory with an index and a box, opened once per process and shared by all sessions.
 *
 * DIRECTORY   index/       the log, snapshots and caches (`@mailstead/index`); perhaps in another root
 *             index-root   which root that is (roots.ts)
 *             ledger       what the index says of mailboxes (ledger.ts)
 *             storage/     messages (the box's)
 */
import type { PrivateFlags } from '@mailstead/acl/private-flags'
import {
  type AltmoveReport,
  type AttachmentStats,
  type AttachmentStore,
  type AttachmentSweepOptions,
  type AttachmentSweepReport,
  BOX_USES_COLUMN,
  type BoxBudget,
  type BoxFormat,
  type BoxHost,
  type PurgeReport,
} from '@mailstead/box'
import { FsError } from '@mailstead/fs'
import { type Index, IndexError, type IndexOptions, openIndex, type Table, transactLent } from '@mailstead/index'
import { altmoveStore, type StoreAltmoveOptions } from './altmove.ts'
import { attachmentsError, createAttachments, segmentsOnDisk, StoreAttachments } from './attachments.ts'
import { checkStore } from './check.ts'
import type { Store, StoreFinding, StoreMoves, StoreOptions, StoreSession, Subject } from './contract.ts'
import { ATTEMPTS_MAX, Core, type Settings, withDefaults } from './core.ts'
import { StoreError } from './error.ts'
import { storeError } from './failure.ts'
import { isIncomplete } from './incomplete.ts'
import { isOfTree, Ledger, saysMore } from './ledger.ts'
import { ascertaining, type ValueChanges } from './ledger-access.ts'
import type { LedgerState } from './ledger-format.ts'
import { INDEX_PATH } from './path.ts'
import { INBOX } from './name.ts'
import { storeMoves } from './moves.ts'
import { boxMailboxes } from './names.ts'
import { addMailbox, Session } from './session.ts'
import { checkRoots, INDEX_ROOT_FILE, type IndexPlace, indexPlace, recordedRoots } from './roots.ts'
import {
  BOX_TABLE,
  decodeNumber,
  encodeNumber,
  KEY_BOX,
  KEY_VALIDITY,
  KEY_VERSION,
  TREE_TABLE,
  Tree,
  type TreeState,
} from './tree.ts'

/**
 * Opens a store. STORE_NOT_FOUND if the directory holds none and `create` is not given; STORE_UNAVAILABLE if the
 * storage cannot be used or is another root's; STORE_CORRUPT if it cannot be made sense of, or there are messages and no
 * index, with `create` too (`rebuildStore`). A store is created with INBOX in one frame, or not.
 */
export async function openStore(options: StoreOptions): Promise<Store> {
  const settings = withDefaults(options)
  const { create = false, fs } = options
  if (create && settings.readOnly) throw new TypeError('a store cannot be created read-only')
  await using opened = new AsyncDisposableStack()
  try {
    const { now, random, onEvent, readOnly } = settings
    const cacheFields = Object.fromEntries(settings.cacheFields.map(({ name, decision = 'yes' }) => [name, decision]))
    let format = options.box(fs)
    const place = await indexPlace(options)
    const ledger = new Ledger(fs)
    const recorded = await ledger.read()
    const evidence: Evidence = { format, ledger: recorded }
    const index = await openStoreIndex(options, place, evidence, { readOnly, now, random, onEvent, cacheFields })
    opened.use(index)
    const [tree, boxTable] = await openTables(index, settings, create, options, evidence)
    const values = (): ReadonlyMap<string, Uint8Array> => tree.view.values
    const name = Buffer.from(values().get(KEY_BOX) ?? []).toString()
    if (name === '') throw indexLost('the tree of mailboxes is empty')
    await checkRoots(index, values, options.roots ?? {}, { readOnly, onEvent, isIndexApart: place.fs !== fs })
    if (place.isDamaged) onEvent({ kind: 'index-root-damaged', message: `${INDEX_ROOT_FILE} cannot be read` })
    if (!readOnly) await place.settle()
    format = options.box(fs, name, recordedRoots(values()))
    if (name !== format.name)
      throw new StoreError('STORE_UNAVAILABLE', `the store's messages are in the format ${name}, not ${format.name}`)
    const attachments = opened.use(
      await StoreAttachments.open({ index, tree, format: options.attachments, readOnly, now }),
    )
    const names = new Tree(() => tree.view)
    let core: Core | undefined
    const host: BoxHost = {
      table: boxTable,
      mailboxes: boxMailboxes(index, names, () => core!.tables),
      transact: (body) => transactLent(index, BOX_USES_COLUMN, body),
      refresh: () => index.refresh(),
      get isIncomplete() {
        return isIncomplete(boxTable, tree)
      },
      get attachments() {
        return attachments.store
      },
    }
    const box = await format.open(host)
    const away = await box.unavailable?.()
    if (away !== undefined) settings.onEvent({ kind: 'tier-unavailable', message: away.message })
    core = new Core({
      settings,
      index,
      box,
      attachments,
      tree: names,
      treeTable: tree,
      ledger,
      isLedgerDamaged: recorded === 'damaged',
      indexFs: place.fs,
      syncRead: place.fs.supports.syncRead,
      isIndexRootDamaged: place.isDamaged,
    })
    opened.move()
    try {
      if (!readOnly) await agree(core, tree, recorded)
    } catch (error) {
      await core.close()
      throw error
    }
    return new OpenedStore(core, tree, boxTable)
  } catch (error) {
    throw storeError(error)
  }
}

/** Makes an index only where there are no messages either. */
async function openStoreIndex(
  { create = false }: StoreOptions,
  place: IndexPlace,
  evidence: Evidence,
  options: IndexOptions,
): Promise<Index> {
  try {
    return await openIndex(place.fs, INDEX_PATH, options)
  } catch (error) {
    if (!(error instanceof IndexError && error.code === 'INDEX_NOT_FOUND')) throw error
    await mustBeNew(evidence)
    if (!create) throw error
  }
  await place.begin()
  return openIndex(place.fs, INDEX_PATH, { ...options, create })
}

/** What tells that there was a store here. */
interface Evidence {
  readonly format: BoxFormat
  readonly ledger: LedgerState | 'missing' | 'damaged'
}

/** Messages or a ledger without mailboxes are no empty store: what named them is lost, or not mounted. */
async function mustBeNew({ format, ledger }: Evidence): Promise<void> {
  if ((await format.hasMessages?.()) === true) throw indexLost('there are messages')
  if (saysMore(ledger)) throw indexLost('there is a ledger of mailboxes')
}

/**
 * Index and ledger say the same from here on. Where the index says less than the ledger, which was read before it, it has lost what was
 * acknowledged.
 */
async function agree(core: Core, tree: Table, known: LedgerState | 'missing' | 'damaged'): Promise<void> {
  const { values } = tree.view
  const ledger = typeof known === 'object' ? known : undefined
  if (ledger !== undefined && isOfTree(ledger, values)) return
  const isOlder = ledger !== undefined && ledger.version > decodeNumber(values.get(KEY_VERSION))
  if (isOlder || isIncomplete(tree)) {
    const changesIn = (state: TreeState): ValueChanges =>
      ['', ...state.byGuid.keys()].flatMap((guid) => ascertaining(guid, state.values, ledger))
    if (isOlder || changesIn(core.tree.state).length > 0) {
      await core.changeTree((change) => {
        const { tx, state } = change
        change.keepValidity(decodeNumber(ledger?.values.get(KEY_VALIDITY)))
        for (const [key, value] of changesIn(state)) tx.setValue(TREE_TABLE, key, value)
        const newest = Math.max(ledger?.version ?? 0, decodeNumber(state.values.get(KEY_VERSION)))
        tx.setValue(TREE_TABLE, KEY_VERSION, encodeNumber(newest + 1, 6))
      })
      const what = isOlder ? 'is older than the ledger' : 'has lost something'
      const message = `the index ${what}: who may see mailboxes is what the ledger says, and nobody where it does not`
      core.settings.onEvent({ kind: 'access-restored', message })
      return
    }
  }
  try {
    await core.followTree()
  } catch (error) {
    if (!(error instanceof FsError) || error.code === 'FS_UNAVAILABLE') throw error
    // The store is what it is; the next change of mailboxes tries it again, or fails.
    core.settings.onEvent({ kind: 'ledger-failed', message: error.message })
  }
}

function indexLost(what: string): StoreError {
  return new StoreError('STORE_CORRUPT', `${what}, and the index that knows the mailboxes is lost: rebuild the store`)
}

/** The tree and the box's table; made, with INBOX, where there is none yet. */
async function openTables(
  index: Index,
  settings: Settings,
  create: boolean,
  { attachments }: Pick<StoreOptions, 'attachments'>,
  evidence: Evidence,
): Promise<[tree: Table, box: Table]> {
  for (let attempt = 1; index.info(TREE_TABLE) === undefined; attempt++) {
    const { format, ledger } = evidence
    await mustBeNew(evidence)
    if (!create) throw new StoreError('STORE_NOT_FOUND', 'the directory holds no store')
    try {
      await using tx = index.begin()
      const uidValidity = Math.max(1, Math.floor(settings.now() / 1000))
      tx.createTable({ id: TREE_TABLE, columns: [], uidValidity })
      tx.createTable({ id: BOX_TABLE, columns: [...format.columns, { name: BOX_USES_COLUMN, bytes: 4 }], uidValidity })
      if (attachments !== undefined) createAttachments(tx, attachments, uidValidity)
      tx.setValue(TREE_TABLE, KEY_BOX, Buffer.from(format.name))
      // Newer than what an empty store left that was here.
      tx.setValue(TREE_TABLE, KEY_VERSION, encodeNumber(typeof ledger === 'object' ? ledger.version + 1 : 1, 6))
      tx.setValue(TREE_TABLE, KEY_VALIDITY, encodeNumber(uidValidity, 4))
      const state = {
        values: new Map(),
        byName: new Map(),
        byGuid: new Map(),
        imports: new Map(),
        subscriptions: new Set<string>(),
        damaged: [],
      }
      const guid = (): Uint8Array => {
        const bytes = new Uint8Array(16)
        settings.random(bytes)
        return bytes
      }
      addMailbox({ guid, settings }, { tx, state, nextValidity: () => uidValidity, keepValidity: () => {} }, INBOX)
      await tx.commit()
    } catch (error) {
      // Another process makes it at the same time.
      if (!(error instanceof IndexError && error.code === 'INDEX_TABLE_EXISTS') || attempt === ATTEMPTS_MAX) throw error
      await index.refresh()
    }
  }
  const tree = await index.open(TREE_TABLE)
  const box = await index.open(BOX_TABLE)
  if (tree === undefined || box === undefined)
    throw new StoreError('STORE_CORRUPT', `the store lacks its table ${tree === undefined ? TREE_TABLE : BOX_TABLE}`)
  return [tree, box]
}

class OpenedStore implements Store {
  readonly #core: Core
  readonly #tree: Table
  readonly #boxTable: Table

  constructor(core: Core, tree: Table, boxTable: Table) {
    this.#core = core
    this.#tree = tree
    this.#boxTable = boxTable
  }

  get owner(): string {
    return this.#core.settings.owner
  }
  get uuid(): Uint8Array {
    return this.#core.index.uuid
  }

  get moves(): StoreMoves {
    return storeMoves(this.#core)
  }

  as(subject: Subject): StoreSession {
    this.#core.mustBeOpen()
    return new Session(this.#core, subject)
  }

  privateFlags(): Promise<PrivateFlags> {
    return this.#core.privateFlags()
  }

  check(): AsyncIterable<readonly StoreFinding[]> {
    return checkStore(this.#core, this.#boxTable)
  }

  async purge(budget: BoxBudget = {}): Promise<PurgeReport> {
    this.#core.mustBeWritable()
    return this.#core.work(async () => {
      await this.#core.index.refresh()
      this.#core.attachments.mustBeGiven()
      return this.#core.box.purge(budget)
    })
  }

  async unpurged(): Promise<number> {
    return this.#core.work(async () => {
      await this.#core.index.refresh()
      const { view } = this.#boxTable
      await view.load?.([BOX_USES_COLUMN])
      const uses = view.extension(BOX_USES_COLUMN)
      let count = 0
      for (let row = 0; row < view.count; row++) if (uses?.number(row) === 0) count++
      return count
    })
  }

  get hasAttachments(): boolean {
    return this.#core.attachments.store !== undefined
  }

  async sweepAttachments(
    options?: Omit<AttachmentSweepOptions, 'messages'>,
  ): Promise<AttachmentSweepReport | undefined> {
    this.#core.mustBeWritable()
    return this.#withAttachments(async (store) => {
      await this.#core.index.refresh()
      if (isIncomplete(this.#tree, this.#boxTable) || this.#core.attachments.needRepair)
        throw new StoreError(
          'STORE_INCOMPLETE',
          'a repair of the index may have lost uses of attachments: nothing is swept before a rebuild',
        )
      return store.sweep({ ...options, messages: () => segmentsOnDisk(this.#core.box) })
    })
  }

  async attachmentStats(): Promise<AttachmentStats | undefined> {
    return this.#withAttachments((store) => store.stats())
  }

  #withAttachments<T>(body: (store: AttachmentStore) => Promise<T>): Promise<T | undefined> {
    return this.#core.work(async () => {
      const { store } = this.#core.attachments
      return store === undefined ? undefined : body(store)
    }, attachmentsError)
  }

  get hasTiers(): boolean {
    return this.#core.box.altmove !== undefined
  }

  async altmove(options: StoreAltmoveOptions): Promise<AltmoveReport> {
    this.#core.mustBeWritable()
    return this.#core.work(() => altmoveStore(this.#core, this.#boxTable, options))
  }

  async checkpoint(): Promise<void> {
    this.#core.mustBeWritable()
    await this.#core.work(async () => {
      await this.#core.index.checkpoint()
      await this.#core.box.journal?.()
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#core.close()
    } catch (error) {
      throw storeError(error)
    }
  }
}
