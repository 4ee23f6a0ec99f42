/**
 * A selected mailbox: one client's view of it.
 *
 * Two views of the mailbox's table are held. `shown` is what the client's sequence numbers mean; it moves only in `sync`.
 * `told` is the newest view whose flag changes the client has heard of; it moves ahead of `shown` while expunges are
 * withheld. Flags that commands report are always the newest (see client-rows.ts).
 *
 * INVARIANTS
 *   1. A sequence number means the same message from one `sync` (or expunge, move) to the next.
 *   2. While expunges are withheld, so is every count, and every number of a message that came later.
 *   3. What this session changed and reported itself is not reported to it again.
 *   4. Flags are changed by the policy by which the mailbox was opened, or not at all: where another says which are the user's own, it has to
 *      be opened again.
 */
import { formatPrivacyPolicy } from '@mailstead/acl/private-flags'
import {
  type CopyResult,
  type FetchRequest,
  type FetchWriter,
  ImapError,
  type PermanentFlags,
  type ResyncRequest,
  type SearchKey,
  type SearchResult,
  type SelectedMailbox,
  type SortCriterion,
  type StoreRequest,
  type StoreResult,
  type Target,
  type ThreadAlgorithm,
  type ThreadNode,
  type UpdateWriter,
} from '@mailstead/imap'
import { changesBetween, type FlagChange, type TableView } from '@mailstead/index'
import {
  flagsByRights,
  type Mailbox,
  RIGHT_EXPUNGE,
  RIGHT_INSERT,
  RIGHT_LOOKUP,
  RIGHT_READ,
  RIGHT_WRITE,
  RIGHT_WRITE_DELETED,
  RIGHT_WRITE_SEEN,
} from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { clientRows, nothingExpunged, sequencesOfUids, uidsOfSequences } from './client-rows.ts'
import { tellDamage } from './damage.ts'
import type { OnServerEvent } from './events.ts'
import { fetchMessages, withoutSeen } from './fetch.ts'
import { FlagLists } from './flag-lists.ts'
import { Pace } from './pace.ts'
import type { RecentMarks } from './recent.ts'
import { searchRows } from './search.ts'
import { sortRows } from './sort.ts'
import { imapError, isDamage, type NoMailboxMeans, storeCodeOf } from './store-errors.ts'
import { copyToOther, moveToOther } from './copy-to-other.ts'
import type { Place } from './namespaces.ts'
import { sequencesOf, uidsNamed } from './targets.ts'
import { threadRows } from './thread-rows.ts'

const SEEN = 8
const SYSTEM_FLAGS = 31
const RIGHTS_OF_FLAGS: number = RIGHT_WRITE | RIGHT_WRITE_SEEN | RIGHT_WRITE_DELETED
/** Without any of these a mailbox is selected read-only. */
const RIGHTS_TO_CHANGE: number = RIGHTS_OF_FLAGS | RIGHT_EXPUNGE | RIGHT_INSERT
/** Messages between two looks at the connection's congestion. */
const PENDING_EVERY = 256

export interface SelectedOptions {
  readonly mailbox: Mailbox
  /** Let go with the mailbox. */
  readonly place: Place
  /** Where messages go: STORE_NO_MAILBOX. */
  readonly placeOf: (name: string) => Promise<Place>
  readonly readOnly: boolean
  readonly onEvent: OnServerEvent
}

export class Selected implements SelectedMailbox {
  readonly name: string
  readonly readOnly: boolean
  readonly mailboxId: string
  readonly #mailbox: Mailbox
  readonly #place: Place
  readonly #placeOf: (name: string) => Promise<Place>
  /** The rights by which PERMANENTFLAGS was told. */
  #rightsTold: number
  /** By which flags are the user's own. */
  readonly #policy: string
  readonly #marks: RecentMarks
  readonly #onEvent: OnServerEvent
  readonly #lists = new FlagLists()
  #shown: TableView
  #told: TableView
  #keywordsTold: number
  #recent: UidSet
  #saved: UidSet = UidSet.empty
  /** Changes of our own that the client has heard of, and the modseq they had then. */
  #ours: { readonly uids: UidSet; readonly modSeq: number }[] = []
  /** CONDSTORE is on: a flag change is not told before its modseq is. */
  #modSeqs = false
  /** Messages whose damage whoever runs the server was told of. */
  readonly #damageTold = new Set<number>()
  /** The message that the search under way could not read. */
  #damagedUid: number | undefined

  constructor(options: SelectedOptions) {
    const { mailbox } = options
    this.#mailbox = mailbox
    this.#place = options.place
    this.#placeOf = options.placeOf
    this.#marks = options.place.recent
    this.#onEvent = options.onEvent
    this.name = options.place.prefix + mailbox.name
    this.#rightsTold = mailbox.rights
    this.#policy = this.#policyNow()
    this.readOnly = options.readOnly || (mailbox.rights & RIGHTS_TO_CHANGE) === 0
    this.mailboxId = mailbox.guid
    this.#shown = mailbox.view
    this.#told = this.#shown
    this.#keywordsTold = this.#shown.keywords.length
    this.#recent = this.#claim(this.#shown.uidNext)
  }

  get keywordsCanGrow(): boolean {
    return !this.readOnly && (this.#mailbox.rights & RIGHT_WRITE) !== 0
  }
  get permanentFlags(): PermanentFlags | undefined {
    const { rights } = this.#mailbox
    if ((rights & RIGHTS_OF_FLAGS) === RIGHTS_OF_FLAGS) return undefined
    return { flags: flagsByRights(rights) & SYSTEM_FLAGS, keywords: (rights & RIGHT_WRITE) !== 0 }
  }
  get uidValidity(): number {
    return this.#shown.uidValidity
  }
  get uidNext(): number {
    return this.#shown.uidNext
  }
  get count(): number {
    return this.#shown.count
  }
  get recent(): number {
    return sequencesOfUids(this.#shown, this.#recent).size
  }
  get firstUnseen(): number {
    if (this.#shown.unseen === 0) return 0
    for (const { first, flags, rows } of this.#shown.chunks)
      for (let i = 0; i < rows; i++) if ((flags[i]! & SEEN) === 0) return first + i + 1
    return 0
  }
  /** Never beyond an expunge that was withheld (RFC 7162 §3.2.5.1). */
  get highestModSeq(): number {
    return this.#shown.highestModSeq
  }
  get keywords(): readonly string[] {
    return this.#mailbox.view.keywords
  }

  /** Failures of the store become the client's; damage is told to whoever runs the server too. */
  async #renamed<T>(work: () => Promise<T>, noMailbox?: NoMailboxMeans): Promise<T> {
    try {
      return await work()
    } catch (error) {
      this.#tellDamage(error, isDamage(error) ? this.#damagedUid : undefined)
      throw imapError(error, noMailbox)
    } finally {
      this.#damagedUid = undefined
    }
  }

  /** Each damaged message once: clients ask again and again. */
  #tellDamage(error: unknown, uid: number | undefined): void {
    if (uid !== undefined) {
      if (this.#damageTold.has(uid)) return
      this.#damageTold.add(uid)
    }
    tellDamage(this.#onEvent, error, uid === undefined ? { mailbox: this.name } : { mailbox: this.name, uid })
  }

  #claim(uidNext: number): UidSet {
    const { guid } = this.#mailbox
    const mark = this.readOnly ? this.#marks.mark(guid) : this.#marks.claim(guid, uidNext)
    return mark < uidNext ? UidSet.range(mark, uidNext - 1) : UidSet.empty
  }

  /** NOPERM, or NONEXISTENT: the mailbox may be read no more. */
  #mayRead(): void {
    const { rights } = this.#mailbox
    if ((rights & RIGHT_READ) !== 0) return
    throw (rights & RIGHT_LOOKUP) === 0
      ? new ImapError('NONEXISTENT', 'No such mailbox')
      : new ImapError('NOPERM', 'Permission denied')
  }

  #policyNow(): string {
    const { store } = this.#place
    if (!('privateFlags' in store.subject)) return ''
    try {
      return formatPrivacyPolicy(store.privacy(this.#mailbox.name))
    } catch {
      // It was removed, or may be read no more: that is told by what is done with it.
      return this.#policy
    }
  }

  /** INUSE: what is changed now would be kept where others see it, or where nobody looks for it. */
  #mustHavePolicy(): void {
    if (this.#policyNow() !== this.#policy)
      throw new ImapError('INUSE', 'Other flags are private now, the mailbox must be opened again')
  }

  /** NOPERM, also where the mailbox may not be known of: who has it selected knows it. */
  #mayExpunge(): void {
    this.#mayRead()
    if ((this.#mailbox.rights & RIGHT_EXPUNGE) === 0) throw new ImapError('NOPERM', 'Permission denied')
  }

  /** Before any FETCH that may have a new one: flags that are told are always the newest. */
  #tellKeywords(writer: FetchWriter): void {
    const { length } = this.#mailbox.view.keywords
    const rights = this.#mailbox.rights & RIGHTS_OF_FLAGS
    if (length === this.#keywordsTold && rights === (this.#rightsTold & RIGHTS_OF_FLAGS)) return
    this.#keywordsTold = length
    this.#rightsTold = rights
    writer.keywordsGrew(this)
  }

  async resync(request: ResyncRequest, vanishedEarlier: (uids: UidSet) => void, writer: FetchWriter): Promise<void> {
    this.#modSeqs = true
    const view = this.#shown
    if (request.uidValidity !== view.uidValidity) return
    const known = request.knownUids ?? (view.uidNext > 1 ? UidSet.range(1, view.uidNext - 1) : UidSet.empty)
    const gone = this.#expungedAmong(known, request.modSeq, request.sequenceMatch)
    if (!gone.isEmpty) vanishedEarlier(gone)
    this.#tellKeywords(writer)
    const rows = clientRows(view, this.#mailbox.view)
    this.#lists.use(rows.keywordSets, rows.keywords)
    const request_: FetchRequest = {
      ...NOTHING_ASKED,
      uid: true,
      flags: true,
      modSeq: true,
      changedSince: request.modSeq,
    }
    await this.#renamed(() =>
      fetchMessages({
        mailbox: this.#mailbox,
        rows,
        sequences: sequencesOfUids(view, known),
        request: request_,
        writer,
        lists: this.#lists,
        recent: this.#recent,
        newlySeen: UidSet.empty,
      }),
    )
  }

  /** Of `known`, what was expunged after `modSeq`; where history does not reach back that far, all that is not there. */
  #expungedAmong(known: UidSet, modSeq: number, match: ResyncRequest['sequenceMatch']): UidSet {
    const expunged = this.#mailbox.table.expungedSince(modSeq)
    const shown = uidsOfSequences(this.#shown.chunks, sequencesOfUids(this.#shown, known))
    if (expunged !== undefined) return expunged.intersect(known).subtract(shown)
    let from = 1
    if (match !== undefined) from = lastMatch(this.#shown, match.sequences, match.uids) + 1
    const gone = known.subtract(shown)
    return from > 1 ? gone.subtract(UidSet.range(1, from - 1)) : gone
  }

  async fetch(
    target: Target,
    request: FetchRequest,
    writer: FetchWriter,
    vanishedEarlier: (uids: UidSet) => void,
  ): Promise<void> {
    this.#mayRead()
    if (request.modSeq || request.changedSince !== undefined) this.#modSeqs = true
    const sequences = sequencesOf(target, this.#shown, this.#saved)
    if (request.vanished && request.changedSince !== undefined) {
      const gone = this.#expungedAmong(uidsNamed(target, this.#shown, this.#saved), request.changedSince, undefined)
      if (!gone.isEmpty) vanishedEarlier(gone)
    }
    let newlySeen = UidSet.empty
    const marks = !this.readOnly && (this.#mailbox.rights & RIGHT_WRITE_SEEN) !== 0
    if (marks && !sequences.isEmpty && request.sections.some(({ peek }) => !peek))
      newlySeen = await this.#setSeen(sequences, request.changedSince, request.modSeq)
    if (request.flags || !newlySeen.isEmpty) this.#tellKeywords(writer)
    const rows = clientRows(this.#shown, this.#mailbox.view)
    this.#lists.use(rows.keywordSets, rows.keywords)
    const outcome = await this.#renamed(() =>
      fetchMessages({
        mailbox: this.#mailbox,
        rows,
        sequences,
        request,
        writer,
        lists: this.#lists,
        recent: this.#recent,
        newlySeen,
        onDamaged: (uid, error) => this.#tellDamage(error, uid),
      }),
    )
    if (outcome.damaged > 0) throw new ImapError('SERVERBUG', 'Some messages are damaged and cannot be read')
    if (outcome.unavailable !== undefined)
      throw new ImapError('UNAVAILABLE', 'The mail store is not available now', { cause: outcome.unavailable })
    if (outcome.expunged > 0) throw new ImapError('EXPUNGEISSUED', 'Some messages no longer exist')
  }

  /** One transaction for the whole command. A store that cannot be written now can still be read. */
  async #setSeen(sequences: UidSet, changedSince: number | undefined, withModSeq: boolean): Promise<UidSet> {
    const before = this.#mailbox.view
    const unseen = withoutSeen(clientRows(this.#shown, before), sequences, changedSince)
    if (unseen.isEmpty) return unseen
    this.#mustHavePolicy()
    try {
      const { changed, modSeq } = await this.#mailbox.changeFlags(unseen, { add: SEEN })
      if (!this.#modSeqs || withModSeq) this.#remember(changed, modSeq, before)
      return changed
    } catch (error) {
      this.#onEvent({ level: 'warn', kind: 'seen', message: `\\Seen could not be set in ${this.name}`, error })
      return UidSet.empty
    }
  }

  /** The client knows of these changes, or is about to. `before` is the newest view from before they were made. */
  #remember(changed: UidSet, modSeq: number, before: TableView): void {
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

  async store(
    target: Target,
    request: StoreRequest,
    writer: FetchWriter,
    options: { readonly wantsModSeq: boolean },
  ): Promise<StoreResult> {
    if (this.readOnly) throw new ImapError('READ-ONLY', 'The mailbox is selected read-only')
    const { wantsModSeq } = options
    if (wantsModSeq || request.unchangedSince !== undefined) this.#modSeqs = true
    const sequences = sequencesOf(target, this.#shown, this.#saved)
    if (sequences.isEmpty) return { modified: UidSet.empty }
    const uids = uidsOfSequences(this.#shown.chunks, sequences)
    this.#mustHavePolicy()
    const { unchangedSince } = request
    const before = this.#mailbox.view
    const { changed, failed, modSeq } = await this.#renamed(() =>
      this.#mailbox.changeFlags(uids, flagChange(request), unchangedSince === undefined ? {} : { unchangedSince }),
    )
    this.#remember(changed, modSeq, before)
    const gone = this.#goneAmong(uids)
    const conditional = unchangedSince !== undefined
    if (!request.silent || conditional || (wantsModSeq && !changed.isEmpty)) {
      if (!request.silent) this.#tellKeywords(writer)
      const rows = clientRows(this.#shown, this.#mailbox.view)
      this.#lists.use(rows.keywordSets, rows.keywords)
      const without = gone.isEmpty ? failed : failed.union(gone)
      // RFC 7162 §3.1.3: each success of a conditional STORE is told with its modseq, whatever it changed and however silent.
      const told = request.silent && !conditional ? changed : without.isEmpty ? uids : uids.subtract(without)
      await this.#renamed(() =>
        fetchMessages({
          mailbox: this.#mailbox,
          rows,
          sequences: told === uids ? sequences : sequencesOfUids(this.#shown, told),
          request: { ...NOTHING_ASKED, uid: request.uid, flags: !request.silent, modSeq: wantsModSeq || conditional },
          writer,
          lists: this.#lists,
          recent: this.#recent,
          newlySeen: UidSet.empty,
        }),
      )
    }
    const byUid = isByUid(target)
    const expunged = !byUid && !gone.isEmpty
    if (!conditional || failed.isEmpty) return { modified: UidSet.empty, expunged }
    return { modified: byUid ? failed : sequencesOfUids(this.#shown, failed), expunged }
  }

  /** Of these messages of the client's, those that another has expunged meanwhile. */
  #goneAmong(uids: UidSet): UidSet {
    const { view } = this.#mailbox
    if (nothingExpunged(this.#shown, view)) return UidSet.empty
    return uids.subtract(uidsOfSequences(view.chunks, sequencesOfUids(view, uids)))
  }

  async search(key: SearchKey, options: { readonly uid: boolean }): Promise<SearchResult> {
    this.#mayRead()
    return this.#renamed(async () => {
      const rows = clientRows(this.#shown, this.#mailbox.view)
      const { mask, ...modSeqs } = await searchRows(this.#searchContext(rows), key)
      return { found: setOf(mask, options.uid ? rows.chunks : undefined), ...modSeqs }
    })
  }

  async sort(
    criteria: readonly SortCriterion[],
    key: SearchKey,
    options: { readonly uid: boolean },
  ): Promise<Uint32Array> {
    this.#mayRead()
    return this.#renamed(async () => {
      const rows = clientRows(this.#shown, this.#mailbox.view)
      const { mask } = await searchRows(this.#searchContext(rows), key)
      return sortRows({ mailbox: this.#mailbox, rows, mask, criteria, uid: options.uid })
    })
  }

  async thread(
    algorithm: ThreadAlgorithm,
    key: SearchKey,
    options: { readonly uid: boolean },
  ): Promise<readonly ThreadNode[]> {
    this.#mayRead()
    return this.#renamed(async () => {
      const rows = clientRows(this.#shown, this.#mailbox.view)
      const { mask } = await searchRows(this.#searchContext(rows), key)
      return threadRows({ mailbox: this.#mailbox, rows, mask, algorithm, uid: options.uid })
    })
  }

  #searchContext(rows: ReturnType<typeof clientRows>): Parameters<typeof searchRows>[0] {
    return {
      mailbox: this.#mailbox,
      rows,
      recent: this.#recent,
      sequencesOf: (target) => sequencesOf(target, this.#shown, this.#saved),
      nowMs: Date.now(),
      onUnread: (uid) => (this.#damagedUid = uid),
    }
  }

  async copy(target: Target, mailbox: string): Promise<CopyResult> {
    this.#mayRead()
    const sequences = sequencesOf(target, this.#shown, this.#saved)
    if (sequences.isEmpty) return { copied: undefined }
    const uids = uidsOfSequences(this.#shown.chunks, sequences)
    // All or none (RFC 3501 §6.4.7): a sequence number names a message that the client was told of, and may not be passed over
    // in silence, as a UID may.
    const options = { mustExist: !isByUid(target) }
    const outcome = await this.#renamed(async () => {
      using to = await this.#placeOf(mailbox)
      const name = mailbox.slice(to.prefix.length)
      return to.prefix === this.#place.prefix
        ? await this.#mailbox.copy(uids, name, options)
        : await copyToOther(this.#mailbox, uids, { store: to.store, mailbox: name }, options)
    }, 'TRYCREATE')
    return { copied: outcome.source.isEmpty ? undefined : outcome }
  }

  async move(
    target: Target,
    mailbox: string,
    copied: (result: CopyResult) => void,
    writer: UpdateWriter,
  ): Promise<void> {
    if (this.readOnly) throw new ImapError('READ-ONLY', 'The mailbox is selected read-only')
    this.#mayExpunge()
    const sequences = sequencesOf(target, this.#shown, this.#saved)
    if (!sequences.isEmpty) {
      const uids = uidsOfSequences(this.#shown.chunks, sequences)
      const options = { mustExist: !isByUid(target) }
      const outcome = await this.#renamed(async () => {
        using to = await this.#placeOf(mailbox)
        const name = mailbox.slice(to.prefix.length)
        return to.prefix === this.#place.prefix
          ? await this.#mailbox.move(uids, name, options)
          : await moveToOther(this.#mailbox, uids, { from: this.#place, to }, name, options)
      }, 'TRYCREATE')
      copied({ copied: outcome.source.isEmpty ? undefined : outcome })
    } else copied({ copied: undefined })
    await this.sync({ expunges: true }, writer)
  }

  async expunge(among: Target | undefined, writer: UpdateWriter): Promise<void> {
    if (this.readOnly) throw new ImapError('READ-ONLY', 'The mailbox is selected read-only')
    this.#mayExpunge()
    this.#mustHavePolicy()
    const uids = this.#deleted(among)
    if (!uids.isEmpty) await this.#renamed(() => this.#mailbox.expunge(uids))
    await this.sync({ expunges: true }, writer)
  }

  /** Only what the client has seen: a message that came deleted since is not what it asked to expunge. */
  #deleted(among: Target | undefined): UidSet {
    const { uidNext, count } = this.#shown
    if (count === 0 || this.#mailbox.view.deleted === 0) return UidSet.empty
    if (among === undefined) return UidSet.range(1, uidNext - 1)
    return uidsOfSequences(this.#shown.chunks, sequencesOf(among, this.#shown, this.#saved))
  }

  async close(): Promise<void> {
    // RFC 4314 §4: without the right nothing is expunged, and the mailbox is closed all the same.
    if (this.readOnly || (this.#mailbox.rights & RIGHT_EXPUNGE) === 0) return
    this.#mustHavePolicy()
    const uids = this.#deleted(undefined)
    if (!uids.isEmpty) await this.#renamed(() => this.#mailbox.expunge(uids))
  }

  /** Damage leaves the client's view as it was, or as far as it was told: the next call goes on from there. */
  async sync(options: { readonly expunges: boolean }, writer: UpdateWriter): Promise<void> {
    await this.#renamed(() => this.#sync(options, writer))
  }

  async #sync(options: { readonly expunges: boolean }, writer: UpdateWriter): Promise<void> {
    if (options.expunges) await this.#refresh()
    this.#mayRead()
    this.#mustHavePolicy()
    const latest = this.#mailbox.view
    this.#modSeqs = writer.wantsModSeq
    this.#tellKeywords(writer.fetch)
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
        writer.recent(this.recent)
      }
      await this.#writeChanged(changed, before.uidNext, latest, writer)
    } else await this.#writeChanged(changed, this.#shown.uidNext, latest, writer)
    this.#told = latest
    this.#ours = []
  }

  /** What other processes did can wait while the storage is away; what is in memory is still true. */
  async #refresh(): Promise<void> {
    try {
      await this.#mailbox.refresh()
    } catch (error) {
      if (storeCodeOf(error) !== 'STORE_UNAVAILABLE') throw error
      this.#onEvent({ level: 'warn', kind: 'store', message: `${this.name} could not be looked at`, error })
    }
  }

  /** FETCH replies for changes that are not ours, of messages below `uidNext`. */
  async #writeChanged(changed: UidSet, uidNext: number, latest: TableView, writer: UpdateWriter): Promise<void> {
    if (changed.isEmpty) return
    const { fetch, wantsUid, wantsModSeq } = writer
    const shown = this.#shown
    const recent = this.#recent
    const ours = this.#ours
    const recentFrom = recent.isEmpty ? Number.POSITIVE_INFINITY : recent.first
    this.#lists.use(latest.keywordSets, latest.keywords)
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
        fetch.flags(this.#lists.list(latest.flags(row), uid >= recentFrom && recent.has(uid), latest.keywordSet(row)))
        if (wantsModSeq) fetch.modSeq(modSeq)
        fetch.end()
        if (++written % PENDING_EVERY === 0) {
          const pending = fetch.pending() ?? pace.due()
          if (pending !== undefined) await pending
        }
      }
    }
  }

  watch(onChange: () => void): Disposable {
    return this.#mailbox.watch(onChange)
  }

  saveResult(uids: UidSet): void {
    this.#saved = uids
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#mailbox[Symbol.asyncDispose]()
    } finally {
      this.#place[Symbol.dispose]()
    }
  }
}

function isByUid(target: Target): boolean {
  return target.kind === 'saved' ? target.uid : target.kind === 'uids'
}

const NO_EXPUNGES = { expunged: UidSet.empty }

const NOTHING_ASKED: FetchRequest = {
  uid: false,
  flags: false,
  internalDate: false,
  size: false,
  envelope: false,
  body: false,
  bodyStructure: false,
  modSeq: false,
  sections: [],
  changedSince: undefined,
  vanished: false,
}

function flagChange({ mode, flags, keywords }: StoreRequest): FlagChange {
  if (mode === 'add') return { add: flags, addKeywords: keywords }
  if (mode === 'remove') return { remove: flags, removeKeywords: keywords }
  return { replace: true, add: flags, addKeywords: keywords }
}

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

/** The matching messages, by UID where `chunks` are given, else by sequence number. */
function setOf(mask: Uint8Array, chunks: ReturnType<typeof clientRows>['chunks'] | undefined): UidSet {
  const sequences: number[] = []
  const count = mask.length
  for (let row = 0; row < count; row++) {
    if (mask[row] === 0) continue
    const from = row
    while (row < count && mask[row] !== 0) row++
    sequences.push(from + 1, row)
  }
  const set = UidSet.fromRanges(sequences)
  return chunks === undefined ? set : uidsOfSequences(chunks, set)
}

/**
 * Highest UID that the client knows under the right sequence number (RFC 7162 §3.2.5.2): nothing at or below it is missing at
 * the client.
 */
function lastMatch(view: TableView, sequences: UidSet, uids: UidSet): number {
  const sequence = sequences[Symbol.iterator]()
  let last = 0
  for (const uid of uids) {
    const { done, value } = sequence.next()
    if (done === true) break
    if (view.rowOf(uid) !== value - 1) break
    last = uid
  }
  return last
}
