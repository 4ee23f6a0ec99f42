/**
 * Which tables were created, changed and dropped after a frame: told from what the index knows of its tables anyway, and from
 * a list of the last drops.
 *
 * INVARIANTS
 *   1. Every table dropped after `horizon` is in the list, once, in the order of the drops.
 *   2. It is as durable as the drops are: the list of tables has what is before a checkpoint, the log what comes after.
 */
import type { IndexChanges, TouchedTable } from './contract.ts'
import type { Entry } from './entries.ts'
import { DROPPED_TABLES_MAX } from './limits.ts'

export interface DroppedTable {
  readonly number: number
  readonly id: string
  /** Frame that created it, and the one that dropped it. */
  readonly created: number
  readonly frame: number
}

export class DroppedTables {
  #tables = new Map<number, DroppedTable>()
  #horizon = 0

  get tables(): readonly DroppedTable[] {
    return [...this.#tables.values()]
  }

  get horizon(): number {
    return this.#horizon
  }

  /** Begins anew with what a list of tables says. */
  reset(tables: readonly DroppedTable[], horizon: number): void {
    this.#tables = new Map(tables.map((table) => [table.number, table]))
    this.#horizon = horizon
  }

  /** Drops up to this frame may have been missed. */
  forget(frame: number): void {
    if (frame > this.#horizon) this.#horizon = frame
  }

  add(table: DroppedTable): void {
    // The list of tables may have it already, and its frame be read again.
    if (this.#tables.has(table.number)) return
    this.#tables.set(table.number, table)
    if (this.#tables.size <= DROPPED_TABLES_MAX) return
    for (const [number, oldest] of this.#tables) {
      this.#tables.delete(number)
      this.forget(oldest.frame)
      break
    }
  }
}

/** `flushed` is the last frame that stays, `last` the last one that is known. */
export function changesSince(
  frame: number,
  entries: Iterable<Entry>,
  dropped: DroppedTables,
  { flushed, last }: { readonly flushed: number; readonly last: number },
): IndexChanges | undefined {
  if (!(frame >= dropped.horizon && frame <= last)) return undefined
  const created: TouchedTable[] = []
  const changed: TouchedTable[] = []
  for (const entry of entries) {
    if (entry.frame <= frame) continue
    const { id } = entry
    ;(entry.created > frame ? created : changed).push({ id, frame: entry.frame })
  }
  const gone: TouchedTable[] = []
  for (const table of dropped.tables)
    if (table.frame > frame && table.created <= frame) gone.push({ id: table.id, frame: table.frame })
  return { frame: flushed, created, changed, dropped: gone }
}
