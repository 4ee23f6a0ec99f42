/**
 * FETCH: columns and cached wire bytes go straight into the connection's output.
 *
 * INVARIANTS
 *   1. Without sections, nothing is allocated per message and nothing awaited but the connection's congestion.
 *   2. A message that cannot be read is left out whole; the others are served.
 *   3. Bytes are verified before they are announced, except in messages too large to be held: there a failure ends the
 *      connection in the middle of the literal, since no client may take what came for the message.
 */
import type { FetchRequest, FetchWriter } from '@mailstead/imap'
import type { FixedColumn } from '@mailstead/index'
import type { Mailbox } from '@mailstead/store'
import { type UidSet, UidSetBuilder } from '@mailstead/uidset'
import type { ClientRows } from './client-rows.ts'
import type { FlagLists } from './flag-lists.ts'
import { Pace } from './pace.ts'
import { SectionReader } from './sections.ts'
import { storeCodeOf } from './store-errors.ts'

const SEEN = 8
/** Messages without literals between two looks at the connection's congestion. */
const PENDING_EVERY = 256

const ENVELOPE: Uint8Array = Buffer.from('ENVELOPE')
const BODYSTRUCTURE: Uint8Array = Buffer.from('BODYSTRUCTURE')
const BODY: Uint8Array = Buffer.from('BODY')
/** Valid forms that say nothing, for a message that cannot be read. */
const NO_ENVELOPE: Uint8Array = Buffer.from('(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)')
const NO_BODY: Uint8Array = Buffer.from('("application" "octet-stream" NIL NIL NIL "7bit" 0)')

export interface FetchContext {
  readonly mailbox: Mailbox
  readonly rows: ClientRows
  readonly sequences: UidSet
  readonly request: FetchRequest
  readonly writer: FetchWriter
  readonly lists: FlagLists
  readonly recent: UidSet
  /** Messages that this command made \Seen: their flags are reported. */
  readonly newlySeen: UidSet
  /** A message turned out to be damaged. Called at once: the connection may not outlive it. */
  readonly onDamaged?: (uid: number, error: unknown) => void
}

export interface FetchOutcome {
  /** Messages that could not be served since they are gone. */
  readonly expunged: number
  readonly damaged: number
  /** Why messages could not be served: the store was not available. */
  readonly unavailable: unknown
}

export async function fetchMessages(context: FetchContext): Promise<FetchOutcome> {
  const { mailbox, rows, request, writer, lists, recent, newlySeen } = context
  const { view } = rows
  const columns: string[] = []
  if (request.internalDate) columns.push('received')
  if (request.size) columns.push('size')
  if (columns.length > 0 || request.sections.length > 0) await view.load([...columns, 'box', 'guid', 'form'])
  const wantsUid = request.uid
  const wantsFlags = request.flags
  const wantsModSeq = request.modSeq
  const received = request.internalDate ? column(rows, 'received') : undefined
  const size = request.size ? column(rows, 'size') : undefined
  const envelopes = request.envelope ? view.cache('imap.envelope') : undefined
  const structures = request.bodyStructure ? view.cache('imap.bodystructure') : undefined
  const bodies = request.body ? view.cache('imap.body') : undefined
  const since = request.changedSince ?? -1
  const recentFrom = recent.isEmpty ? Number.POSITIVE_INFINITY : recent.first
  const anyNewlySeen = !newlySeen.isEmpty
  const sections = request.sections.length > 0 ? new SectionReader(mailbox, view, request.sections) : undefined
  let damaged = 0
  let expunged = 0
  let unavailable: unknown
  let failure: unknown
  const note = (error: unknown, uid: number): void => {
    const code = storeCodeOf(error)
    if (code === 'STORE_EXPUNGED') expunged++
    else if (code === 'STORE_UNAVAILABLE') unavailable = error
    else if (code === 'STORE_DAMAGED') {
      damaged++
      context.onDamaged?.(uid, error)
    } else throw error
  }
  const pace = new Pace()
  let written = 0
  let at = 0
  const { chunks } = rows
  const { ranges } = context.sequences

  for (let i = 0; i < ranges.length; i += 2) {
    let row = ranges[i]! - 1
    const end = ranges[i + 1]!
    while (row < end) {
      while (chunks[at]!.first + chunks[at]!.rows <= row) at++
      const { first, rows: inChunk, uids, flags, modSeqs, keywordSets } = chunks[at]!
      const stop = Math.min(inChunk, end - first)
      for (let j = row - first; j < stop; j++) {
        if (modSeqs[j]! <= since) continue
        const here = first + j
        const uid = uids[j]!
        if (sections !== undefined) {
          try {
            const opening = sections.open(here)
            if (opening !== undefined) await opening
          } catch (error) {
            sections.close()
            note(error, uid)
            continue
          }
        }
        writer.begin(here + 1)
        if (wantsUid) writer.uid(uid)
        if (wantsFlags || (anyNewlySeen && newlySeen.has(uid)))
          writer.flags(lists.list(flags[j]!, uid >= recentFrom && recent.has(uid), keywordSets[j]!))
        if (wantsModSeq) writer.modSeq(modSeqs[j]!)
        if (received !== undefined) writer.internalDate(received.number(here))
        if (size !== undefined) writer.size(size.number(here))
        if (envelopes !== undefined && !writer.itemFrom(ENVELOPE, envelopes, here))
          failure = (await writeMissing(context, ENVELOPE, 'imap.envelope', here)) ?? failure
        if (bodies !== undefined && !writer.itemFrom(BODY, bodies, here))
          failure = (await writeMissing(context, BODY, 'imap.body', here)) ?? failure
        if (structures !== undefined && !writer.itemFrom(BODYSTRUCTURE, structures, here))
          failure = (await writeMissing(context, BODYSTRUCTURE, 'imap.bodystructure', here)) ?? failure
        if (sections !== undefined) {
          try {
            const writing = sections.write(writer)
            if (writing !== undefined) await writing
          } catch (error) {
            // In the middle of a literal.
            if (storeCodeOf(error) === 'STORE_DAMAGED') context.onDamaged?.(uid, error)
            throw error
          }
          failure = sections.failure ?? failure
        }
        writer.end()
        if (failure !== undefined) {
          note(failure, uid)
          failure = undefined
        }
        if (sections !== undefined || ++written % PENDING_EVERY === 0) {
          const pending = writer.pending() ?? pace.due()
          if (pending !== undefined) await pending
        }
      }
      row = first + stop
    }
  }
  return { expunged, damaged, unavailable }
}

/**
 * The cache is disposable: what is not there is computed again, kept for the next time, and served. Where the message cannot be
 * read, the reply that has begun holds a form without content, and the command fails for the reason returned.
 */
async function writeMissing(context: FetchContext, label: Uint8Array, field: string, row: number): Promise<unknown> {
  const { mailbox, rows, writer } = context
  let value: Uint8Array | undefined
  let failure: unknown
  try {
    value = (await mailbox.recompute(rows.view, row)).get(field)
  } catch (error) {
    if (storeCodeOf(error) === undefined) throw error
    failure = error
  }
  writer.item(label, value ?? (label === ENVELOPE ? NO_ENVELOPE : NO_BODY))
  return failure
}

function column({ view }: ClientRows, name: string): FixedColumn {
  const found = view.extension(name)
  if (found === undefined) throw new Error(`the mailbox has no column ${name}`)
  return found
}

/** UIDs of the messages among `sequences` that have no \Seen (and changed since, where that is asked). */
export function withoutSeen(rows: ClientRows, sequences: UidSet, changedSince: number | undefined): UidSet {
  const found = new UidSetBuilder()
  const since = changedSince ?? -1
  const { ranges } = sequences
  const { chunks } = rows
  let at = 0
  for (let i = 0; i < ranges.length; i += 2) {
    let row = ranges[i]! - 1
    const end = ranges[i + 1]!
    while (row < end) {
      while (chunks[at]!.first + chunks[at]!.rows <= row) at++
      const { first, rows: inChunk, uids, flags, modSeqs } = chunks[at]!
      const stop = Math.min(inChunk, end - first)
      for (let j = row - first; j < stop; j++) if ((flags[j]! & SEEN) === 0 && modSeqs[j]! > since) found.add(uids[j]!)
      row = first + stop
    }
  }
  return found.build()
}
