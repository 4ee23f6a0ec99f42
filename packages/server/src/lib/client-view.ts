/**
 * What one client knows of the mailbox that it has selected, and how it is told of more.
 *
 * Two views of the mailbox's table are held. `shown` is what the client's sequence numbers mean; it moves only in `tell`.
 * `told` is the newest view whose flag changes the client has heard of; it moves ahead of `shown` while expunges are
 * withheld. Flags that commands report are always the newest (see client-rows.ts).
 *
 * INVARIANTS
 *   1. A sequence number means the same message from one `tell` to the next.
 *   2. While expunges are withheld, so is every count, and every number of a message that came later.
 *   3. What this session changed and reported itself is not reported to it again.
 */
import type { FetchWriter, UpdateWriter } from '@mailstead/imap'
import { changesBetween, type TableView } from '@mailstead/index'
import type { Mailbox } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { type ClientRows, clientRows, nothingExpunged, sequencesOfUids, uidsOfSequences } from './client-rows.ts'
import { FlagLists } from './flag-lists.ts'
import { Pace } from './pace.ts'
import type { RecentMarks } from './recent.ts'
import { RIGHTS_OF_FLAGS } from './selected-rights.ts'

/** Messages between two looks at the connection's congestion. */
const PENDING_EVERY = 256

/** What FLAGS and PERMANENTFLAGS are told of. */
type FlagsTold = Parameters<FetchWriter['keywordsGrew']>[0]

export class ClientView {
  readonly #mailbox: Mailbox
  readonly #marks: RecentMarks
  readonly #readOnly: boolean
  /** Of the rows that were last asked for. */
  readonly lists: FlagLists = new FlagLists()
  #shown: TableView
  #told: TableView
  #keywordsTold: number
  /** The rights by which PERMANENTFLAGS was told. */
  #rightsTold: number
  #recent: UidSet
  /** Changes of our own that the client has heard of, and the modseq they had then. */
  #ours: { readonly uids: UidSet; readonly modSeq: number }[] = []

  /** `readOnly`: no message is claimed as recent. */
  constructor(mailbox: Mailbox, { marks, readOnly }: { readonly marks: RecentMarks; readonly readOnly: boolean }) {
    this.#mailbox = mailbox
    this.#marks = marks
    this.#readOnly = readOnly
    this.#shown = mailbox.view
    this.#told = this.#shown
    this.#keywordsTold = this.#shown.keywords.length
    this.#rightsTold = mailbox.rights
    this.#recent = this.#claim(this.#shown.uidNext)
  }

  get shown(): TableView {
    return this.#shown
  }
  /** UIDs. */
  get recent(): UidSet {
    return this.#recent
  }
  get recentCount(): number {
    return sequencesOfUids(this.#shown, this.#recent).size
  }

  /** The messages that the client knows, with the newest flags. */
  rows(): ClientRows {
    const rows = clientRows(this.#shown, this.#mailbox.view)
    this.lists.use(rows.keywordSets, rows.keywords)
    return rows
  }

  #claim(uidNext: number): UidSet {
    const { guid } = this.#mailbox
    const mark = this.#readOnly ? this.#marks.mark(guid) : this.#marks.claim(guid, uidNext)
    return mark < uidNext ? UidSet.range(mark, uidNext - 1) : UidSet.empty
  }

  /** Of these messages of the client's, those that another has expunged meanwhile. */
  goneAmong(uids: UidSet): UidSet {
    const { view } = this.#mailbox
    if (nothingExpunged(this.#shown, view)) return UidSet.empty
    return uids.subtract(uidsOfSequences(view.chunks, sequencesOfUids(view, uids)))
  }

  /** Before any FETCH that may have a new one: flags that are told are always the newest. */
  tellKeywords(writer: FetchWriter, told: FlagsTold): void {
    const { length } = this.#mailbox.view.keywords
    const rights = this.#mailbox.rights & RIGHTS_OF_FLAGS
    if (length === this.#keywordsTold && rights === (this.#rightsTold & RIGHTS_OF_FLAGS)) return
    this.#keywordsTold = length
    this.#rightsTold = rights
    writer.keywordsGrew(told)
  }

  /** The client knows of these changes, or is about to. `before` is the newest view from before they were made. */
  remember(changed: UidSet, modSeq: number, before: TableView): void {
    if (changed.isEmpty) return
    const { view } = this.#mailbox
    // Usually nobody else did anything meanwhile: then there is nothing to compare, now or later.
    const alone =
      before === this.#told &&
      view.highestModSeq === modSeq &&
      modSeq === before.highestModSeq + 1 &&
      view.uidNext === before.uidNext &&
      view.count === before.count &&
      view.keywords.length === this.#keywordsTold
    if (!alone) this.#ours.push({ uids: changed, modSeq })
    else {
      this.#told = view
      if (this.#shown === before) this.#shown = view
    }
  }

  /** Tells of what changed, by whomever. A failure leaves what the client knows as it was, or as far as it was told: the next call goes on from there. */
  async tell(options: { readonly expunges: boolean }, writer: UpdateWriter): Promise<void> {
    const latest = this.#mailbox.view
    if (latest === this.#shown && latest === this.#told) return
    const withheld = !options.expunges && !nothingExpunged(this.#shown, latest)
    const { changed } = changesBetween(this.#told, latest)
    if (!withheld) {
      const before = this.#shown
      const { expunged } = nothingExpunged(before, latest) ? NO_EXPUNGES : changesBetween(before, latest)
      if (!expunged.isEmpty) {
        if (writer.wantsVanished) writer.vanished(expunged)
        else await writeExpunged(before, expunged, writer)
      }
      this.#shown = latest
      if (latest.uidNext > before.uidNext) this.#recent = this.#recent.union(this.#claim(latest.uidNext))
      if (latest.count !== before.count - expunged.size) {
        writer.exists(latest.count)
        writer.recent(this.recentCount)
      }
      await this.#writeChanged(changed, before.uidNext, latest, writer)
    } else await this.#writeChanged(changed, this.#shown.uidNext, latest, writer)
    this.#told = latest
    this.#ours = []
  }

  /** FETCH replies for changes that are not ours, of messages below `uidNext`. */
  async #writeChanged(changed: UidSet, uidNext: number, latest: TableView, writer: UpdateWriter): Promise<void> {
    if (changed.isEmpty) return
    const { fetch, wantsUid, wantsModSeq } = writer
    const shown = this.#shown
    const recent = this.#recent
    const ours = this.#ours
    const recentFrom = recent.isEmpty ? Number.POSITIVE_INFINITY : recent.first
    this.lists.use(latest.keywordSets, latest.keywords)
    const pace = new Pace()
    let written = 0
    const { ranges } = changed
    for (let i = 0; i < ranges.length; i += 2) {
      for (let uid = ranges[i]!; uid <= ranges[i + 1]!; uid++) {
        if (uid >= uidNext) return
        const row = latest.rowOf(uid)
        if (row < 0) continue
        const modSeq = latest.modSeq(row)
        let known = false
        for (let j = 0; j < ours.length && !known; j++) known = ours[j]!.modSeq === modSeq && ours[j]!.uids.has(uid)
        if (known) continue
        const at = shown === latest ? row : shown.rowOf(uid)
        if (at < 0) continue
        fetch.begin(at + 1)
        if (wantsUid) fetch.uid(uid)
        fetch.flags(this.lists.list(latest.flags(row), uid >= recentFrom && recent.has(uid), latest.keywordSet(row)))
        if (wantsModSeq) fetch.modSeq(modSeq)
        fetch.end()
        if (++written % PENDING_EVERY === 0) {
          const pending = fetch.pending() ?? pace.due()
          if (pending !== undefined) await pending
        }
      }
    }
  }
}

const NO_EXPUNGES = { expunged: UidSet.empty }

/** EXPUNGE for each, highest first, so that no number depends on another. */
async function writeExpunged(before: TableView, expunged: UidSet, writer: UpdateWriter): Promise<void> {
  const { ranges } = sequencesOfUids(before, expunged)
  let written = 0
  for (let i = ranges.length - 2; i >= 0; i -= 2) {
    for (let sequence = ranges[i + 1]!; sequence >= ranges[i]!; sequence--) {
      writer.expunged(sequence)
      if (++written % PENDING_EVERY === 0) {
        const pending = writer.fetch.pending()
        if (pending !== undefined) await pending
      }
    }
  }
}
