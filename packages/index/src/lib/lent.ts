/**
 * A transaction as it is lent to code that keeps rows of its own in somebody else's index, each with a column that counts its uses: such code
 * changes its rows, drops those that nobody uses, and commits nothing.
 */
import { UidSet } from '@mailstead/uidset'
import type { Index, IndexTransaction } from './contract.ts'

export interface LentTransaction
  extends Pick<IndexTransaction, 'append' | 'setColumn' | 'increment' | 'setValue' | 'expectValue'> {
  /**
   * Drops those of the rows whose uses are 0, decided under the lock. INDEX_CONFLICT at commit, with `all`, unless that are all of them
   * (default false: those that are gone, or used, are passed over).
   */
  dropUnused(table: string, uids: readonly number[], options?: { readonly all?: boolean }): void
}

/** `usesColumn`: where a row's uses are counted. */
export function lend(tx: IndexTransaction, usesColumn: string): LentTransaction {
  return {
    append: (table, row) => tx.append(table, row),
    setColumn: (table, column, uid, value) => tx.setColumn(table, column, uid, value),
    increment: (table, column, uid, by) => tx.increment(table, column, uid, by),
    setValue: (table, key, value) => tx.setValue(table, key, value),
    expectValue: (table, key, value) => tx.expectValue(table, key, value),
    dropUnused(table, uids, { all = false } = {}) {
      tx.expunge(table, UidSet.fromSorted(Uint32Array.from(uids).sort()), { onlyZero: usesColumn, mustExist: all })
    },
  }
}

/** Runs `body` with a transaction that is lent, and commits it flushed. */
export async function transactLent(
  index: Index,
  usesColumn: string,
  body: (tx: LentTransaction) => void,
): Promise<void> {
  await using tx = index.begin()
  body(lend(tx, usesColumn))
  await tx.commit()
}
