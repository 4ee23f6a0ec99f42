/**
 * A shared mailbox as one user has it: a view of the shared table in which private flags and keywords are the user's
 * own, and modseqs count his private changes too.
 *
 * INVARIANTS
 *   1. Rows are the shared table's. What the user's own table says of messages that are gone is not seen.
 *   2. Arrays are the shared table's own wherever nothing private is in them, and those of the overlay before wherever
 *      nothing changed: a private change costs the chunks that hold its messages.
 *   3. A view is of two moments that fit: the shared view is at least as new as what the last private change in `own`
 *      noted. Who makes it from views of his own sees to that (`OverlayTable` does).
 */
import {
  type CacheColumn,
  FLAG_DELETED,
  FLAG_SEEN,
  type FixedColumn,
  type TableView,
  type ViewChunk,
} from '@mailstead/index'
import { OverlayKeywords } from './overlay-keywords.ts'
import { Order } from './private-order.ts'
import { type PrivacyPolicy, PrivacyRules } from './private-policy.ts'
import { maskOf, type PrivateView } from './private-tables.ts'

/** One chunk of an overlay and what it was made of. */
interface Part {
  readonly shared: ViewChunk
  readonly own: readonly ViewChunk[]
  readonly out: ViewChunk
  readonly unseen: number
  readonly deleted: number
}

/** What chunks are made by: the same for all views that follow each other under one policy. */
interface Making {
  readonly rules: PrivacyRules
  readonly keywords: OverlayKeywords
  /** Private system flags that own rows say something of. */
  readonly known: number
}

/** Chunks made until now in this process: what a change costs is counted by tests. */
export const overlayWork: { chunks: number } = { chunks: 0 }

/**
 * The overlay of a shared mailbox. `own` is what the user has there (undefined: nothing yet; of another UIDVALIDITY:
 * nothing). `before`: an earlier overlay of the same mailbox for the same user, whose chunks are used again where they
 * are still true.
 */
export function overlay(
  shared: TableView,
  own: PrivateView | undefined,
  policy: PrivacyPolicy | PrivacyRules,
  before?: TableView,
): TableView {
  const rules = policy instanceof PrivacyRules ? policy : new PrivacyRules(policy)
  return new OverlayView(shared, own, rules, before instanceof OverlayView ? before : undefined)
}

/** The private changes that an overlay counts. */
export function orderOf(view: TableView): Order {
  return view instanceof OverlayView ? view.order : Order.none
}

/** The shared view that an overlay is of; any other view itself. */
export function sharedView(view: TableView): TableView {
  return view instanceof OverlayView ? view.shared : view
}

class OverlayView implements TableView {
  readonly shared: TableView
  readonly own: PrivateView | undefined
  readonly order: Order
  readonly table: string
  readonly uidValidity: number
  readonly uidNext: number
  readonly highestModSeq: number
  readonly count: number
  readonly bytes: number
  readonly #making: Making
  readonly #sources: readonly ViewChunk[]
  readonly #own: readonly (readonly ViewChunk[])[]
  readonly #parts: (Part | undefined)[]
  #missing: number
  #chunks: readonly ViewChunk[] | undefined
  #unseen = -1
  #deleted = -1
  /** The chunk of the last row asked for. */
  #at = 0

  constructor(shared: TableView, own: PrivateView | undefined, rules: PrivacyRules, before: OverlayView | undefined) {
    const { uidValidity } = shared
    this.shared = shared
    this.own = own?.flags.uidValidity === uidValidity ? own : undefined
    const sameTable = before !== undefined && before.uidValidity === uidValidity
    this.order = this.own === undefined ? Order.none : Order.of(this.own.order, sameTable ? before.order : Order.none)
    const known = this.own === undefined ? 0 : maskOf(this.own.flags) & rules.mask
    const last = sameTable ? before.#making : undefined
    const goesOn = last !== undefined && last.rules === rules && last.known === known
    this.#making = goesOn ? last : { rules, keywords: new OverlayKeywords(rules), known }
    this.#making.keywords.extend(shared, this.own?.flags)
    this.table = shared.table
    this.uidValidity = uidValidity
    this.uidNext = shared.uidNext
    this.highestModSeq = Math.max(shared.highestModSeq, this.order.last, rules.policy.since ?? 0) + this.order.changes
    this.count = shared.count
    this.bytes = shared.bytes
    this.#sources = shared.chunks
    this.#own = overlapping(this.#sources, this.own?.flags.chunks ?? [])
    this.#parts = goesOn ? this.#partsOf(before!) : this.#sources.map(() => undefined)
    this.#missing = 0
    for (let i = 0; i < this.#sources.length; i++) if (this.#parts[i] === undefined) this.#missing++
  }

  get unseen(): number {
    if ((this.#making.rules.mask & FLAG_SEEN) === 0) return this.shared.unseen
    this.#count()
    return this.#unseen
  }
  get deleted(): number {
    if ((this.#making.rules.mask & FLAG_DELETED) === 0) return this.shared.deleted
    this.#count()
    return this.#deleted
  }
  /** Of the shared table: replicas compare stores, not what users see of them. */
  get digest(): string {
    return this.shared.digest
  }
  get values(): ReadonlyMap<string, Uint8Array> {
    return this.shared.values
  }
  get keywords(): readonly string[] {
    return this.#making.keywords.names
  }
  get keywordSets(): readonly (readonly number[])[] {
    // Which sets the two rows of a message make together is known when its chunk is made.
    if ((this.own?.flags.keywordSets.length ?? 1) > 1) this.#makeAll()
    return this.#making.keywords.sets
  }

  get chunks(): readonly ViewChunk[] {
    this.#makeAll()
    return (this.#chunks ??= this.#parts.map((part) => part!.out))
  }

  uid(row: number): number {
    return this.shared.uid(row)
  }
  flags(row: number): number {
    const { first, flags } = this.#chunkOf(row)
    return flags[row - first]!
  }
  modSeq(row: number): number {
    const { first, modSeqs } = this.#chunkOf(row)
    return modSeqs[row - first]!
  }
  keywordSet(row: number): number {
    const { first, keywordSets } = this.#chunkOf(row)
    return keywordSets[row - first]!
  }
  rowOf(uid: number): number {
    return this.shared.rowOf(uid)
  }
  rowsBelow(uid: number): number {
    return this.shared.rowsBelow(uid)
  }
  extension(name: string): FixedColumn | undefined {
    return this.shared.extension(name)
  }
  cache(field: string): CacheColumn {
    return this.shared.cache(field)
  }
  load(columns: readonly string[], first?: number, end?: number): Promise<void> {
    return this.shared.load(columns, first, end)
  }

  #chunkOf(row: number): ViewChunk {
    const sources = this.#sources
    let at = this.#at
    if (!(at < sources.length && row >= sources[at]!.first && row < sources[at]!.first + sources[at]!.rows)) {
      if (!(row >= 0 && row < this.count)) throw new RangeError(`no row ${row} of ${this.count}`)
      let low = 0
      let high = sources.length
      while (low < high) {
        const middle = (low + high) >> 1
        if (sources[middle]!.first + sources[middle]!.rows <= row) low = middle + 1
        else high = middle
      }
      at = low
      this.#at = at
    }
    return this.#part(at).out
  }

  #part(at: number): Part {
    const known = this.#parts[at]
    if (known !== undefined) return known
    const part = makePart(this.#sources[at]!, this.#own[at]!, this.#making, this.order)
    this.#parts[at] = part
    this.#missing--
    return part
  }

  #makeAll(): void {
    if (this.#missing > 0) for (let i = 0; i < this.#sources.length; i++) this.#part(i)
  }

  #count(): void {
    if (this.#unseen >= 0) return
    this.#makeAll()
    let unseen = 0
    let deleted = 0
    for (let i = 0; i < this.#parts.length; i++) {
      unseen += this.#parts[i]!.unseen
      deleted += this.#parts[i]!.deleted
    }
    this.#unseen = unseen
    this.#deleted = deleted
  }

  /** Parts of an earlier view whose rows, shared and own, are still the same. */
  #partsOf(before: OverlayView): (Part | undefined)[] {
    const parts: (Part | undefined)[] = this.#sources.map(() => undefined)
    const had = before.#parts
    let j = 0
    for (let i = 0; i < parts.length; i++) {
      const source = this.#sources[i]!
      const uid = source.uids[0]!
      while (j < had.length && before.#sources[j]!.uids[0]! < uid) j++
      if (j === had.length) break
      const part = had[j]
      if (part === undefined || !sameRows(part.shared, source) || !sameLists(part.own, this.#own[i]!)) continue
      const { first } = source
      parts[i] =
        part.out.first === first
          ? part
          : { shared: source, own: part.own, out: { ...part.out, first }, unseen: part.unseen, deleted: part.deleted }
    }
    return parts
  }
}

/** For each chunk of a table, the chunks of another one that may have rows of the same UIDs. */
function overlapping(chunks: readonly ViewChunk[], among: readonly ViewChunk[]): readonly (readonly ViewChunk[])[] {
  const found: (readonly ViewChunk[])[] = []
  let at = 0
  for (const { uids, rows } of chunks) {
    const low = uids[0]!
    const high = uids[rows - 1]!
    while (at < among.length && among[at]!.uids[among[at]!.rows - 1]! < low) at++
    let end = at
    while (end < among.length && among[end]!.uids[0]! <= high) end++
    found.push(end === at ? NO_CHUNKS : among.slice(at, end))
  }
  return found
}

const NO_CHUNKS: readonly ViewChunk[] = []

function sameLists(a: readonly ViewChunk[], b: readonly ViewChunk[]): boolean {
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (!sameRows(a[i]!, b[i]!)) return false
  return true
}

/** Views of a table share what did not change, and what is shared is never written again. */
function sameRows(a: ViewChunk, b: ViewChunk): boolean {
  return (
    a === b ||
    (a.rows === b.rows &&
      shares(a.uids, b.uids) &&
      shares(a.flags, b.flags) &&
      shares(a.modSeqs, b.modSeqs) &&
      shares(a.keywordSets, b.keywordSets))
  )
}

function shares(x: Uint32Array | Uint8Array | Float64Array, y: Uint32Array | Uint8Array | Float64Array): boolean {
  return x.buffer === y.buffer && x.byteOffset === y.byteOffset
}

function makePart(shared: ViewChunk, own: readonly ViewChunk[], making: Making, order: Order): Part {
  overlayWork.chunks++
  const { rules, keywords, known } = making
  const { mask, policy } = rules
  const { rows, uids } = shared
  // Of a message that the user has no row of, and of flags that his row says nothing of, all is as it begins.
  const begins = policy.initial === 'shared' ? mask : 0
  const keepAlone = ~mask | begins
  const keepBeside = ~mask | (begins & ~known)
  const since = policy.since ?? 0
  const flags = maskedFlags(shared, keepAlone, own.length > 0)
  const modSeqs = order.changes === 0 && since === 0 && own.length === 0 ? shared.modSeqs : new Float64Array(rows)
  if (modSeqs !== shared.modSeqs) {
    const from = shared.modSeqs
    for (let i = 0; i < rows; i++) modSeqs[i] = order.shown(from[i]! > since ? from[i]! : since)
  }
  const hasKeywords = own.some((chunk) => chunk.keywordSets.some((set) => set !== 0))
  const sets = keywords.isSame && !hasKeywords ? shared.keywordSets : new Uint32Array(rows)
  if (sets !== shared.keywordSets) for (let i = 0; i < rows; i++) sets[i] = keywords.join(shared.keywordSets[i]!, 0)
  let i = 0
  for (const chunk of own) {
    for (let j = 0; j < chunk.rows && i < rows; ) {
      const uid = uids[i]!
      const other = chunk.uids[j]!
      if (uid < other) i++
      else if (uid > other) j++
      else {
        flags[i] = (shared.flags[i]! & keepBeside) | (chunk.flags[j]! & known)
        if (chunk.modSeqs[j]! > modSeqs[i]!) modSeqs[i] = chunk.modSeqs[j]!
        if (chunk.keywordSets[j] !== 0) sets[i] = keywords.join(shared.keywordSets[i]!, chunk.keywordSets[j]!)
        i++
        j++
      }
    }
  }
  let unseen = 0
  let deleted = 0
  for (let row = 0; row < rows; row++) {
    if ((flags[row]! & FLAG_SEEN) === 0) unseen++
    if ((flags[row]! & FLAG_DELETED) !== 0) deleted++
  }
  const out = { first: shared.first, rows, uids, flags, modSeqs, keywordSets: sets }
  return { shared, own, out, unseen, deleted }
}

/**
 * The shared flags that are kept; the shared table's own array where that is all of them, and nothing is to be written
 * there.
 */
function maskedFlags({ flags, rows }: ViewChunk, keep: number, writes: boolean): Uint8Array {
  let drops = writes
  for (let i = 0; i < rows && !drops; i++) drops = (flags[i]! & ~keep) !== 0
  if (!drops) return flags
  const kept = new Uint8Array(rows)
  for (let i = 0; i < rows; i++) kept[i] = flags[i]! & keep
  return kept
}
