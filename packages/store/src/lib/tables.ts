/**
 * The tables of mailboxes that are open: each at most once, shared by all who need it, a few kept when nobody does.
 */
import type { CacheDecision, CacheEntry, Index, Table } from '@mailstead/index'

/** Tables kept open without a user: where mail arrives, the next delivery finds it open. */
const IDLE_MAX = 4

interface Slot {
  readonly id: string
  opening: Promise<Table | undefined>
  table: Table | undefined
  users: number
}

export interface TableLease extends AsyncDisposable {
  readonly table: Table
}

export class OpenTables implements AsyncDisposable {
  readonly #index: Index
  readonly #slots = new Map<string, Slot>()
  /** Slots without a user, the one longest idle first. */
  readonly #idle = new Set<Slot>()
  #closed = false

  constructor(index: Index) {
    this.#index = index
  }

  /** Undefined if there is no such table. */
  async acquire(id: string): Promise<TableLease | undefined> {
    const slot = this.#slots.get(id) ?? this.#open(id)
    slot.users++
    this.#idle.delete(slot)
    let table: Table | undefined
    try {
      table = slot.table ?? (await slot.opening)
    } catch (error) {
      slot.users--
      throw error
    }
    if (table === undefined) {
      slot.users--
      return undefined
    }
    let released = false
    return {
      table,
      [Symbol.asyncDispose]: async (): Promise<void> => {
        if (released) return
        released = true
        await this.#release(slot)
      },
    }
  }

  #open(id: string): Slot {
    const slot: Slot = { id, opening: this.#index.open(id), table: undefined, users: 0 }
    this.#slots.set(id, slot)
    slot.opening.then(
      (table) => {
        slot.table = table
        if (table === undefined) this.#forget(slot)
      },
      () => this.#forget(slot),
    )
    return slot
  }

  #forget(slot: Slot): void {
    if (this.#slots.get(slot.id) === slot) this.#slots.delete(slot.id)
  }

  async #release(slot: Slot): Promise<void> {
    slot.users--
    if (slot.users > 0) return
    if (this.#slots.get(slot.id) !== slot || this.#closed) {
      await slot.table?.[Symbol.asyncDispose]()
      return
    }
    this.#idle.add(slot)
    if (this.#idle.size <= IDLE_MAX) return
    const [oldest] = this.#idle
    await this.#close(oldest!)
  }

  async #close(slot: Slot): Promise<void> {
    this.#idle.delete(slot)
    this.#forget(slot)
    await slot.table?.[Symbol.asyncDispose]()
  }

  /** The table is gone: nobody is to find it open here. Those who have it keep it until they let go. */
  async drop(id: string): Promise<void> {
    const slot = this.#slots.get(id)
    if (slot === undefined) return
    if (slot.users === 0) await this.#close(slot)
    else this.#forget(slot)
  }

  /** Begins to open a table of which something is asked soon. It stays open for a while. */
  warm(id: string): Promise<void> | undefined {
    if (this.#slots.has(id)) return undefined
    return this.acquire(id).then(
      (lease) => lease?.[Symbol.asyncDispose](),
      () => undefined,
    )
  }

  /** Of which messages this derived field is kept; undefined if the table is not open, so that nobody knows. */
  cacheDecision(id: string, field: string): CacheDecision | undefined {
    return this.#slots.get(id)?.table?.cacheDecision(field)
  }

  /** Keeps derived data, at once if the table is open. Otherwise it is opened first, and the promise says when that is over. */
  cacheWrite(id: string, entries: readonly CacheEntry[]): Promise<void> | undefined {
    const slot = this.#slots.get(id)
    if (slot?.table !== undefined) {
      slot.table.cacheWrite(entries)
      return undefined
    }
    return this.acquire(id).then(
      async (lease) => {
        lease?.table.cacheWrite(entries)
        await lease?.[Symbol.asyncDispose]()
      },
      () => undefined,
    )
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    for (const slot of this.#slots.values()) {
      await slot.opening.catch(() => undefined)
      await this.#close(slot)
    }
  }
}
