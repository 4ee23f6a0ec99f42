/**
 * SEARCH by header fields: from the cache where it knows, from the message where it does not.
 *
 *   FROM TO CC BCC SUBJECT   the `search` records (decoded, folded) of many messages lie one behind another in one buffer,
 *                            which native code searches as a whole; a hit is then traced to its message and field
 *   other cached fields      the raw `hdr` record, decoded when it is looked at
 *   all others               the header of the message itself
 */
import { foldText, foldToBytes, headerFieldsCached, type SearchedField, sentDayOf } from '@mailstead/imap/cache-fields'
import type { TableView } from '@mailstead/index'
import { decodeEncodedWords, decodeStructure, parseDate, parseHeader } from '@mailstead/message'
import type { Mailbox } from '@mailstead/store'
import { StoreError } from '@mailstead/store'
import { CacheReader } from './cache-reader.ts'
import { fieldEnd, fieldNames, fieldValue, headerEnds, namedField } from './header-lines.ts'
import type { Pace } from './pace.ts'

/** Records searched at once, in bytes. */
const BATCH_BYTES: number = 512 * 1024
/** What is left of a batch when it is searched: a value that does not fit makes the buffer grow. */
const BATCH_SLACK_BYTES = 4096
/** Longest header that is looked at, in bytes. */
const HEADER_MAX: number = 16 << 20
const PACE_EVERY = 512
const DAY_MS = 86_400_000
const LF = 10
/** The fields of a `search` record, in its order. */
const SEARCHED: readonly SearchedField[] = ['from', 'to', 'cc', 'bcc', 'subject']

export interface HeaderSearchContext {
  readonly mailbox: Mailbox
  readonly view: TableView
  readonly pace: Pace
}

/** Clears the rows of `mask` whose field does not hold the value; an empty value asks whether the field exists. */
export async function narrowByHeader(
  context: HeaderSearchContext,
  { field, value }: { readonly field: string; readonly value: string },
  mask: Uint8Array,
): Promise<void> {
  const searched = SEARCHED.indexOf(field as SearchedField)
  if (value !== '' && searched >= 0) await narrowSearched(context, searched, field, value, mask)
  else await narrowRaw(context, field, value, mask)
}

async function narrowSearched(
  context: HeaderSearchContext,
  searched: number,
  field: string,
  value: string,
  mask: Uint8Array,
): Promise<void> {
  const { view, pace } = context
  const needle = foldToBytes(value)
  const reader = new CacheReader(view, 'search', Math.min(BATCH_BYTES, mask.length * 512))
  const starts = new Uint32Array(Math.min(mask.length, BATCH_BYTES / 16))
  const rows = new Uint32Array(starts.length)
  const asked: number[] = []
  let count = 0
  let used = 0
  // Clears the rows of the batch that no hit names.
  const flush = (): void => {
    const bytes = reader.bytes
    let at = 0
    for (let hit = indexOf(bytes, needle, 0, used); hit >= 0; hit = indexOf(bytes, needle, hit, used)) {
      while (at + 1 < count && starts[at + 1]! <= hit) mask[rows[at++]!] = 0
      const end = at + 1 < count ? starts[at + 1]! : used
      let inField = 0
      let from = starts[at]!
      while (inField < searched) {
        from = bytes.indexOf(LF, from) + 1
        inField++
      }
      // The needle holds no LF, so it is inside one value: is it this one?
      const to = bytes.indexOf(LF, from)
      const found = hit >= from ? hit : bytes.indexOf(needle, from)
      if (found >= 0 && found + needle.length <= to) at++
      else mask[rows[at++]!] = 0
      hit = end
      if (at >= count) break
    }
    while (at < count) mask[rows[at++]!] = 0
    count = 0
    used = 0
  }
  for (let row = 0; row < mask.length; row++) {
    if (mask[row] === 0) continue
    const length = reader.read(row, used)
    if (length <= 0) {
      asked.push(row)
      continue
    }
    starts[count] = used
    rows[count++] = row
    used += length
    if (used >= BATCH_BYTES - BATCH_SLACK_BYTES || count === starts.length) {
      flush()
      const due = pace.due()
      if (due !== undefined) await due
    }
  }
  flush()
  const held = new RawField(field, value)
  for (const row of asked) {
    const header = await headerOf(context, row)
    if (!held.in(header, header.length)) mask[row] = 0
  }
}

function indexOf(bytes: Buffer, needle: Buffer, from: number, end: number): number {
  if (from >= end) return -1
  const at = bytes.indexOf(needle, from)
  return at >= 0 && at + needle.length <= end ? at : -1
}

async function narrowRaw(context: HeaderSearchContext, field: string, value: string, mask: Uint8Array): Promise<void> {
  const held = new RawField(field, value)
  const reader = headerFieldsCached([field]) ? new CacheReader(context.view, 'hdr') : undefined
  for (let row = 0; row < mask.length; row++) {
    if (mask[row] === 0) continue
    const length = reader === undefined ? -1 : reader.read(row)
    if (length > 0) {
      if (!held.in(reader!.bytes, length)) mask[row] = 0
    } else {
      const header = await headerOf(context, row)
      if (!held.in(header, header.length)) mask[row] = 0
    }
    if (reader === undefined || row % PACE_EVERY === 0) {
      const due = context.pace.due()
      if (due !== undefined) await due
    }
  }
}

const ASCII = /^[\t\r\n -~]*$/

/** One field in raw headers. */
class RawField {
  readonly #names: readonly Uint8Array[]
  readonly #needle: string
  readonly #blanks: boolean

  constructor(field: string, value: string) {
    this.#names = fieldNames([field])
    this.#needle = foldText(value)
    this.#blanks = this.#needle.includes(' ')
  }

  in(bytes: Buffer, length: number): boolean {
    for (let at = 0; at < length && !headerEnds(bytes, at); ) {
      const end = fieldEnd(bytes, at, length)
      const start = namedField(bytes, at, end, this.#names)
      if (start >= 0) {
        if (this.#needle === '') return true
        const value = fieldValue(bytes, start, end)
        // Of ASCII without encoded words, folding changes nothing but case and the kind of blanks.
        const plain = !this.#blanks && !value.includes('=?') && ASCII.test(value)
        if ((plain ? value.toUpperCase() : foldText(decodeEncodedWords(value))).includes(this.#needle)) return true
      }
      at = end
    }
    return false
  }
}

/** The top header of a message; empty where it is expunged by now. */
async function headerOf(
  { mailbox, view }: Pick<HeaderSearchContext, 'mailbox' | 'view'>,
  row: number,
): Promise<Buffer> {
  try {
    using body = mailbox.bodySync(view, row) ?? (await mailbox.body(view, row))
    const parts =
      view.cache('mime.parts').value(row) ?? (await mailbox.recompute(view, row)).get('mime.parts') ?? new Uint8Array(0)
    const end = Math.min(decodeStructure(parts).root.bodyStart, HEADER_MAX)
    const bytes = body.sliceSync(0, end)
    if (bytes !== undefined) return Buffer.from(bytes)
    return Buffer.concat(await Array.fromAsync(body.stream(0, end), (chunk) => Buffer.from(chunk)))
  } catch (error) {
    if (error instanceof StoreError && error.code === 'STORE_EXPUNGED') return Buffer.alloc(0)
    throw error
  }
}

/** Days messages were sent, for SENTBEFORE, SENTON and SENTSINCE. */
export class SentDays {
  readonly #mailbox: Mailbox
  readonly #view: TableView
  readonly #reader: CacheReader

  constructor(mailbox: Mailbox, view: TableView) {
    this.#mailbox = mailbox
    this.#view = view
    this.#reader = new CacheReader(view, 'sort')
  }

  /** Days since 1970-01-01; NaN if the message does not say; undefined if the message has to be asked. */
  day(row: number): number | undefined {
    return this.#reader.read(row) > 0 ? (sentDayOf(this.#reader.bytes) ?? Number.NaN) : undefined
  }

  async dayOfMessage(row: number): Promise<number> {
    const header = await headerOf({ mailbox: this.#mailbox, view: this.#view }, row)
    const value = parseHeader(header).last('date')
    const date = value === undefined ? undefined : parseDate(value)
    return date === undefined ? Number.NaN : Math.floor((date.timeMs + date.offsetMinutes * 60_000) / DAY_MS)
  }
}
