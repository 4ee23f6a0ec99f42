/**
 * Which message of the box has the bytes of which message elsewhere, so that copies stay copies. An open hash table over typed
 * arrays: some 60 bytes for each message that is remembered, whatever its key is.
 *
 * Keys are remembered by 64 bits of hash; with the 32 bits of the GUID that are compared too, two are taken for one with a chance
 * of one in 2 ** 96, and the box tells their whole GUIDs apart.
 */

/** What a row needs to name a message that is kept already. */
export interface KeptMessage {
  /** BoxRef. */
  readonly ref: number
  /** Canonical size in bytes. */
  readonly size: number
  readonly form: number
  /** GUID of the mailbox that the message was saved to, as 32 hex digits. */
  readonly home: string
}

const FIRST_SLOTS = 1024

export class SharedMessages {
  #slots = FIRST_SLOTS
  #count = 0
  #low: Uint32Array = new Uint32Array(FIRST_SLOTS)
  #high: Uint32Array = new Uint32Array(FIRST_SLOTS)
  #guids: Uint32Array = new Uint32Array(FIRST_SLOTS)
  /** 0: the slot is free. */
  #refs: Uint32Array = new Uint32Array(FIRST_SLOTS)
  #sizes: Float64Array = new Float64Array(FIRST_SLOTS)
  #forms: Uint8Array = new Uint8Array(FIRST_SLOTS)
  /** Numbers of homes. */
  #homes: Uint32Array = new Uint32Array(FIRST_SLOTS)
  readonly #guidsOfHomes: string[] = []
  readonly #homeNumbers = new Map<string, number>()

  get size(): number {
    return this.#count
  }

  find(key: string, guid: Uint8Array): KeptMessage | undefined {
    const at = this.#slotOf(hash(key, 0x811c9dc5), hash(key, 0x5bd1e995), headOf(guid))
    const ref = this.#refs[at]!
    return ref === 0
      ? undefined
      : { ref, size: this.#sizes[at]!, form: this.#forms[at]!, home: this.#guidsOfHomes[this.#homes[at]!]! }
  }

  remember(key: string, guid: Uint8Array, { ref, size, form, home }: KeptMessage): void {
    if (2 * this.#count >= this.#slots) this.#grow()
    const low = hash(key, 0x811c9dc5)
    const high = hash(key, 0x5bd1e995)
    const head = headOf(guid)
    const at = this.#slotOf(low, high, head)
    if (this.#refs[at] === 0) this.#count++
    this.#set(at, low, high, head, ref, size, form, this.#numberOf(home))
  }

  #numberOf(home: string): number {
    let number = this.#homeNumbers.get(home)
    if (number === undefined) this.#homeNumbers.set(home, (number = this.#guidsOfHomes.push(home) - 1))
    return number
  }

  /** Its slot, or the free one where it would be. */
  #slotOf(low: number, high: number, head: number): number {
    const mask = this.#slots - 1
    for (let at = low & mask; ; at = (at + 1) & mask)
      if (this.#refs[at] === 0 || (this.#low[at] === low && this.#high[at] === high && this.#guids[at] === head))
        return at
  }

  #set(
    at: number,
    low: number,
    high: number,
    head: number,
    ref: number,
    size: number,
    form: number,
    home: number,
  ): void {
    this.#low[at] = low
    this.#high[at] = high
    this.#guids[at] = head
    this.#refs[at] = ref
    this.#sizes[at] = size
    this.#forms[at] = form
    this.#homes[at] = home
  }

  #grow(): void {
    const before = {
      low: this.#low,
      high: this.#high,
      guids: this.#guids,
      refs: this.#refs,
      sizes: this.#sizes,
      forms: this.#forms,
      homes: this.#homes,
    }
    const slots = this.#slots
    this.#slots = slots * 2
    this.#low = new Uint32Array(this.#slots)
    this.#high = new Uint32Array(this.#slots)
    this.#guids = new Uint32Array(this.#slots)
    this.#refs = new Uint32Array(this.#slots)
    this.#sizes = new Float64Array(this.#slots)
    this.#forms = new Uint8Array(this.#slots)
    this.#homes = new Uint32Array(this.#slots)
    for (let i = 0; i < slots; i++) {
      if (before.refs[i] === 0) continue
      const [low, high, head] = [before.low[i]!, before.high[i]!, before.guids[i]!]
      const at = this.#slotOf(low, high, head)
      this.#set(at, low, high, head, before.refs[i]!, before.sizes[i]!, before.forms[i]!, before.homes[i]!)
    }
  }
}

function hash(key: string, seed: number): number {
  let h = seed ^ key.length
  for (let i = 0; i < key.length; i++) h = Math.imul(h ^ key.charCodeAt(i), 0x01000193)
  h ^= h >>> 16
  h = Math.imul(h, 0x85ebca6b)
  h ^= h >>> 13
  return h >>> 0
}

function headOf(guid: Uint8Array): number {
  return (guid[0]! | (guid[1]! << 8) | (guid[2]! << 16) | (guid[3]! << 24)) >>> 0
}
