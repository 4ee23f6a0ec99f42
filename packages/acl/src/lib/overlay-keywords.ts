/**
 * Keywords of an overlay: those of the shared mailbox that are shared, and the user's own that are private, numbered
 * together.
 *
 * INVARIANTS
 *   1. Numbers of names and of sets never change as long as views follow each other: more are only added.
 *   2. The arrays that were given out never change; longer ones take their place.
 *   3. A name of the wrong class is no keyword here: a shared row's private one, or the user's own from before it was
 *      shared.
 */
import type { TableView } from '@mailstead/index'
import type { PrivacyRules } from './private-policy.ts'

export class OverlayKeywords {
  names: readonly string[] = []
  sets: readonly (readonly number[])[] = [[]]
  readonly #rules: PrivacyRules
  readonly #nameIndex = new Map<string, number>()
  readonly #setIndex = new Map<string, number>([['', 0]])
  /** Sets of the shared table and of the user's, as sets here. */
  #shared: readonly number[] = [0]
  #own: readonly number[] = [0]
  /** Sets of the shared table have the same numbers here. */
  isSame = true
  readonly #joined = new Map<number, number>()

  constructor(rules: PrivacyRules) {
    this.#rules = rules
  }

  /** Takes in what the tables have by now. */
  extend(shared: TableView, own: TableView | undefined): void {
    this.#shared = this.#extended(this.#shared, shared, false)
    for (let set = 0; set < this.#shared.length; set++) this.isSame &&= this.#shared[set] === set
    if (own !== undefined) this.#own = this.#extended(this.#own, own, true)
  }

  /** The set of a row, of the sets that its two rows have. */
  join(shared: number, own: number): number {
    const a = this.#shared[shared]!
    const b = this.#own[own]!
    if (b === 0) return a
    if (a === 0) return b
    const key = a * 0x1_0000_0000 + b
    let set = this.#joined.get(key)
    if (set === undefined) {
      set = this.#setOf([...this.sets[a]!, ...this.sets[b]!])
      this.#joined.set(key, set)
    }
    return set
  }

  #extended(known: readonly number[], view: TableView, isPrivate: boolean): readonly number[] {
    const { keywords, keywordSets } = view
    if (keywordSets.length <= known.length) return known
    const longer = known.slice()
    for (let set = known.length; set < keywordSets.length; set++) {
      const members: number[] = []
      for (const k of keywordSets[set]!)
        if (this.#rules.isPrivate(keywords[k]!) === isPrivate) members.push(this.#nameOf(keywords[k]!))
      longer.push(this.#setOf(members))
    }
    return longer
  }

  #nameOf(name: string): number {
    const key = name.toLowerCase()
    let index = this.#nameIndex.get(key)
    if (index === undefined) {
      index = this.names.length
      this.#nameIndex.set(key, index)
      this.names = [...this.names, name]
    }
    return index
  }

  #setOf(members: number[]): number {
    const sorted = members.sort((a, b) => a - b)
    const key = sorted.join(',')
    let set = this.#setIndex.get(key)
    if (set === undefined) {
      set = this.sets.length
      this.#setIndex.set(key, set)
      this.sets = [...this.sets, sorted]
    }
    return set
  }
}
