/**
 * SEARCH: a key over the rows of a client's view, column by column.
 *
 * The answer is a mask with one byte per row. Each key narrows a mask of candidates; in a conjunction the cheap keys
 * (flags, numbers) go first, header keys next, and BODY and TEXT read only the messages that are left.
 *
 * INVARIANTS
 *   1. Keys on flags, keywords, numbers, sizes and dates allocate nothing per message.
 *   2. The answer does not depend on the order in which keys are looked at.
 *   3. A message that cannot be read fails the command: an answer that leaves it out would be wrong without saying so.
 */
import type { SearchKey, Target } from '@mailstead/imap'
import type { CacheColumn, FixedColumn } from '@mailstead/index'
import { decodeStructure, type MessageStructure } from '@mailstead/message'
import type { Mailbox, MessageBody } from '@mailstead/store'
import type { UidSet } from '@mailstead/uidset'
import type { ClientRows } from './client-rows.ts'
import { narrowByHeader, SentDays } from './header-search.ts'
import { Pace } from './pace.ts'
import { storeCodeOf } from './store-errors.ts'
import { messageHolds, Needle } from './text-search.ts'

const DAY_MS = 86_400_000
/** Rows between two looks at the clock. */
const PACE_EVERY = 512

export interface SearchContext {
  readonly mailbox: Mailbox
  readonly rows: ClientRows
  /** UIDs that are recent for this session. */
  readonly recent: UidSet
  readonly sequencesOf: (target: Target) => UidSet
  readonly nowMs: number
  /** The message whose reading fails the search. */
  readonly onUnread?: (uid: number) => void
}

export interface SearchFound {
  /** One byte per row of the view, 1 where the key holds. */
  readonly mask: Uint8Array
  /** Highest modseq among the matches; 0 if there are none. */
  readonly modSeq: number
  /** Of the first and the last match; 0 if there are none. */
  readonly firstModSeq: number
  readonly lastModSeq: number
}

export async function searchRows(context: SearchContext, key: SearchKey): Promise<SearchFound> {
  const { rows } = context
  const mask = new Uint8Array(rows.count)
  mask.fill(1)
  const search = new Search(context)
  await search.load(key)
  await search.narrow(key, mask)
  let modSeq = 0
  let firstModSeq = 0
  let lastModSeq = 0
  for (const { first, rows: inChunk, modSeqs } of rows.chunks) {
    const stop = Math.min(inChunk, rows.count - first)
    for (let i = 0; i < stop; i++) {
      if (mask[first + i] !== 1) continue
      lastModSeq = modSeqs[i]!
      if (firstModSeq === 0) firstModSeq = lastModSeq
      if (lastModSeq > modSeq) modSeq = lastModSeq
    }
  }
  return { mask, modSeq, firstModSeq, lastModSeq }
}

class Search {
  readonly #context: SearchContext
  readonly #rows: ClientRows
  readonly #pace = new Pace()
  #parts: CacheColumn | undefined

  constructor(context: SearchContext) {
    this.#context = context
    this.#rows = context.rows
  }

  /** Brings the columns into memory that the key will read. */
  async load(key: SearchKey): Promise<void> {
    const columns = new Set<string>()
    collectColumns(key, columns)
    if (columns.size > 0) await this.#rows.view.load([...columns])
  }

  /** Clears the rows of `mask` where `key` does not hold. */
  async narrow(key: SearchKey, mask: Uint8Array): Promise<void> {
    switch (key.key) {
      case 'all':
        return
      case 'and': {
        const keys = flattened(key.keys)
        const texts = keys.filter((each) => each.key === 'body' || each.key === 'text')
        const others = keys.filter((each) => each.key !== 'body' && each.key !== 'text')
        for (const each of others.sort((a, b) => costOf(a) - costOf(b))) await this.narrow(each, mask)
        // One reading of a message answers all of them.
        if (texts.length > 0) await this.#narrowTexts(texts, mask)
        return
      }
      case 'or': {
        const left = mask.slice()
        await this.narrow(key.left, left)
        for (let row = 0; row < mask.length; row++) mask[row] = mask[row]! & (left[row]! ^ 1)
        await this.narrow(key.right, mask)
        for (let row = 0; row < mask.length; row++) mask[row] = mask[row]! | left[row]!
        return
      }
      case 'not': {
        const inner = mask.slice()
        await this.narrow(key.of, inner)
        for (let row = 0; row < mask.length; row++) mask[row] = mask[row]! & (inner[row]! ^ 1)
        return
      }
      case 'flag':
        this.#narrowFlag(key.flag, key.set, mask)
        return
      case 'keyword':
        this.#narrowKeyword(key.keyword, key.set, mask)
        return
      case 'recent':
        this.#narrowRecent(mask)
        return
      case 'target':
        keepSequences(mask, this.#context.sequencesOf(key.target))
        return
      case 'modSeq':
        for (const { first, rows, modSeqs } of this.#rows.chunks) {
          const stop = Math.min(rows, mask.length - first)
          for (let i = 0; i < stop; i++) if (modSeqs[i]! < key.from) mask[first + i] = 0
        }
        return
      case 'size': {
        const sizes = this.#column('size')
        const { size } = key
        if (key.compare === 'larger') {
          for (let row = 0; row < mask.length; row++) if (mask[row] === 1 && sizes.number(row) <= size) mask[row] = 0
        } else
          for (let row = 0; row < mask.length; row++) if (mask[row] === 1 && sizes.number(row) >= size) mask[row] = 0
        return
      }
      case 'within': {
        const received = this.#column('received')
        const border = this.#context.nowMs - key.seconds * 1000
        if (key.compare === 'older') {
          for (let row = 0; row < mask.length; row++)
            if (mask[row] === 1 && received.number(row) > border) mask[row] = 0
        } else
          for (let row = 0; row < mask.length; row++)
            if (mask[row] === 1 && received.number(row) < border) mask[row] = 0
        return
      }
      case 'date': {
        if (key.sent) {
          await this.#narrowSent(key.compare, key.day, mask)
          return
        }
        const received = this.#column('received')
        const from = key.compare === 'before' ? 0 : key.day * DAY_MS
        const end = key.compare === 'before' ? key.day * DAY_MS : key.compare === 'on' ? from + DAY_MS : Infinity
        for (let row = 0; row < mask.length; row++) {
          if (mask[row] === 0) continue
          const ms = received.number(row)
          if (ms < from || ms >= end) mask[row] = 0
        }
        return
      }
      case 'header':
        await narrowByHeader({ mailbox: this.#context.mailbox, view: this.#rows.view, pace: this.#pace }, key, mask)
        return
      case 'body':
      case 'text':
        await this.#narrowTexts([key], mask)
    }
  }

  #column(name: string): FixedColumn {
    const column = this.#rows.view.extension(name)
    if (column === undefined) throw new Error(`the mailbox has no column ${name}`)
    return column
  }

  #narrowFlag(flag: number, set: boolean, mask: Uint8Array): void {
    const wanted = set ? flag : 0
    for (const { first, rows, flags } of this.#rows.chunks) {
      const stop = Math.min(rows, mask.length - first)
      for (let i = 0; i < stop; i++) if ((flags[i]! & flag) !== wanted) mask[first + i] = 0
    }
  }

  #narrowKeyword(keyword: string, set: boolean, mask: Uint8Array): void {
    const { keywords, keywordSets, chunks } = this.#rows
    const name = keyword.toLowerCase()
    const index = keywords.findIndex((each) => each.toLowerCase() === name)
    const has = new Uint8Array(keywordSets.length)
    for (let i = 0; i < has.length; i++) has[i] = keywordSets[i]!.includes(index) ? 1 : 0
    const wanted = set ? 1 : 0
    for (const chunk of chunks) {
      const stop = Math.min(chunk.rows, mask.length - chunk.first)
      for (let i = 0; i < stop; i++) if (has[chunk.keywordSets[i]!] !== wanted) mask[chunk.first + i] = 0
    }
  }

  #narrowRecent(mask: Uint8Array): void {
    const { recent } = this.#context
    for (const { first, rows, uids } of this.#rows.chunks) {
      const stop = Math.min(rows, mask.length - first)
      for (let i = 0; i < stop; i++) if (!recent.has(uids[i]!)) mask[first + i] = 0
    }
  }

  async #narrowSent(compare: 'before' | 'on' | 'since', day: number, mask: Uint8Array): Promise<void> {
    const days = new SentDays(this.#context.mailbox, this.#rows.view)
    for (let row = 0; row < mask.length; row++) {
      if (row % PACE_EVERY === 0) {
        const due = this.#pace.due()
        if (due !== undefined) await due
      }
      if (mask[row] === 0) continue
      let sent = days.day(row)
      if (sent === undefined) sent = await days.dayOfMessage(row)
      // A message without a Date that can be read was sent on no day: NaN compares as false.
      if (!(compare === 'before' ? sent < day : compare === 'on' ? sent === day : sent >= day)) mask[row] = 0
    }
  }

  async #narrowTexts(
    keys: readonly { readonly key: string; readonly value?: string }[],
    mask: Uint8Array,
  ): Promise<void> {
    const needles = keys
      .filter(({ value }) => value !== '')
      .map(({ key, value }) => ({ needle: new Needle(value ?? ''), headers: key === 'text' }))
    // The empty string is in every text (RFC 3501 §6.4.4 says so of headers).
    if (needles.length === 0) return
    const { mailbox } = this.#context
    const { view } = this.#rows
    this.#parts ??= view.cache('mime.parts')
    for (let row = 0; row < mask.length; row++) {
      if (mask[row] === 0) continue
      const due = this.#pace.due()
      if (due !== undefined) await due
      let body: MessageBody | undefined
      try {
        body = mailbox.bodySync(view, row) ?? (await mailbox.body(view, row))
        const parts = this.#parts.value(row)
        const structure: MessageStructure = parts === undefined ? await this.#scan(row) : decodeStructure(parts)
        const holds = messageHolds(body, structure, needles)
        if (!(typeof holds === 'boolean' ? holds : await holds)) mask[row] = 0
      } catch (error) {
        // Expunged by another while we searched: it matches nothing any more.
        if (storeCodeOf(error) !== 'STORE_EXPUNGED') {
          this.#context.onUnread?.(view.uid(row))
          throw error
        }
        mask[row] = 0
      } finally {
        body?.[Symbol.dispose]()
      }
    }
  }

  async #scan(row: number): Promise<MessageStructure> {
    const fields = await this.#context.mailbox.recompute(this.#rows.view, row)
    return decodeStructure(fields.get('mime.parts')!)
  }
}

function collectColumns(key: SearchKey, into: Set<string>): void {
  if (key.key === 'and') for (const each of key.keys) collectColumns(each, into)
  else if (key.key === 'or') {
    collectColumns(key.left, into)
    collectColumns(key.right, into)
  } else if (key.key === 'not') collectColumns(key.of, into)
  else if (key.key === 'size') into.add('size')
  else if (key.key === 'within' || (key.key === 'date' && !key.sent)) into.add('received')
  else if (key.key === 'body' || key.key === 'text' || key.key === 'header')
    for (const name of ['box', 'guid', 'form', 'size']) into.add(name)
}

function flattened(keys: readonly SearchKey[]): SearchKey[] {
  return keys.flatMap((key) => (key.key === 'and' ? flattened(key.keys) : [key]))
}

/** What a key costs per message, roughly: only the order counts. */
function costOf(key: SearchKey): number {
  switch (key.key) {
    case 'all':
    case 'flag':
    case 'target':
    case 'modSeq':
    case 'keyword':
    case 'recent':
      return 1
    case 'size':
    case 'within':
      return 2
    case 'date':
      return key.sent ? 10 : 2
    case 'header':
      return 20
    case 'body':
    case 'text':
      return 1000
    case 'not':
      return costOf(key.of)
    case 'or':
      return costOf(key.left) + costOf(key.right)
    case 'and':
      return key.keys.reduce((sum, each) => sum + costOf(each), 0)
  }
}

/** Clears what is not in the set. */
function keepSequences(mask: Uint8Array, sequences: UidSet): void {
  let row = 0
  const { ranges } = sequences
  for (let i = 0; i < ranges.length; i += 2) {
    mask.fill(0, row, Math.min(mask.length, ranges[i]! - 1))
    row = ranges[i + 1]!
  }
  if (row < mask.length) mask.fill(0, row)
}
