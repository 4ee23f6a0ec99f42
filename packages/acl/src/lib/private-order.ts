/**
 * One increasing number for two histories: the modseqs that a user is shown of a mailbox whose changes are partly
 * shared, and partly his own.
 *
 * Private change i (1, 2, …) notes S_i, the shared mailbox's highest modseq when it was made; S_i never falls. A shared
 * change s is shown as s + #{i : S_i < s}, private change i as S_i + i. So every number is given once, in the order in
 * which the user could see the changes, and what other users do privately moves none of them.
 *
 * Changes with the same S_i are one run and one row: run k begins with private change `firsts[k]`.
 *
 * INVARIANTS
 *   1. #{i : S_i < s} is one less than the first change of the first run with S ≥ s, or all changes where there is
 *      none.
 *   2. Runs may be missing (the oldest are thinned out): numbers of old shared changes then get higher, never lower,
 *      and none gets higher than what was shown after it. A client may be told again of a change; it never misses one.
 */
import type { TableView } from '@mailstead/index'
import { ORDER_SHARED } from './private-tables.ts'

/** Runs kept of one mailbox; when there are more, every second one of the older half goes. */
export const ORDER_RUNS_MAX = 65_536

/** Columns that grow at the end, shared by all orders of one history. */
interface Runs {
  shared: Float64Array
  firsts: Float64Array
  filled: number
}

export class Order {
  static readonly none: Order = new Order({ shared: new Float64Array(0), firsts: new Float64Array(0), filled: 0 }, 0, 0)

  /** Private changes so far. */
  readonly changes: number
  /** S of the last one; 0 if there is none. */
  readonly last: number
  readonly #runs: Runs
  readonly #count: number
  // The answer of the last question: rows that lie together were mostly changed together.
  #above = 0
  #upTo = 0
  #rank = 0

  private constructor(runs: Runs, count: number, changes: number) {
    this.#runs = runs
    this.#count = count
    this.changes = changes
    this.last = count === 0 ? 0 : runs.shared[count - 1]!
  }

  /**
   * The order that a table has. `before`: that of an earlier view of it, of which as much as possible is used again.
   */
  static of(view: TableView, before: Order = Order.none): Order {
    const { count } = view
    let from = before.#count
    let runs = before.#runs
    // Rows are only added at the end, or thinned out, after which another one is in the last place.
    if (from === 0 || from > count || runs.filled !== from || view.uid(from - 1) !== runs.firsts[from - 1]) {
      runs = { shared: new Float64Array(count + 16), firsts: new Float64Array(count + 16), filled: 0 }
      from = 0
    } else if (count > runs.shared.length) {
      const larger = { shared: new Float64Array(2 * count), firsts: new Float64Array(2 * count), filled: from }
      larger.shared.set(runs.shared.subarray(0, from))
      larger.firsts.set(runs.firsts.subarray(0, from))
      runs = larger
    }
    const column = view.extension(ORDER_SHARED)
    if (column === undefined) throw new TypeError(`${view.table} is no table of private changes`)
    for (let row = from; row < count; row++) {
      runs.shared[row] = column.number(row)
      runs.firsts[row] = view.uid(row)
    }
    runs.filled = count
    return new Order(runs, count, view.uidNext - 1)
  }

  /** Number under which the user is shown a shared change. */
  shown(shared: number): number {
    if (shared > this.last) return shared + this.changes
    if (shared > this.#above && shared <= this.#upTo) return shared + this.#rank
    const { shared: all, firsts } = this.#runs
    let low = 0
    let high = this.#count
    while (low < high) {
      const middle = (low + high) >> 1
      if (all[middle]! < shared) low = middle + 1
      else high = middle
    }
    this.#above = low === 0 ? 0 : all[low - 1]!
    this.#upTo = all[low]!
    this.#rank = firsts[low]! - 1
    return shared + this.#rank
  }

  /**
   * The highest shared modseq that is shown as no more than `shown`: what a client has that says it knows all up to
   * there.
   */
  sharedWithin(shown: number): number {
    const { shared: all, firsts } = this.#runs
    let low = 0
    let high = this.#count
    while (low < high) {
      const middle = (low + high) >> 1
      if (all[middle]! + firsts[middle]! - 1 < shown) low = middle + 1
      else high = middle
    }
    const rank = low === this.#count ? this.changes : firsts[low]! - 1
    return Math.max(low === 0 ? 0 : all[low - 1]!, shown - rank)
  }
}
