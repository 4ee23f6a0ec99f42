/**
 * What a box is told whose files are named by mailbox and UID: before each commit which mailboxes it changes, and after it what
 * has changed. The names are given in the background; for other boxes there is nothing to do.
 */
import { BOX_REF_COLUMN, type BoxMailboxes, type BoxNames, type BoxOrigin } from '@mailstead/box'
import type { Index, IndexTransaction, TableView } from '@mailstead/index'
import type { UidSet } from '@mailstead/uidset'
import type { Core } from './core.ts'
import type { OpenTables } from './tables.ts'
import { type Entry, mailboxTable, type Tree } from './tree.ts'

/** The names of one transaction; undefined where nobody names files. */
export function beginNames(
  { box: { naming } }: Core,
  tx: IndexTransaction,
  mailboxes: () => readonly Entry[],
): Promise<BoxNames> | undefined {
  return naming?.begin(tx, mailboxes())
}

/** Whether a mailbox may be made with this GUID: nothing is left of one that had it before. */
export async function vacate(core: Core, guid: string): Promise<boolean> {
  const { naming } = core.box
  return naming === undefined || (await naming.vacate(guid))
}

/** What a message is told of the mailbox it is first saved to. */
export function originOf({ guid, uidValidity }: Entry): BoxOrigin {
  return { mailbox: Buffer.from(guid, 'hex'), uidValidity }
}

/** After the commit, once everything was told: closing waits for the names. */
export function settleNames(core: Core, names: BoxNames | undefined): void {
  if (names !== undefined) core.background(names.settle())
}

/** Copies of the rows of a view, in their order. */
export function tellCopies(
  names: BoxNames | undefined,
  to: Entry,
  view: TableView,
  rows: Uint32Array,
  uids: UidSet,
): void {
  if (names === undefined) return
  const refs = view.extension(BOX_REF_COLUMN)!
  let at = 0
  for (const uid of uids) names.appended(to, uid, refs.number(rows[at++]!))
}

/** What a box may see of mailboxes. */
export function boxMailboxes(index: Index, tree: Tree, tables: () => OpenTables): BoxMailboxes {
  return {
    // Those that are being imported have files too.
    find: (guid) => tree.state.byGuid.get(guid) ?? tree.state.imports.get(guid),
    list: () =>
      [...tree.state.byGuid.values(), ...tree.state.imports.values()].map((entry) => ({
        ...entry,
        count: index.info(mailboxTable(entry.guid))?.count ?? 0,
      })),
    open: async (guid) => {
      const lease = await tables().acquire(mailboxTable(guid))
      if (lease === undefined) return undefined
      return {
        get view() {
          return lease.table.view
        },
        [Symbol.asyncDispose]: () => lease[Symbol.asyncDispose](),
      }
    },
  }
}
