/**
 * Where each message's newest cache record begins: UIDs in ascending order in one column, offsets in another.
 *
 * 9 bytes per message, and at most half as much again while it grows. UIDs mostly arrive in ascending order; those that
 * do not wait in a small map until there are enough of them to be merged in one pass.
 */

/** Late arrivals that may wait, beside an eighth of those in order. */
const LATE_MIN = 1024

export class CacheOffsets {
  #uids = new Uint32Array(64)
  #offsets = new Uint32Array(64)
  /** 1: the record's GUID was compared with the message's. */
  #checked = new Uint8Array(64)
  #count = 0
  #late = new Map<number, number>()
  /** Where the last one was found: the next is usually beside it. */
  #hint = 0
  /** Index of the UID that `find` found, or -1 if it is among the late ones. */
  found = -1
  /** Records that a later one of the same message replaced. */
  superseded = 0

  /** Messages that have a record. */
  get count(): number {
    return this.#count + this.#late.size
  }

  /** Offset of the record of `uid`, or -1. */
  find(uid: number): number {
    const at = this.#indexOf(uid)
    if (at >= 0) {
      this.found = at
      return this.#offsets[at]!
    }
    this.found = -1
    return this.#late.size === 0 ? -1 : (this.#late.get(uid) ?? -1)
  }

  /** Whether the record that `find` found last was checked. */
  get isChecked(): boolean {
    return this.found >= 0 && this.#checked[this.found] === 1
  }
  setChecked(): void {
    if (this.found >= 0) this.#checked[this.found] = 1
  }

  set(uid: number, offset: number): void {
    const last = this.#count === 0 ? 0 : this.#uids[this.#count - 1]!
    if (uid > last) {
      this.#push(uid, offset)
      return
    }
    const at = this.#indexOf(uid)
    if (at >= 0) {
      this.superseded++
      this.#offsets[at] = offset
      this.#checked[at] = 0
      return
    }
    if (this.#late.has(uid)) this.superseded++
    this.#late.set(uid, offset)
    if (this.#late.size > LATE_MIN + this.#count / 8) this.#merge()
  }

  /** UIDs in ascending order, for compaction. */
  uids(): Uint32Array {
    this.#merge()
    return this.#uids.slice(0, this.#count)
  }

  #indexOf(uid: number): number {
    const uids = this.#uids
    const hint = this.#hint
    if (hint < this.#count) {
      if (uids[hint] === uid) return hint
      if (hint + 1 < this.#count && uids[hint + 1] === uid) {
        this.#hint = hint + 1
        return hint + 1
      }
    }
    let low = 0
    let high = this.#count
    while (low < high) {
      const middle = (low + high) >>> 1
      if (uids[middle]! < uid) low = middle + 1
      else high = middle
    }
    if (low === this.#count || uids[low] !== uid) return -1
    this.#hint = low
    return low
  }

  #push(uid: number, offset: number): void {
    if (this.#count === this.#uids.length) this.#grow(this.#count + (this.#count >> 1))
    this.#uids[this.#count] = uid
    this.#offsets[this.#count] = offset
    this.#checked[this.#count] = 0
    this.#count++
  }

  #grow(room: number): void {
    const uids = new Uint32Array(room)
    uids.set(this.#uids)
    this.#uids = uids
    const offsets = new Uint32Array(room)
    offsets.set(this.#offsets)
    this.#offsets = offsets
    const checked = new Uint8Array(room)
    checked.set(this.#checked)
    this.#checked = checked
  }

  #merge(): void {
    if (this.#late.size === 0) return
    const late = Uint32Array.from(this.#late.keys()).sort()
    const total = this.#count + late.length
    if (total > this.#uids.length) this.#grow(total + (total >> 3))
    // From the end, so that nothing is overwritten before it was moved.
    let from = this.#count - 1
    let l = late.length - 1
    for (let to = total - 1; l >= 0; to--) {
      if (from >= 0 && this.#uids[from]! > late[l]!) {
        this.#uids[to] = this.#uids[from]!
        this.#offsets[to] = this.#offsets[from]!
        this.#checked[to] = this.#checked[from]!
        from--
      } else {
        this.#uids[to] = late[l]!
        this.#offsets[to] = this.#late.get(late[l]!)!
        this.#checked[to] = 0
        l--
      }
    }
    this.#count = total
    this.#late = new Map()
    this.#hint = 0
    this.found = -1
  }
}
