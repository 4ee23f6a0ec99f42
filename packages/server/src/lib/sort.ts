/**
 * SORT (RFC 5256): rows in the order of their keys.
 *
 * Keys are read once, for the messages found only: numbers into typed arrays, texts as strings whose characters are the bytes
 * of the folded UTF-8, so that comparing strings compares bytes. Equal keys leave the order of the mailbox.
 */
import type { SortCriterion } from '@mailstead/imap'
import { readSortField, sentMsOf, type SortKey, sortKeyOf } from '@mailstead/imap/cache-fields'
import type { Mailbox } from '@mailstead/store'
import { CacheReader } from './cache-reader.ts'
import type { ClientRows } from './client-rows.ts'
import { Pace } from './pace.ts'

const PACE_EVERY = 512

export interface SortOptions {
  readonly mailbox: Mailbox
  readonly rows: ClientRows
  /** One byte per row: what was found. */
  readonly mask: Uint8Array
  readonly criteria: readonly SortCriterion[]
  readonly uid: boolean
}

type Compare = (a: number, b: number) => number

export async function sortRows(options: SortOptions): Promise<Uint32Array> {
  const { rows, mask, criteria } = options
  const found = rowsOf(mask)
  const keys = await readKeys(options, found, new Set(criteria.map(({ by }) => by)))
  const compares = criteria.map(({ by, reverse }): Compare => {
    const compare = keys.get(by)!
    return reverse ? (a, b) => compare(b, a) : compare
  })
  // RFC 5256 §3: sequence number is the last criterion, and is never reversed.
  const order = new Uint32Array(found.length)
  for (let i = 0; i < order.length; i++) order[i] = i
  const [first] = compares
  if (compares.length === 1) order.sort((a, b) => first!(a, b) || a - b)
  else
    order.sort((a, b) => {
      for (const compare of compares) {
        const outcome = compare(a, b)
        if (outcome !== 0) return outcome
      }
      return a - b
    })
  for (let i = 0; i < order.length; i++) order[i] = found[order[i]!]! + 1
  if (options.uid) for (let i = 0; i < order.length; i++) order[i] = rows.view.uid(order[i]! - 1)
  return order
}

/** Rows whose byte is set, ascending. */
export function rowsOf(mask: Uint8Array): Uint32Array {
  let count = 0
  for (let row = 0; row < mask.length; row++) count += mask[row]!
  const found = new Uint32Array(count)
  count = 0
  for (let row = 0; row < mask.length; row++) if (mask[row] === 1) found[count++] = row
  return found
}

async function readKeys(
  { mailbox, rows, criteria }: SortOptions,
  found: Uint32Array,
  wanted: ReadonlySet<SortCriterion['by']>,
): Promise<Map<SortCriterion['by'], Compare>> {
  const compares = new Map<SortCriterion['by'], Compare>()
  const { view } = rows
  const { length } = found
  const pace = new Pace()
  if (wanted.has('arrival') || wanted.has('date')) await view.load(['received'])
  if (wanted.has('size')) await view.load(['size'])
  const received = view.extension('received')!
  for (const by of ['arrival', 'size'] as const) {
    if (!wanted.has(by)) continue
    const column = by === 'arrival' ? received : view.extension('size')!
    const numbers = new Float64Array(length)
    for (let i = 0; i < length; i++) numbers[i] = column.number(found[i]!)
    compares.set(by, (a, b) => numbers[a]! - numbers[b]!)
  }
  const texts = new Map<SortKey, string[]>()
  for (const { by } of criteria) if (by === 'subject' || by === 'from' || by === 'to' || by === 'cc') texts.set(by, [])
  const dates = wanted.has('date') ? new Float64Array(length) : undefined
  if (texts.size > 0 || dates !== undefined) {
    const reader = new CacheReader(view, 'sort')
    for (let i = 0; i < length; i++) {
      const row = found[i]!
      if (i % PACE_EVERY === 0) {
        const due = pace.due()
        if (due !== undefined) await due
      }
      if (reader.read(row) > 0) {
        if (dates !== undefined) dates[i] = sentMsOf(reader.bytes)
        for (const [key, into] of texts) into[i] = sortKeyOf(reader.bytes, key).toString('latin1')
      } else {
        const record = (await mailbox.recompute(view, row)).get('sort')
        const field = record === undefined || record.length === 0 ? undefined : readSortField(record)
        if (dates !== undefined) dates[i] = field?.sentMs ?? Number.NaN
        for (const [key, into] of texts) into[i] = field?.[key].toString('latin1') ?? ''
      }
      // RFC 5256 §2.2: a message without a Date that can be read was sent when it was received.
      if (dates !== undefined && Number.isNaN(dates[i]!)) dates[i] = received.number(row)
    }
  }
  if (dates !== undefined) compares.set('date', (a, b) => dates[a]! - dates[b]!)
  for (const [key, values] of texts)
    compares.set(key, (a, b) => {
      const [left, right] = [values[a]!, values[b]!]
      return left === right ? 0 : left < right ? -1 : 1
    })
  return compares
}
