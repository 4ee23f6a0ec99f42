/**
 * Everything that is wrong with a store: what its index and its box find in themselves, and what only both together
 * show. Read-only, while others work on the store: rows are compared as of one frame, and what is said of a message is
 * said only if it still holds of the newest rows. Memory is bounded by the number of messages, not by their sizes.
 * What cannot be read is a finding, and the rest is looked at without it.
 */
import { MOVED_TABLE, privateColumns } from '@mailstead/acl/private-flags'
import type { Box, BoxFinding } from '@mailstead/box'
import { IndexError, type IndexFinding, type Table, type TableView } from '@mailstead/index'
import { checkBlobs, checkBlobUses } from './check-attachments.ts'
import { finding, isOutage, PAGE, type Seen } from './check-finding.ts'
import { FORM_CANONICAL, type StoreFinding } from './contract.ts'
import type { Core } from './core.ts'
import { StoreError } from './error.ts'
import { storeError } from './failure.ts'
import { INBOX } from './name.ts'
import { LEDGER } from './ledger.ts'
import { INDEX_ROOT_FILE } from './roots.ts'
import type { TableLease } from './tables.ts'
import { storeMoves } from './moves.ts'
import { BLOBS_TABLE, BOX_TABLE, type Entry, guidOfTable, mailboxTable, TREE_TABLE } from './tree.ts'

/** Bytes read at once of a message that is compared with its row. */
const CHUNK = 64 * 1024
const LF = 10
const CR = 13

export async function* checkStore(
  core: Core,
  boxTable: Table,
): AsyncGenerator<readonly StoreFinding[], void, undefined> {
  core.mustBeOpen()
  const seen: Seen = { outage: undefined, segments: new Map(), brokenBlobs: false }
  for (const pass of [checkIndex, checkBox, checkTree, checkBlobs, checkRows, checkBlobUses])
    try {
      yield* pass(core, boxTable, seen)
    } catch (error) {
      // The other passes look at what this one could not get to.
      if (isOutage(error)) seen.outage ??= error
      else if (!isDamage(error)) throw storeError(error)
      else yield [unreadable(error)]
    }
  // What is away is not damaged: nobody knows, and that is said once the rest is.
  if (seen.outage !== undefined) throw storeError(seen.outage)
}

async function* checkIndex(core: Core): AsyncGenerator<readonly StoreFinding[], void, undefined> {
  await core.index.refresh()
  for await (const page of core.index.check()) if (page.length > 0) yield page.map((each) => ofIndex(core, each))
}

async function* checkBox(core: Core): AsyncGenerator<readonly StoreFinding[], void, undefined> {
  for await (const page of core.box.check()) if (page.length > 0) yield page.map(ofBox)
}

function isDamage(error: unknown): error is Error {
  const named = storeError(error)
  return named instanceof StoreError && (named.code === 'STORE_CORRUPT' || named.code === 'STORE_DAMAGED')
}

/** Layers below begin their messages with the file, and say `at offset N`. */
function unreadable({ message }: Error, mailbox?: string): StoreFinding {
  const offset = / at offset (\d+)/.exec(message)?.[1]
  return finding('unreadable', message, {
    file: /^([^\s:]+): /.exec(message)?.[1],
    offset: offset === undefined ? undefined : Number(offset),
    mailbox,
  })
}

function ofIndex(core: Core, { severity, kind, file, offset, table, uid, message }: IndexFinding): StoreFinding {
  const guid = table === undefined ? undefined : guidOfTable(table)
  const mailbox = guid === undefined ? undefined : (core.tree.state.byGuid.get(guid)?.name ?? guid)
  return { severity, kind, file, offset, mailbox, uid: guid === undefined ? undefined : uid, message }
}

function ofBox({ severity, kind, file, offset, message }: BoxFinding): StoreFinding {
  return { severity, kind, file, offset, mailbox: undefined, uid: undefined, message }
}

/** Tables that are no mailbox's. */
const OWN_TABLES: ReadonlySet<string> = new Set([TREE_TABLE, BOX_TABLE, BLOBS_TABLE, MOVED_TABLE])

/** Names, tables, UIDVALIDITY. */
function* checkTree(core: Core): Generator<readonly StoreFinding[], void, undefined> {
  const { index, tree } = core
  const { byGuid, byName, damaged, imports } = tree.state
  const found: StoreFinding[] = []
  for (const key of damaged)
    found.push(finding('tree-entry', `the entry ${key} cannot be read, or its name is another mailbox's too`))
  if (core.isIndexRootDamaged)
    found.push(finding('index-root', 'it cannot be read; the index is found all the same', { file: INDEX_ROOT_FILE }))
  if (core.isLedgerDamaged)
    found.push(finding('ledger', 'it cannot be read; what it says is in the index too', { file: LEDGER }))
  if (!byName.has(INBOX)) found.push(finding('no-inbox', 'there is no INBOX'))
  const validities = new Map<number, string>()
  for (const { guid, name, uidValidity } of byGuid.values()) {
    const table = index.info(mailboxTable(guid))
    if (table === undefined) found.push(finding('no-table', 'the mailbox has no table', { mailbox: name }))
    else if (table.uidValidity !== uidValidity)
      found.push(
        finding('uidvalidity', `UIDVALIDITY is ${table.uidValidity} in the table, ${uidValidity} in the tree`, {
          mailbox: name,
        }),
      )
    const other = validities.get(uidValidity)
    // Of two that were imported it may be so; their names should not be exchanged, then.
    if (other !== undefined)
      found.push(
        finding('uidvalidity', `UIDVALIDITY ${uidValidity} is that of ${other} too`, {
          severity: 'note',
          mailbox: name,
        }),
      )
    validities.set(uidValidity, name)
  }
  for (const { guid, name } of imports.values()) {
    const count = index.info(mailboxTable(guid))?.count ?? 0
    const message = `an import of ${name} is not finished (${count} messages): the same import goes on with it`
    found.push(finding('import-unfinished', message, { severity: 'note', mailbox: name }))
  }
  for (const { mailbox, to, uids } of storeMoves(core).pending()) {
    const name = byGuid.get(mailbox)?.name
    const message = `a move of ${uids.size} messages to ${to} is not settled: that is done when a server opens the store`
    found.push(finding('move-pending', message, { severity: 'note', ...(name === undefined ? {} : { mailbox: name }) }))
  }
  for (const { id } of index.tables) {
    const guid = guidOfTable(id)
    if (guid !== undefined && imports.has(guid)) continue
    // What the owner has of his own in mailboxes of others.
    if (guid === undefined && privateColumns(id) !== undefined) continue
    if (guid === undefined ? !OWN_TABLES.has(id) : !byGuid.has(guid))
      found.push(finding('dangling-table', `no mailbox has the table ${id}`))
  }
  if (found.length > 0) yield found
}

/** Times everything is opened again because mailboxes came or went meanwhile. */
const ATTEMPTS_MAX = 8

interface Views {
  readonly box: TableView
  readonly mailboxes: readonly { readonly entry: Entry; readonly table: Table; readonly view: TableView }[]
  /** Every mailbox there is could be opened: uses can be counted. */
  readonly complete: boolean
}

/** All views as of one frame: whoever works on the store meanwhile is not to look like damage. */
async function viewsOf(
  core: Core,
  boxTable: Table,
  leases: AsyncDisposableStack,
  page: StoreFinding[],
): Promise<Views> {
  for (let attempt = 1; ; attempt++) {
    const { state } = core.tree
    // Rows of mailboxes that are being imported name messages too.
    const all = [...core.tree.sorted, ...state.imports.values()]
    const found: StoreFinding[] = []
    const opened: { entry: Entry; table: Table }[] = []
    for (const entry of all) {
      const lease = await acquire(core, entry, found)
      if (lease !== undefined) opened.push({ entry, table: leases.use(lease).table })
    }
    // From here to the end nothing else runs.
    const same = core.tree.state === state
    if (!same && attempt < ATTEMPTS_MAX) continue
    page.push(...found)
    return {
      box: boxTable.view,
      mailboxes: opened.map(({ entry, table }) => ({ entry, table, view: table.view })),
      complete: same && opened.length === all.length,
    }
  }
}

/** Every row names a message that is there and is what the row says. Each message is read once. */
async function* checkRows(
  core: Core,
  boxTable: Table,
  seen: Seen,
): AsyncGenerator<readonly StoreFinding[], void, undefined> {
  await using leases = new AsyncDisposableStack()
  let page: StoreFinding[] = []
  const { box: boxView, mailboxes, complete } = await viewsOf(core, boxTable, leases, page)
  let allRead = complete
  const { count } = boxView
  /** By row of the box's table: uses counted, canonical size (-1: unreadable) and whether that was looked up. */
  const uses = new Uint32Array(count)
  const sizes = new Float64Array(count)
  const looked = new Uint8Array(count)
  for (const { entry, table, view } of mailboxes) {
    try {
      await view.load(core.columnNames)
    } catch (error) {
      if (!isDamage(error)) throw error
      page.push(unreadable(error, entry.name))
      allRead = false
      continue
    }
    const box = view.extension('box')
    const guids = view.extension('guid')
    const rowSizes = view.extension('size')
    const forms = view.extension('form')
    if (box === undefined || guids === undefined || rowSizes === undefined || forms === undefined) {
      page.push(finding('no-columns', 'the mailbox lacks columns that every mailbox has', { mailbox: entry.name }))
      continue
    }
    for (let row = 0; row < view.count; row++) {
      const uid = view.uid(row)
      const ref = box.number(row)
      const report = (kind: string, message: string): void => {
        page.push(finding(kind, message, { mailbox: entry.name, uid }))
      }
      const at = boxView.rowOf(ref)
      if (at < 0) report('no-message', `no message ${ref} is in the box`)
      else {
        uses[at]!++
        const canonical = (forms.number(row) & FORM_CANONICAL) !== 0
        const guid = guids.value(row)
        if (looked[at] === 0) {
          looked[at] = 1
          const found: StoreFinding[] = []
          const note = (kind: string, message: string): void => {
            found.push(finding(kind, message, { mailbox: entry.name, uid }))
          }
          sizes[at] = await measure(core.box, ref, guid, canonical, note, seen)
          if (found.length > 0) {
            // It may have been expunged, and purged, since: only what still holds of the newest rows is said.
            await core.index.refresh()
            found.length = 0
            if (table.view.rowOf(uid) < 0 || boxTable.view.rowOf(ref) < 0) {
              sizes[at] = -1
              // Other rows may still name it.
              looked[at] = 0
            } else sizes[at] = await measure(core.box, ref, guid, canonical, note, seen)
            await core.index.refresh()
            if (table.view.rowOf(uid) >= 0) page.push(...found)
          }
        }
        const size = sizes[at]!
        if (size >= 0 && size !== rowSizes.number(row))
          report('size', `the row says ${rowSizes.number(row)} bytes, the message has ${size}`)
      }
      if (page.length >= PAGE) {
        yield page
        page = []
      }
    }
  }
  // Rows that cannot be read name messages too.
  const kept = allRead ? boxView.extension('uses') : undefined
  try {
    if (kept !== undefined) await boxView.load(['uses'])
  } catch (error) {
    // What was found of the rows is said before the pass ends.
    if (page.length > 0) yield page
    throw error
  }
  for (let row = 0; kept !== undefined && row < count; row++) {
    if (kept.number(row) !== uses[row]!)
      page.push(
        finding(
          'uses',
          `message ${boxView.uid(row)} is named by ${uses[row]!} rows, and ${kept.number(row)} are counted`,
        ),
      )
  }
  if (page.length > 0) yield page
}

/** The mailbox's table, if it can be read: the rest is checked without it. */
async function acquire(core: Core, entry: Entry, page: StoreFinding[]): Promise<TableLease | undefined> {
  try {
    return await core.tables.acquire(mailboxTable(entry.guid))
  } catch (error) {
    if (!(error instanceof IndexError && error.code === 'INDEX_CORRUPT')) throw error
    page.push(finding('table', error.message, { mailbox: entry.name }))
    return undefined
  }
}

/** The canonical size of a message, or -1 if the box has reported, or now it is reported, that it is not as it should be. */
async function measure(
  box: Box,
  ref: number,
  guid: Uint8Array,
  canonical: boolean,
  report: (kind: string, message: string) => void,
  seen: Seen,
): Promise<number> {
  try {
    await using message = box.openSync?.(ref) ?? (await box.open(ref))
    seen.segments.set(ref, message.segments)
    if (Buffer.compare(message.guid, guid) !== 0) {
      report('guid', `the message's GUID is ${Buffer.from(message.guid).toString('hex')}`)
      return -1
    }
    const { physicalSize } = message
    // What lies elsewhere was read once, however many messages have it, and the rest with the box.
    if (message.size !== undefined && message.parts !== undefined && !seen.brokenBlobs) {
      if (canonical !== (message.size === physicalSize)) report('form', formIs(canonical))
      return message.size
    }
    const chunk = Buffer.allocUnsafe(Math.min(CHUNK, Math.max(1, physicalSize)))
    let size = physicalSize
    let afterCR = false
    for (let position = 0; position < physicalSize; ) {
      const read = await message.read(chunk, position)
      if (read === 0) break
      const bytes = chunk.subarray(0, read)
      for (let lf = bytes.indexOf(LF); lf >= 0; lf = bytes.indexOf(LF, lf + 1))
        if (lf === 0 ? !afterCR : bytes[lf - 1] !== CR) size++
      afterCR = bytes[read - 1] === CR
      position += read
    }
    if (canonical !== (size === physicalSize)) report('form', formIs(canonical))
    return size
  } catch (error) {
    if (isOutage(error)) seen.outage ??= error
    else report('unreadable', `message ${ref}: ${(error as Error).message}`)
    return -1
  }
}

function formIs(canonical: boolean): string {
  return canonical ? 'stored bytes are not canonical, as the row says' : 'stored bytes are canonical'
}
