/**
 * What a process said of its work on an index, and whether what is found there afterwards can be so.
 *
 * A message has a number, which its GUID, a value of the table and its cached field repeat; it is one row of `inbox`, which
 * counts one use of its row of `box`. So whatever is half there contradicts itself, or the counts.
 */
import type { Fs } from '@mailstead/fs'
import { FLAG_ANSWERED, type IndexOptions, openIndex, repairIndex } from '@mailstead/index'

export type Change =
  | { readonly kind: 'deliver'; readonly n: number }
  | { readonly kind: 'flag'; readonly n: number; readonly uid: number; readonly flag: number }
  | { readonly kind: 'expunge'; readonly n: number; readonly uid: number }
  | { readonly kind: 'create'; readonly table: string }
  | { readonly kind: 'drop'; readonly table: string }

export type Said =
  | readonly ['ready']
  /** Asked for: all of it or nothing. */
  | readonly ['ask', id: number, changes: readonly Change[]]
  | readonly ['done', id: number, uids: readonly number[], uidNext: number, highestModSeq: number]
  | readonly ['refused', id: number, code: string, cause: string | undefined]
  /** Anything else that is asked of an index. */
  | readonly ['failed', what: string, code: string, cause: string | undefined]
  | readonly ['compacted']
  /** It is about to be harmed. */
  | readonly ['harmed']
  | readonly ['repaired']
  | readonly ['stuck', why: string]
  | readonly ['end']

/** Segments end, and checkpoints compact, within a few commits. */
export const SMALL: IndexOptions = { segmentBytes: 1500, checkpointBytes: 1 << 30, lockWaitMs: 60_000 }
export const CACHE_FIELD = 'derived'
const CACHED_BYTES = 12_000

export function guidOf(n: number): Uint8Array {
  const guid = Buffer.alloc(16)
  guid.writeUInt32LE(n)
  return guid
}
export function numberOf(guid: Uint8Array): number {
  return Buffer.from(guid).readUInt32LE()
}
export function valueKey(n: number): string {
  return `n${n}`
}
export function cachedOf(n: number): Uint8Array {
  return Buffer.alloc(CACHED_BYTES, guidOf(n))
}

/** By key: the flags of a message as text, `there` for a table; nothing for what is not. */
type State = Map<string, string>

function messageKey(n: number): string {
  return `message ${n}`
}
function tableKey(table: string): string {
  return `table ${table}`
}

/** What an index may hold, by what was said of the work on it. */
export class Expected {
  /** What was acknowledged, and what was refused not. */
  readonly #known: State = new Map()
  /** What may have happened or not, each wholly: nothing else is asked of what they touch. */
  readonly #open = new Map<number, readonly Change[]>()
  readonly #uids = new Map<number, number>()
  #uidNext = 0
  #highestModSeq = 0
  /** It is to be repaired before it is opened. */
  harmed = false
  /** Commits after which nobody knew. */
  uncertain = 0
  /** What else commits were refused with than they may be. */
  readonly strangeCodes: string[] = []
  readonly #causes: readonly string[]

  /** `causes`: why commits may be refused. */
  constructor(causes: readonly string[]) {
    this.#causes = causes
  }

  hear(said: Said): void {
    switch (said[0]) {
      case 'ask':
        this.#open.set(said[1], said[2])
        break
      case 'done': {
        const [, id, uids, uidNext, highestModSeq] = said
        const changes = this.#open.get(id)!
        this.#open.delete(id)
        this.#apply(changes)
        const delivered = changes.filter((change) => change.kind === 'deliver')
        for (const [i, { n }] of delivered.entries()) this.#uids.set(n, uids[i]!)
        this.#uidNext = Math.max(this.#uidNext, uidNext)
        this.#highestModSeq = Math.max(this.#highestModSeq, highestModSeq)
        break
      }
      case 'refused':
        if (said[2] === 'INDEX_UNCERTAIN') this.uncertain++
        else this.#open.delete(said[1])
        if (!/^INDEX_(WRITE_FAILED|UNCERTAIN)$/.test(said[2]) || !this.#causes.includes(said[3] ?? ''))
          this.strangeCodes.push(`${said[2]} for ${said[3]}`)
        break
      case 'harmed':
        this.harmed = true
        break
      case 'repaired':
        this.harmed = false
        break
    }
  }

  #apply(changes: readonly Change[], state: State = this.#known): void {
    for (const change of changes) {
      if (change.kind === 'deliver') state.set(messageKey(change.n), '0')
      else if (change.kind === 'expunge') state.delete(messageKey(change.n))
      else if (change.kind === 'create') state.set(tableKey(change.table), 'there')
      else if (change.kind === 'drop') state.delete(tableKey(change.table))
      else {
        const key = messageKey(change.n)
        state.set(key, String(Number(state.get(key)) | change.flag))
      }
    }
  }

  /**
   * Looks at the index, repairing it first if it was harmed, and says what is wrong. What was open is then known. Leaves
   * nothing open, and the index as whoever had it would find it when it opens it.
   */
  async judge(fs: Fs, path: string): Promise<readonly string[]> {
    const wrong: string[] = []
    if (this.harmed) for await (const _ of repairIndex(fs, path));
    await using index = await openIndex(fs, path, { create: true, ...SMALL })
    const found: State = new Map()
    for (const { id } of index.tables) found.set(tableKey(id), 'there')
    await using inbox = await index.open('inbox')
    if (inbox !== undefined) {
      const { view } = inbox
      const guids = view.extension('guid')!
      const cached = view.cache(CACHE_FIELD)
      for (let row = 0; row < view.count; row++) {
        const n = numberOf(guids.value(row))
        const uid = this.#uids.get(n)
        if (uid !== undefined && uid !== view.uid(row)) wrong.push(`message ${n} had UID ${uid}, now ${view.uid(row)}`)
        if (found.has(messageKey(n))) wrong.push(`message ${n} is there twice`)
        found.set(messageKey(n), String(view.flags(row)))
        if (numberOf(view.values.get(valueKey(n)) ?? guidOf(0)) !== n) wrong.push(`message ${n} has no value`)
        const value = cached.value(row)
        if (value !== undefined && Buffer.compare(value, cachedOf(n)) !== 0)
          wrong.push(`message ${n} has a wrong field`)
      }
      if (view.values.size !== view.count) wrong.push(`${view.values.size} values of ${view.count} messages`)
      if (view.uidNext < this.#uidNext || view.highestModSeq < this.#highestModSeq)
        wrong.push(
          `UIDNEXT or HIGHESTMODSEQ went back: ${this.#uidNext} ${this.#highestModSeq} -> ${view.uidNext} ${view.highestModSeq}`,
        )
      for (const [n, uid] of this.#uids)
        if (uid >= view.uidNext) wrong.push(`message ${n} had UID ${uid}, which will be given again`)
    }
    this.#resolve(found)
    for (const key of new Set([...found.keys(), ...this.#known.keys()]))
      if (found.get(key) !== this.#known.get(key))
        wrong.push(`${key} is ${found.get(key) ?? 'not there'}, not ${this.#known.get(key) ?? 'gone'}`)
    for await (const page of index.check())
      for (const { severity, kind, message } of page) if (severity === 'damage') wrong.push(`${kind}: ${message}`)
    return wrong
  }

  /** What was open happened, where all that it changes is so. */
  #resolve(found: State): void {
    for (const changes of this.#open.values()) {
      const after: State = new Map(this.#known)
      this.#apply(changes, after)
      const keys = changes.map((change) => ('n' in change ? messageKey(change.n) : tableKey(change.table)))
      if (keys.every((key) => found.get(key) === after.get(key))) this.#apply(changes)
    }
    this.#open.clear()
  }
}

/** The index goes on: what is asked of it now is done, and found. */
export async function goesOn(fs: Fs, path: string): Promise<void> {
  await using index = await openIndex(fs, path, { create: true, ...SMALL })
  const before = index.info('inbox')?.count
  if (before === undefined) return
  await using tx = index.begin()
  tx.append('inbox', { flags: FLAG_ANSWERED, columns: { ref: tx.append('box', {}) } })
  await tx.commit()
  if (index.info('inbox')!.count !== before + 1) throw new Error('a commit after the failure is not there')
}
