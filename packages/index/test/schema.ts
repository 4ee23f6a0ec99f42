/** The two tables that most tests of an index are about: what is kept once, and the rows that name it. */
import type { IndexTransaction } from '../src/index.ts'

/** Creates `box`, whose uses are counted, and `inbox`, whose rows name rows of it. */
export function createBoxAndInbox(tx: IndexTransaction): void {
  tx.createTable({
    id: 'box',
    uidValidity: 1,
    columns: [
      { name: 'uses', bytes: 4 },
      { name: 'size', bytes: 6, summed: true },
    ],
  })
  tx.createTable({
    id: 'inbox',
    uidValidity: 2,
    columns: [
      { name: 'ref', bytes: 4, counts: { table: 'box', column: 'uses' } },
      { name: 'guid', bytes: 16 },
    ],
  })
}
