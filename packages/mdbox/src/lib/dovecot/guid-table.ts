/** Where messages are, by GUID: some fifty bytes for each, so that a store without a map is read in bounded memory. */
const SLOT_FREE = -1

export interface GuidPlace {
  /** Which of the roots, and which file in it. */
  readonly root: number
  readonly file: number
  readonly offset: number
}

export class GuidTable {
  count = 0
  #guids = new Uint8Array(64 * 16)
  #roots = new Uint8Array(64)
  #files = new Uint32Array(64)
  #offsets = new Float64Array(64)
  /** Rows by the hash of their GUIDs, in order of appearance among equals; at most half full. */
  #slots: Int32Array = new Int32Array(256).fill(SLOT_FREE)

  add(guid: Uint8Array, { root, file, offset }: GuidPlace): void {
    if (this.count === this.#roots.length) this.#grow()
    const row = this.count++
    this.#guids.set(guid, row * 16)
    this.#roots[row] = root
    this.#files[row] = file
    this.#offsets[row] = offset
    this.#put(row)
  }

  /** Every place with this GUID, in the order they were added. */
  *places(guid: Uint8Array): Generator<GuidPlace, void, undefined> {
    const mask = this.#slots.length - 1
    for (let slot = hash(guid, 0) & mask; this.#slots[slot] !== SLOT_FREE; slot = (slot + 1) & mask) {
      const row = this.#slots[slot]!
      if (this.#is(row, guid)) yield this.place(row)
    }
  }

  has(guid: Uint8Array): boolean {
    return this.places(guid).next().done !== true
  }

  place(row: number): GuidPlace {
    return { root: this.#roots[row]!, file: this.#files[row]!, offset: this.#offsets[row]! }
  }

  /** A view. */
  guid(row: number): Uint8Array {
    return this.#guids.subarray(row * 16, row * 16 + 16)
  }

  #is(row: number, guid: Uint8Array): boolean {
    for (let i = 0; i < 16; i++) if (this.#guids[row * 16 + i] !== guid[i]) return false
    return true
  }

  #put(row: number): void {
    const mask = this.#slots.length - 1
    let slot = hash(this.#guids, row * 16) & mask
    while (this.#slots[slot] !== SLOT_FREE) slot = (slot + 1) & mask
    this.#slots[slot] = row
  }

  #grow(): void {
    const size = this.#roots.length * 2
    const guids = new Uint8Array(size * 16)
    guids.set(this.#guids)
    const roots = new Uint8Array(size)
    roots.set(this.#roots)
    const files = new Uint32Array(size)
    files.set(this.#files)
    const offsets = new Float64Array(size)
    offsets.set(this.#offsets)
    this.#guids = guids
    this.#roots = roots
    this.#files = files
    this.#offsets = offsets
    this.#slots = new Int32Array(size * 4).fill(SLOT_FREE)
    for (let row = 0; row < this.count; row++) this.#put(row)
  }
}

/** GUIDs of one Dovecot process differ in few bytes, so all are mixed. */
function hash(bytes: Uint8Array, at: number): number {
  let value = 0x811c9dc5
  for (let i = 0; i < 16; i++) value = Math.imul(value ^ bytes[at + i]!, 0x01000193)
  return value ^ (value >>> 15)
}
