/** Copies of rows, with the flags that the rights at the other end allow. */
import type { AppendedRow, IndexTransaction, TableView } from '@mailstead/index'
import type { PrivacyRules } from '@mailstead/acl/private-flags'
import { UidSet } from '@mailstead/uidset'
import { flagsByRights, RIGHT_WRITE } from './access.ts'
import { MAILBOX_COLUMNS } from './contract.ts'

const ALL_FLAGS = 255

export interface CopiedRows {
  readonly view: TableView
  readonly rows: Uint32Array
  /** Milliseconds since the epoch. */
  readonly savedMs: number
  /** Of who copies, where the copies go. */
  readonly rights: number
  /** What is private there is left out. */
  readonly privacy?: PrivacyRules | undefined
  /** Their UIDs are to be told by another row of the same transaction. */
  readonly named?: boolean
}

export interface AppendedCopies {
  /** Once the transaction is committed. */
  readonly uids: UidSet
  /** In their order; there for sure if `named`. */
  readonly rows: readonly AppendedRow[]
}

export function appendCopies(tx: IndexTransaction, table: string, copied: CopiedRows): AppendedCopies {
  const { view, rows, savedMs, rights, privacy, named = false } = copied
  const flags = flagsByRights(rights) & ~(privacy?.mask ?? 0)
  if (flags === ALL_FLAGS && privacy === undefined && !named) {
    const copies = tx.appendFrom(table, view, rows, { saved: savedMs })
    return {
      get uids() {
        return copies.uids
      },
      rows: [],
    }
  }
  const keywords = (rights & RIGHT_WRITE) !== 0
  const appended: AppendedRow[] = []
  for (const row of rows) {
    const columns: Record<string, Uint8Array | number> = { saved: savedMs }
    for (const { name } of MAILBOX_COLUMNS)
      if (name !== 'saved') columns[name] = Uint8Array.from(view.extension(name)!.value(row))
    const set = keywords ? view.keywordSets[view.keywordSet(row)]! : []
    appended.push(
      tx.append(table, {
        flags: view.flags(row) & flags,
        keywords: set.map((keyword) => view.keywords[keyword]!).filter((name) => privacy?.isPrivate(name) !== true),
        columns,
      }),
    )
  }
  return {
    get uids() {
      return UidSet.fromSorted(Uint32Array.from(appended, ({ uid }) => uid))
    },
    rows: appended,
  }
}
