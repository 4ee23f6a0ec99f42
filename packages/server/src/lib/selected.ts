/**
 * A selected mailbox: the commands of one client in it. What the client knows of it meanwhile is in client-view.ts.
 *
 * INVARIANTS
 *   1. A sequence number means the same message from one `sync` (or expunge, move) to the next.
 *   2. Flags are changed by the policy by which the mailbox was opened, or not at all: where another says which are the user's own, it has to
 *      be opened again.
 */
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
import type { FlagChange } from '@mailstead/index'
import { type Mailbox, RIGHT_WRITE, RIGHT_WRITE_SEEN } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { type ClientRows, clientRows, messagesOf, sequencesOfUids, uidsOfSequences } from './client-rows.ts'
import { ClientView } from './client-view.ts'
import { DamagedMessages } from './damage.ts'
import type { OnServerEvent } from './events.ts'
import { type FetchOutcome, fetchMessages, withoutSeen } from './fetch.ts'
import { expungedAmong } from './missed-expunges.ts'
import { OpenedPolicy } from './opened-policy.ts'
import { type SearchFound, searchRows } from './search.ts'
import { mayExpunge, mustExpunge, mustRead, permanentFlags, RIGHTS_TO_CHANGE } from './selected-rights.ts'
import { sortRows } from './sort.ts'
import { imapError, isDamage, type NoMailboxMeans, storeCodeOf } from './store-errors.ts'
import { isByUid, sequencesOf, uidsNamed } from './targets.ts'
import { threadRows } from './thread-rows.ts'
import { transfer, type TransferSource } from './transfer.ts'

const SEEN = 8

/** `place` is let go with the mailbox. */
export interface SelectedOptions extends TransferSource {
  readonly readOnly: boolean
  readonly onEvent: OnServerEvent
}

export class Selected implements SelectedMailbox {
  readonly name: string
  readonly readOnly: boolean
  readonly mailboxId: string
  readonly #mailbox: Mailbox
  readonly #source: TransferSource
  /** By which flags are the user's own; undefined where none are. */
  readonly #policy: OpenedPolicy | undefined
  readonly #onEvent: OnServerEvent
  readonly #view: ClientView
  #saved: UidSet = UidSet.empty
  /** CONDSTORE is on: a flag change is not told before its modseq is. */
  #modSeqs = false
  readonly #damaged: DamagedMessages
  /** The message that the search under way could not read. */
  #damagedUid: number | undefined

  constructor(options: SelectedOptions) {
    const { mailbox } = options
    this.#mailbox = mailbox
    this.#source = options
    this.#onEvent = options.onEvent
    this.name = options.place.prefix + mailbox.name
    this.#damaged = new DamagedMessages(options.onEvent, this.name)
    this.#policy = OpenedPolicy.of(options.place.store, mailbox)
    this.readOnly = options.readOnly || (mailbox.rights & RIGHTS_TO_CHANGE) === 0
    this.mailboxId = mailbox.guid
    this.#view = new ClientView(mailbox, { marks: options.place.recent, readOnly: this.readOnly })
  }

  get keywordsCanGrow(): boolean {
    return !this.readOnly && (this.#mailbox.rights & RIGHT_WRITE) !== 0
  }
  get permanentFlags(): PermanentFlags | undefined {
    return permanentFlags(this.#mailbox.rights)
  }
  get uidValidity(): number {
    return this.#view.shown.uidValidity
  }
  get uidNext(): number {
    return this.#view.shown.uidNext
  }
  get count(): number {
    return this.#view.shown.count
  }
  get recent(): number {
    return this.#view.recentCount
  }
  get firstUnseen(): number {
    if (this.#view.shown.unseen === 0) return 0
    for (const { first, flags, rows } of this.#view.shown.chunks)
      for (let i = 0; i < rows; i++) if ((flags[i]! & SEEN) === 0) return first + i + 1
    return 0
  }
  /** Never beyond an expunge that was withheld (RFC 7162 §3.2.5.1). */
  get highestModSeq(): number {
    return this.#view.shown.highestModSeq
  }
  get keywords(): readonly string[] {
    return this.#mailbox.view.keywords
  }

  /** Failures of the store become the client's; damage is told to whoever runs the server too. */
  async #renamed<T>(work: () => Promise<T>, noMailbox?: NoMailboxMeans): Promise<T> {
    try {
      return await work()
    } catch (error) {
      this.#damaged.tell(error, isDamage(error) ? this.#damagedUid : undefined)
      throw imapError(error, noMailbox)
    } finally {
      this.#damagedUid = undefined
    }
  }

  /** INUSE: what is changed now would be kept where others see it, or where nobody looks for it. */
  #mustHavePolicy(): void {
    if (this.#policy?.isInForce() === false)
      throw new ImapError('INUSE', 'Other flags are private now, the mailbox must be opened again')
  }

  async resync(request: ResyncRequest, vanishedEarlier: (uids: UidSet) => void, writer: FetchWriter): Promise<void> {
    this.#modSeqs = true
    const view = this.#view.shown
    if (request.uidValidity !== view.uidValidity) return
    const known = request.knownUids ?? (view.uidNext > 1 ? UidSet.range(1, view.uidNext - 1) : UidSet.empty)
    const gone = this.#expunged(known, request.modSeq, request.sequenceMatch)
    if (!gone.isEmpty) vanishedEarlier(gone)
    this.#view.tellKeywords(writer, this)
    const changes = { ...NOTHING_ASKED, uid: true, flags: true, modSeq: true, changedSince: request.modSeq }
    await this.#fetch(sequencesOfUids(view, known), changes, writer)
  }

  #expunged(known: UidSet, modSeq: number, match?: ResyncRequest['sequenceMatch']): UidSet {
    return expungedAmong(known, { table: this.#mailbox.table, shown: this.#view.shown, modSeq, match })
  }

  async fetch(
    target: Target,
    request: FetchRequest,
    writer: FetchWriter,
    vanishedEarlier: (uids: UidSet) => void,
  ): Promise<void> {
    mustRead(this.#mailbox.rights)
    if (request.modSeq || request.changedSince !== undefined) this.#modSeqs = true
    const sequences = sequencesOf(target, this.#view.shown, this.#saved)
    if (request.vanished && request.changedSince !== undefined) {
      const gone = this.#expunged(uidsNamed(target, this.#view.shown, this.#saved), request.changedSince)
      if (!gone.isEmpty) vanishedEarlier(gone)
    }
    let newlySeen = UidSet.empty
    const marks = !this.readOnly && (this.#mailbox.rights & RIGHT_WRITE_SEEN) !== 0
    if (marks && !sequences.isEmpty && request.sections.some(({ peek }) => !peek))
      newlySeen = await this.#setSeen(sequences, request.changedSince, request.modSeq)
    if (request.flags || !newlySeen.isEmpty) this.#view.tellKeywords(writer, this)
    const outcome = await this.#fetch(sequences, request, writer, newlySeen)
    if (outcome.damaged > 0) throw new ImapError('SERVERBUG', 'Some messages are damaged and cannot be read')
    if (outcome.unavailable !== undefined)
      throw new ImapError('UNAVAILABLE', 'The mail store is not available now', { cause: outcome.unavailable })
    if (outcome.expunged > 0) throw new ImapError('EXPUNGEISSUED', 'Some messages no longer exist')
  }

  #fetch(
    sequences: UidSet,
    request: FetchRequest,
    writer: FetchWriter,
    newlySeen: UidSet = UidSet.empty,
  ): Promise<FetchOutcome> {
    const { lists, recent } = this.#view
    const rows = this.#view.rows()
    const onDamaged = (uid: number, error: unknown): void => this.#damaged.tell(error, uid)
    return this.#renamed(() =>
      fetchMessages({ mailbox: this.#mailbox, rows, sequences, request, writer, lists, recent, newlySeen, onDamaged }),
    )
  }

  /** One transaction for the whole command. A store that cannot be written now can still be read. */
  async #setSeen(sequences: UidSet, changedSince: number | undefined, withModSeq: boolean): Promise<UidSet> {
    const before = this.#mailbox.view
    const unseen = withoutSeen(clientRows(this.#view.shown, before), sequences, changedSince)
    if (unseen.isEmpty) return unseen
    this.#mustHavePolicy()
    try {
      const { changed, modSeq } = await this.#mailbox.changeFlags(unseen, { add: SEEN })
      if (!this.#modSeqs || withModSeq) this.#view.remember(changed, modSeq, before)
      return changed
    } catch (error) {
      this.#onEvent({ level: 'warn', kind: 'seen', message: `\\Seen could not be set in ${this.name}`, error })
      return UidSet.empty
    }
  }

  async store(
    target: Target,
    request: StoreRequest,
    writer: FetchWriter,
    options: { readonly wantsModSeq: boolean },
  ): Promise<StoreResult> {
    if (this.readOnly) throw new ImapError('READ-ONLY', 'The mailbox is selected read-only')
    // Its answer tells flags.
    mustRead(this.#mailbox.rights)
    const { wantsModSeq } = options
    if (wantsModSeq || request.unchangedSince !== undefined) this.#modSeqs = true
    const sequences = sequencesOf(target, this.#view.shown, this.#saved)
    if (sequences.isEmpty) return { modified: UidSet.empty }
    const uids = uidsOfSequences(this.#view.shown.chunks, sequences)
    this.#mustHavePolicy()
    const { unchangedSince } = request
    const before = this.#mailbox.view
    const { changed, failed, modSeq } = await this.#renamed(() =>
      this.#mailbox.changeFlags(uids, flagChange(request), unchangedSince === undefined ? {} : { unchangedSince }),
    )
    this.#view.remember(changed, modSeq, before)
    const gone = this.#view.goneAmong(uids)
    const conditional = unchangedSince !== undefined
    if (!request.silent || conditional || (wantsModSeq && !changed.isEmpty)) {
      if (!request.silent) this.#view.tellKeywords(writer, this)
      const without = gone.isEmpty ? failed : failed.union(gone)
      // RFC 7162 §3.1.3: each success of a conditional STORE is told with its modseq, whatever it changed and however silent.
      const told = request.silent && !conditional ? changed : without.isEmpty ? uids : uids.subtract(without)
      await this.#fetch(
        told === uids ? sequences : sequencesOfUids(this.#view.shown, told),
        { ...NOTHING_ASKED, uid: request.uid, flags: !request.silent, modSeq: wantsModSeq || conditional },
        writer,
      )
    }
    const byUid = isByUid(target)
    const expunged = !byUid && !gone.isEmpty
    if (!conditional || failed.isEmpty) return { modified: UidSet.empty, expunged }
    return { modified: byUid ? failed : sequencesOfUids(this.#view.shown, failed), expunged }
  }

  async search(key: SearchKey, { uid }: { readonly uid: boolean }): Promise<SearchResult> {
    return this.#searched(key, (rows, { mask, ...modSeqs }) => ({
      found: messagesOf(mask, uid ? rows.chunks : undefined),
      ...modSeqs,
    }))
  }

  async sort(
    criteria: readonly SortCriterion[],
    key: SearchKey,
    { uid }: { readonly uid: boolean },
  ): Promise<Uint32Array> {
    const mailbox = this.#mailbox
    return this.#searched(key, (rows, { mask }) => sortRows({ mailbox, rows, mask, criteria, uid }))
  }

  async thread(
    algorithm: ThreadAlgorithm,
    key: SearchKey,
    { uid }: { readonly uid: boolean },
  ): Promise<readonly ThreadNode[]> {
    const mailbox = this.#mailbox
    return this.#searched(key, (rows, { mask }) => threadRows({ mailbox, rows, mask, algorithm, uid }))
  }

  /** Searches, and makes of what is found what was asked for. */
  #searched<T>(key: SearchKey, made: (rows: ClientRows, found: SearchFound) => T | Promise<T>): Promise<T> {
    mustRead(this.#mailbox.rights)
    return this.#renamed(async () => {
      const rows = this.#view.rows()
      const found = await searchRows(
        {
          mailbox: this.#mailbox,
          rows,
          recent: this.#view.recent,
          sequencesOf: (target) => sequencesOf(target, this.#view.shown, this.#saved),
          nowMs: Date.now(),
          onUnread: (uid) => (this.#damagedUid = uid),
        },
        key,
      )
      return made(rows, found)
    })
  }

  async copy(target: Target, mailbox: string): Promise<CopyResult> {
    mustRead(this.#mailbox.rights)
    return this.#transfer(target, mailbox, false)
  }

  async move(
    target: Target,
    mailbox: string,
    copied: (result: CopyResult) => void,
    writer: UpdateWriter,
  ): Promise<void> {
    if (this.readOnly) throw new ImapError('READ-ONLY', 'The mailbox is selected read-only')
    mustExpunge(this.#mailbox.rights)
    copied(await this.#transfer(target, mailbox, true))
    await this.sync({ expunges: true }, writer)
  }

  async #transfer(target: Target, to: string, andExpunge: boolean): Promise<CopyResult> {
    const sequences = sequencesOf(target, this.#view.shown, this.#saved)
    if (sequences.isEmpty) return { copied: undefined }
    const uids = uidsOfSequences(this.#view.shown.chunks, sequences)
    // All or none (RFC 3501 §6.4.7): a sequence number names a message that the client was told of, and may not be passed over
    // in silence, as a UID may.
    const mustExist = !isByUid(target)
    return {
      copied: await this.#renamed(() => transfer(this.#source, uids, to, { andExpunge, mustExist }), 'TRYCREATE'),
    }
  }

  async expunge(among: Target | undefined, writer: UpdateWriter): Promise<void> {
    if (this.readOnly) throw new ImapError('READ-ONLY', 'The mailbox is selected read-only')
    mustExpunge(this.#mailbox.rights)
    this.#mustHavePolicy()
    const uids = this.#deleted(among)
    if (!uids.isEmpty) await this.#renamed(() => this.#mailbox.expunge(uids))
    await this.sync({ expunges: true }, writer)
  }

  /** Only what the client has seen: a message that came deleted since is not what it asked to expunge. */
  #deleted(among: Target | undefined): UidSet {
    const { uidNext, count } = this.#view.shown
    if (count === 0 || this.#mailbox.view.deleted === 0) return UidSet.empty
    if (among === undefined) return UidSet.range(1, uidNext - 1)
    return uidsOfSequences(this.#view.shown.chunks, sequencesOf(among, this.#view.shown, this.#saved))
  }

  async close(): Promise<void> {
    // RFC 4314 §4: without the right nothing is expunged, and the mailbox is closed all the same.
    if (this.readOnly || !mayExpunge(this.#mailbox.rights)) return
    this.#mustHavePolicy()
    const uids = this.#deleted(undefined)
    if (uids.isEmpty) return
    await this.#renamed(async () => {
      try {
        await this.#mailbox.expunge(uids)
      } catch (error) {
        // The right may have gone meanwhile.
        const code = storeCodeOf(error)
        if (code !== 'STORE_DENIED' && code !== 'STORE_NO_MAILBOX') throw error
      }
    })
  }

  /** Damage leaves the client's view as it was, or as far as it was told: the next call goes on from there. */
  async sync(options: { readonly expunges: boolean }, writer: UpdateWriter): Promise<void> {
    await this.#renamed(() => this.#sync(options, writer))
  }

  async #sync(options: { readonly expunges: boolean }, writer: UpdateWriter): Promise<void> {
    if (options.expunges) await this.#refresh()
    mustRead(this.#mailbox.rights)
    this.#mustHavePolicy()
    this.#modSeqs = writer.wantsModSeq
    this.#view.tellKeywords(writer.fetch, this)
    await this.#view.tell(options, writer)
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
      this.#source.place[Symbol.dispose]()
    }
  }
}

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
