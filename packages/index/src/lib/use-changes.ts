/**
 * How much more or less often rows are named: noted one after the other, told in order. Whoever appends rows names others mostly
 * in their order, so that nothing has to be looked up or sorted; where it is not so, they are put in order when they are told.
 */
export class UseChanges {
  #uids: number[] = []
  #changes: number[] = []
  #last = 0
  #isInOrder = true

  /** Row `uid` is named so many times more. 0 is no row. */
  add(uid: number, by: number): void {
    if (uid === 0) return
    if (uid <= this.#last) this.#isInOrder = false
    this.#last = uid
    this.#uids.push(uid)
    this.#changes.push(by)
  }

  /** Each row once, ascending, with what all changes of it come to, unless that is 0. */
  inOrder(): { readonly uids: readonly number[]; readonly changes: readonly number[] } {
    const { length } = this.#uids
    if (this.#isInOrder && !this.#changes.includes(0)) return { uids: this.#uids, changes: this.#changes }
    const order = new Uint32Array(length)
    for (let i = 0; i < length; i++) order[i] = i
    order.sort((a, b) => this.#uids[a]! - this.#uids[b]!)
    const uids: number[] = []
    const changes: number[] = []
    for (let i = 0; i < length; ) {
      const uid = this.#uids[order[i]!]!
      let change = 0
      for (; i < length && this.#uids[order[i]!] === uid; i++) change += this.#changes[order[i]!]!
      if (change === 0) continue
      uids.push(uid)
      changes.push(change)
    }
    return { uids, changes }
  }
}
