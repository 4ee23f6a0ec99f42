/** Open tables as callers have them: views of the newest state, watchers, and the cache that all handles of a table share. */
import type { UidSet } from '@mailstead/uidset'
import { checkFieldName, GUID_BYTES } from './cache-record.ts'
import type { TableCache } from './cache.ts'
import type { CacheDecision, CacheEntry, CacheFieldInfo, Table, TableView } from './contract.ts'
import type { Entry } from './entries.ts'
import { UID_LAST } from './limits.ts'
import { checkDecision } from './settings.ts'
import type { TableState } from './state.ts'
import { tell } from './tell.ts'
import { expungedAfter } from './tombstones.ts'
import { makeView } from './view.ts'

/** The index that a handle is of. */
export interface TableHost {
  /** Follows what other processes append, as long as somebody wants to know. */
  watchFiles(): void
  released(handle: TableHandle, entry: Entry, cache: TableCache): Promise<void>
}

/** A table as one caller has it open. */
export class TableHandle implements Table {
  readonly id: string
  entry: Entry
  readonly #index: TableHost
  readonly #cache: TableCache
  readonly #watchers = new Set<() => void>()
  #state: TableState
  #view: TableView | undefined
  #disposed = false

  constructor(index: TableHost, entry: Entry, cache: TableCache) {
    this.id = entry.id
    this.entry = entry
    this.#index = index
    this.#cache = cache
    this.#state = entry.state!
  }

  get watched(): boolean {
    return this.#watchers.size > 0
  }

  get view(): TableView {
    // A dropped table stays as it was.
    const state = this.entry.state ?? this.#state
    if (this.#view === undefined || state !== this.#state) {
      this.#state = state
      this.#view = makeView(state, () => (this.#disposed ? undefined : this.#cache), this.#index)
    }
    return this.#view
  }

  watch(onChange: () => void): Disposable {
    const watcher = (): void => onChange()
    this.#watchers.add(watcher)
    this.#index.watchFiles()
    return {
      [Symbol.dispose]: () => {
        this.#watchers.delete(watcher)
        this.#index.watchFiles()
      },
    }
  }

  changed(): void {
    for (const watcher of this.#watchers) tell(watcher)
  }

  expungedSince(modSeq: number): UidSet | undefined {
    return expungedAfter((this.entry.state ?? this.#state).tombstones, modSeq)
  }

  cacheWrite(entries: readonly CacheEntry[]): void {
    for (const { uid, guid, fields } of entries) {
      if (guid.length !== GUID_BYTES)
        throw new RangeError(`a GUID of ${guid.length} bytes for the cache, not ${GUID_BYTES}`)
      if (!(uid >= 1 && uid <= UID_LAST && uid % 1 === 0))
        throw new RangeError(`UID ${uid} is not within 1 … ${UID_LAST}`)
      for (const [name] of fields) checkFieldName(name)
    }
    if (!this.#disposed) this.#cache.write(entries)
  }

  cacheDecision(field: string): CacheDecision {
    return this.#cache.decision(field)
  }

  cacheFields(): readonly CacheFieldInfo[] {
    return this.#cache.fields()
  }

  forceCache(field: string, decision: CacheDecision | undefined): void {
    checkDecision(decision)
    if (!this.#disposed) this.#cache.force(field, decision)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return
    // Views that live on keep their columns, but not the cache.
    void this.view
    this.#disposed = true
    this.#watchers.clear()
    await this.#index.released(this, this.entry, this.#cache)
  }
}
