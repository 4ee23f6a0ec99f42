/**
 * A batch: what a step of an open index found in its log, or decided, before it may be shown.
 *
 * INVARIANTS
 *   1. It is published as a whole after the flush (`KnownTables.publish`), or dropped: until then nothing that is shown changes.
 *   2. It has states only of tables that are in memory, or are created in it. The rest is read when it is opened.
 */
import { applyFrameTable } from './apply-frame.ts'
import { Draft } from './draft.ts'
import type { Entries } from './entries.ts'
import { TableDamaged } from './error.ts'
import { FRAME_PART, type FrameTable } from './frame.ts'
import type { LogFrame } from './log-medium.ts'
import { payloadOf } from './log-parts.ts'
import { emptyState, tableMeta, type TableState } from './state.ts'

/** What one frame, or the last of its parts, did. */
export interface Effect {
  readonly number: number
  readonly tables: readonly FrameTable[]
  readonly segment: number
  readonly offset: number
}

export class Batch {
  readonly effects: Effect[] = []
  /** Newest states by table number, of tables that are loaded or created here. */
  readonly states: Map<number, TableState> = new Map()
  /** Number of the table that has this id after the batch; undefined if it was dropped. */
  readonly ids: Map<string, number | undefined> = new Map()
  readonly damage: Map<number, string> = new Map()
  /** Of the next table that is created. */
  nextNumber: number
  /** What is shown before it. */
  readonly #entries: Entries

  constructor(entries: Entries, nextNumber: number) {
    this.#entries = entries
    this.nextNumber = nextNumber
  }

  /** The number of the table that has this id. */
  numberOf(id: string): number | undefined {
    return this.ids.has(id) ? this.ids.get(id) : this.#entries.get(id)?.number
  }

  /** Its newest state, which must be in memory; undefined if there is no such table. Throws INDEX_CORRUPT. */
  state(id: string): TableState | undefined {
    const number = this.numberOf(id)
    if (number === undefined) return undefined
    const reason = this.damage.get(number) ?? this.#entries.at(number)?.damage
    if (reason !== undefined) throw new TableDamaged(id, reason)
    const state = this.states.get(number) ?? this.#entries.at(number)?.state
    if (state === undefined) throw new Error(`table ${id} is not loaded`)
    return state
  }

  /** What stands for a table that is damaged; undefined if it is not. */
  ruin(id: string): TableState | undefined {
    const number = this.numberOf(id)
    const entry = number === undefined ? undefined : this.#entries.at(number)
    if (entry === undefined || (this.damage.get(entry.number) ?? entry.damage) === undefined) return undefined
    const { uidValidity, uidNext, highestModSeq, ceiling, count, unseen, deleted, bytes, digest } = entry
    const empty = emptyState(tableMeta(entry.number, { id, uidValidity, columns: [] }))
    return { ...empty, uidNext, highestModSeq, ceiling, count, unseen, deleted, bytes, digest }
  }

  /** The table of this number is dropped. */
  drop(number: number): void {
    const id = this.#entries.at(number)?.id
    if (id !== undefined) this.ids.set(id, undefined)
    for (const [created, one] of this.ids) if (one === number) this.ids.set(created, undefined)
    this.states.delete(number)
  }

  /** Takes in frames that others wrote. */
  takeIn(frames: readonly LogFrame[]): void {
    const drafts = new Map<number, Draft>()
    let parts: LogFrame[] = []
    for (const frame of frames) {
      if ((frame.header.bits & FRAME_PART) !== 0) {
        parts.push(frame)
        continue
      }
      const mine = frame.header.parts === 0 ? [] : parts.slice(-frame.header.parts)
      parts = []
      const first = mine[0] ?? frame
      const whole = mine.length === frame.header.parts
      if (frame.header.tables.length === 0) continue
      let payload: Uint8Array | undefined
      let at = 0
      for (const table of frame.header.tables) {
        const { number } = table
        if (table.created !== undefined) {
          this.ids.set(table.created.id, number)
          if (number >= this.nextNumber) this.nextNumber = number + 1
        }
        if (table.dropped) {
          this.drop(number)
          drafts.delete(number)
        }
        const entry = this.#entries.at(number)
        const state = this.states.get(number) ?? entry?.state
        const known = frame.header.number <= (entry?.stateFrame ?? 0)
        if (state !== undefined && !known && !table.dropped && !this.damage.has(number)) {
          payload ??= whole ? payloadOf([...mine, frame]) : undefined
          try {
            if (payload === undefined) throw new Error(`frame ${frame.header.number} is damaged`)
            const draft = drafts.get(number) ?? new Draft(state)
            drafts.set(number, draft)
            applyFrameTable(draft, table, payload.subarray(at, at + table.sectionLength), frame.header.number)
          } catch (error) {
            drafts.delete(number)
            this.damage.set(number, String(error))
          }
        }
        at += table.sectionLength
      }
      this.effects.push({
        number: frame.header.number,
        tables: frame.header.tables,
        segment: first.segment,
        offset: first.offset,
      })
    }
    for (const [number, draft] of drafts) this.states.set(number, draft.freeze())
  }
}
