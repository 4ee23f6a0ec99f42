/**
 * Messages on their way in.
 *
 * ORDER    The bytes go to the box while the scanner reads them. Commit flushes the bytes (with whatever other batches
 *          flush then), then appends all rows in one frame (I-1, I-2), then hands derived fields to the caches of the
 *          mailboxes, which may lose them. Fields that any of them keeps are computed once, and those of a
 *          batch's last message while its bytes are being flushed: the disk works then, not the processor.
 *
 * A failure anywhere before the frame is durable leaves bytes that no row names: purge reclaims them.
 */
import type { BoxBatch, BoxMetadata, BoxNames, BoxSaved } from '@mailstead/box'
import type { FlagState } from '@mailstead/acl/private-flags'
import type { AppendedRow, CacheEntry, IndexTransaction, NewRow } from '@mailstead/index'
import { MessageScanner, type MessageStructure, scanMessage } from '@mailstead/message'
import { UidSet } from '@mailstead/uidset'
import {
  type ArrivedMove,
  type CacheField,
  FORM_CANONICAL,
  type SaveBatch,
  type SaveOptions,
  type Saved,
  type SaveTarget,
} from './contract.ts'
import { type Access, flagsByRights, RIGHT_INSERT, RIGHT_POST, RIGHT_WRITE } from './access.ts'
import type { Core } from './core.ts'
import { StoreError } from './error.ts'
import { storeError } from './failure.ts'
import { beginNames, originOf, settleNames } from './names.ts'
import type { Privacy } from './privacy.ts'
import { arrivalKey, type Entry, mailboxTable, TREE_TABLE } from './tree.ts'

/**
 * Derived fields that a batch keeps until it is committed, in bytes. The caches are not told those of what comes beyond:
 * they are computed when they are asked for.
 */
export const BATCH_FIELDS_MAX: number = 8 * 1024 * 1024

type Fields = readonly (readonly [name: string, value: Uint8Array])[]

interface Pending {
  readonly saved: BoxSaved
  readonly guid: Uint8Array
  readonly receivedMs: number
  /** Until the fields are computed: of the last message only, so that a batch of many keeps little. */
  structure: MessageStructure | undefined
  fields: Fields
  readonly targets: readonly { readonly entry: Entry; readonly target: SaveTarget }[]
}

/** Computes every derived field that is wanted and can be computed. */
export function computeFields(
  core: Core,
  structure: MessageStructure,
  isWanted: (field: CacheField) => boolean = () => true,
): [name: string, value: Uint8Array][] {
  const fields: [string, Uint8Array][] = []
  const message = { structure, header: structure.header }
  for (const field of core.settings.cacheFields) {
    if (!isWanted(field)) continue
    try {
      fields.push([field.name, field.compute(message)])
    } catch (error) {
      // A message is kept whatever it looks like to whoever derives something from it.
      core.settings.onEvent({ kind: 'field-failed', message: `${field.name}: ${String(error)}` })
    }
  }
  return fields
}

export interface Kept {
  readonly saved: BoxSaved
  readonly structure: MessageStructure
}

/**
 * Hands a message to a box and scans it meanwhile. STORE_LIMIT if it is too large: what the box has of it is placed nowhere, dead
 * bytes. What the source throws is the caller's own.
 */
export async function keep(
  core: Core,
  box: BoxBatch,
  source: Uint8Array | AsyncIterable<Uint8Array>,
  metadata: BoxMetadata,
): Promise<Kept> {
  const { messageMax } = core.settings
  let structure: MessageStructure
  let saved: BoxSaved
  if (source instanceof Uint8Array) {
    if (source.length > messageMax) throw tooLarge(messageMax)
    structure = scanMessage(source)
    if (structure.size > messageMax) throw tooLarge(messageMax)
    saved = await save(box, source, metadata)
  } else {
    const scanner = new MessageScanner()
    let failure: { readonly error: unknown } | undefined
    const scanned = async function* (): AsyncGenerator<Uint8Array, void, undefined> {
      let size = 0
      try {
        for await (const chunk of source) {
          size += chunk.length
          if (size > messageMax) throw tooLarge(messageMax)
          scanner.push(chunk)
          yield chunk
        }
      } catch (error) {
        failure = { error }
        throw error
      }
    }
    try {
      saved = await save(box, scanned(), metadata)
    } catch (error) {
      // However the box passes it on.
      throw failure === undefined ? error : failure.error
    }
    structure = scanner.finish()
    if (structure.size > messageMax) throw tooLarge(messageMax)
  }
  if (saved.size !== structure.size) throw new Error(`box and scanner count ${saved.size} and ${structure.size} bytes`)
  return { saved, structure }
}

async function save(
  box: BoxBatch,
  source: Uint8Array | AsyncIterable<Uint8Array>,
  metadata: BoxMetadata,
): Promise<BoxSaved> {
  try {
    return await box.save(source, metadata)
  } catch (error) {
    throw storeError(error, metadata.mailbox)
  }
}

export interface BatchSubject {
  readonly access: Access | undefined
  readonly privacy: Privacy | undefined
  /** A delivery that nobody of the store makes. */
  readonly post: boolean
}

export class Batch implements SaveBatch {
  readonly #core: Core
  readonly #access: Access | undefined
  readonly #privacy: Privacy | undefined
  /** What it takes to put something into a mailbox. */
  readonly #right: number
  /** On each mailbox, as the transaction took them; empty where nobody asks. */
  readonly #rights = new Map<Entry, number>()
  readonly #box: BoxBatch
  readonly #pending: Pending[] = []
  #fieldBytes = 0
  #state: 'open' | 'committing' | 'done' = 'open'

  constructor(core: Core, { access, privacy, post }: BatchSubject) {
    core.mustBeWritable()
    this.#core = core
    this.#access = access
    this.#privacy = privacy
    this.#right = post ? RIGHT_POST : RIGHT_INSERT
    this.#box = core.box.begin()
  }

  async add(
    source: Uint8Array | AsyncIterable<Uint8Array>,
    into: readonly SaveTarget[],
    options: SaveOptions = {},
  ): Promise<void> {
    const core = this.#core
    core.mustBeOpen()
    if (this.#state !== 'open') throw new TypeError('add() after commit() or disposal')
    if (into.length === 0) throw new TypeError('a message without a mailbox to go to')
    const targets: { entry: Entry; target: SaveTarget }[] = []
    for (const target of into) {
      let entry = core.tree.find(target.mailbox)
      if (entry === undefined) {
        try {
          entry = await core.find(target.mailbox)
        } catch (error) {
          throw storeError(error, target.mailbox)
        }
      }
      this.#access?.must(entry, this.#right, target.mailbox)
      targets.push({ entry, target })
    }
    // So that it is known in time what the mailbox keeps. Where many take turns, one that is not open is taken to keep the usual.
    if (this.#pending.length === 0 && targets.length === 1 && core.settings.cacheFields.length > 0)
      core.background(core.tables.warm(mailboxTable(targets[0]!.entry.guid)))
    const guid = core.guid()
    const receivedMs = Math.max(0, Math.floor(options.receivedMs ?? core.settings.now()))
    const { entry } = targets[0]!
    const metadata = { guid, receivedMs, mailbox: entry.name, origin: originOf(entry) }
    const { saved, structure } = await keep(core, this.#box, source, metadata)
    // Those that were refused after the box had them are not placed: dead bytes.
    this.#computeFields()
    this.#pending.push({ saved, guid, receivedMs, structure, fields: [], targets })
  }

  #computeFields(): void {
    const last = this.#pending.at(-1)
    if (last?.structure === undefined) return
    const { structure, targets } = last
    last.structure = undefined
    if (this.#fieldBytes >= BATCH_FIELDS_MAX) return
    const { tables } = this.#core
    const ids = targets.map(({ entry }) => mailboxTable(entry.guid))
    const isWanted = ({ name, decision = 'yes' }: CacheField): boolean =>
      ids.some((id) => (tables.cacheDecision(id, name) ?? decision) !== 'no')
    const fields = computeFields(this.#core, structure, isWanted)
    for (const [, value] of fields) this.#fieldBytes += value.length
    if (this.#fieldBytes <= BATCH_FIELDS_MAX) last.fields = fields
  }

  async commit({ arrival }: { readonly arrival?: ArrivedMove } = {}): Promise<readonly Saved[]> {
    if (this.#state !== 'open') throw new TypeError('commit() after commit() or disposal')
    this.#core.mustBeOpen()
    this.#state = 'committing'
    try {
      // Rights may have gone while the messages came.
      if (this.#access !== undefined)
        for (const { targets } of this.#pending)
          for (const { entry, target } of targets) this.#access.must(entry, this.#right, target.mailbox)
      return this.#pending.length === 0 ? [] : await this.#core.work(() => this.#commit(arrival))
    } finally {
      this.#state = 'done'
      await this.#box[Symbol.asyncDispose]()
    }
  }

  async #commit(arrival: ArrivedMove | undefined): Promise<readonly Saved[]> {
    const flushing = this.#box.flush()
    // Once this turn is over, the group is with the kernel.
    const computing = new Promise<void>((resolve) => {
      setImmediate(() => {
        this.#computeFields()
        resolve()
      })
    })
    await flushing
    await computing
    // A message knows the first of its mailboxes.
    for (const { targets } of this.#pending)
      for (let at = 1; at < targets.length; at++) await this.#core.link(targets[0]!.entry.guid, targets[at]!.entry.guid)
    // A sweep of attachments may have changed meanwhile what the transaction relies upon: it is made again, and the save wins.
    return this.#core.retrying(() => this.#append(arrival))
  }

  async #append(arrival: ArrivedMove | undefined): Promise<readonly Saved[]> {
    const { index, settings } = this.#core
    const rows: AppendedRow[] = []
    const placed: AppendedRow[] = []
    let names: BoxNames | undefined
    {
      await using tx = index.begin()
      names = await beginNames(this.#core, tx, () => this.#entries())
      this.#takeRights(tx)
      const savedMs = settings.now()
      for (const [at, { saved, guid, receivedMs, targets }] of this.#pending.entries()) {
        // Satisfied by an index: what its transaction returned.
        const box = saved.place(tx) as AppendedRow
        const columns = {
          box,
          guid,
          received: receivedMs,
          saved: savedMs,
          size: saved.size,
          form: saved.canonical ? FORM_CANONICAL : 0,
        }
        for (const { entry, target } of targets) {
          const row = tx.append(mailboxTable(entry.guid), {
            ...this.#sharedFlags(entry, this.#allowed(entry, target)),
            columns,
          })
          if (placed.length === at) {
            placed.push(box)
            names?.first(box, row)
          }
          rows.push(row)
        }
      }
      if (arrival !== undefined) tx.setValue(TREE_TABLE, arrivalKey(arrival.id), Buffer.from(arrival.from))
      try {
        await tx.commit()
      } catch (error) {
        throw this.#renamed(error)
      }
    }
    if (names !== undefined) this.#name(names, placed, rows)
    if (this.#privacy !== undefined) await this.#givePrivate(this.#privacy, rows)
    return this.#told(rows)
  }

  /** Those that the messages are put into the mailboxes by, which are still so when the transaction is decided. STORE_DENIED, STORE_NO_MAILBOX. */
  #takeRights(tx: IndexTransaction): void {
    const access = this.#access
    if (access === undefined) return
    this.#rights.clear()
    for (const entry of this.#entries()) {
      access.must(entry, this.#right)
      access.expect(tx, entry)
      this.#rights.set(entry, access.rights(entry))
    }
  }

  /** The target with the flags that the rights allow. */
  #allowed(entry: Entry, target: SaveTarget): SaveTarget {
    const rights = this.#rights.get(entry)
    if (rights === undefined) return target
    const { mailbox, flags = 0, keywords = [] } = target
    return { mailbox, flags: flags & flagsByRights(rights), keywords: (rights & RIGHT_WRITE) === 0 ? [] : keywords }
  }

  #sharedFlags(entry: Entry, { flags = 0, keywords = [] }: SaveTarget): Pick<NewRow, 'flags' | 'keywords'> {
    const rules = this.#privacy?.rules(entry)
    if (rules === undefined || rules.isShared) return { flags, keywords }
    return { flags: flags & ~rules.mask, keywords: keywords.filter((name) => !rules.isPrivate(name)) }
  }

  async #givePrivate(privacy: Privacy, rows: readonly AppendedRow[]): Promise<void> {
    const states = new Map<Entry, FlagState[]>()
    let next = 0
    for (const { targets } of this.#pending)
      for (const { entry, target } of targets) {
        const { uid } = rows[next++]!
        const { flags = 0, keywords = [] } = this.#allowed(entry, target)
        const rules = privacy.rules(entry)
        if ((flags & rules.mask) === 0 && !keywords.some((name) => rules.isPrivate(name))) continue
        const state = { uids: UidSet.of(uid), flags, keywords }
        const known = states.get(entry)
        if (known === undefined) states.set(entry, [state])
        else known.push(state)
      }
    for (const [entry, each] of states) await privacy.give(entry, each)
  }

  /** Each mailbox once. */
  #entries(): readonly Entry[] {
    const entries = new Set<Entry>()
    for (const { targets } of this.#pending) for (const { entry } of targets) entries.add(entry)
    return [...entries]
  }

  #name(names: BoxNames, placed: readonly AppendedRow[], rows: readonly AppendedRow[]): void {
    let next = 0
    for (const [i, { targets }] of this.#pending.entries())
      for (const { entry } of targets) names.appended(entry, rows[next++]!.uid, placed[i]!.uid)
    settleNames(this.#core, names)
  }

  /** A mailbox that was removed since `add` is named. */
  #renamed(error: unknown): unknown {
    const table = (error as { table?: unknown }).table
    for (const { targets } of this.#pending)
      for (const { entry } of targets) if (mailboxTable(entry.guid) === table) return storeError(error, entry.name)
    return error
  }

  #told(rows: readonly AppendedRow[]): Saved[] {
    const result: Saved[] = []
    const caches = new Map<string, CacheEntry[]>()
    let next = 0
    for (const { guid, fields, targets } of this.#pending) {
      for (const { entry } of targets) {
        const { uid } = rows[next++]!
        result.push({ mailbox: entry.name, uidValidity: entry.uidValidity, uid, guid })
        if (fields.length === 0) continue
        const table = mailboxTable(entry.guid)
        const entries = caches.get(table)
        if (entries === undefined) caches.set(table, [{ uid, guid, fields }])
        else entries.push({ uid, guid, fields })
      }
    }
    for (const [table, entries] of caches) this.#core.background(this.#core.tables.cacheWrite(table, entries))
    return result
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state !== 'open') return
    this.#state = 'done'
    await this.#box[Symbol.asyncDispose]()
  }
}

function tooLarge(max: number): StoreError {
  return new StoreError('STORE_LIMIT', `the message is larger than ${max} bytes`)
}
