/**
 * Which messages go to the second tier, as people write it: words that must all hold of a message.
 *
 * SYNTAX   query := term+
 *          term  := "not" term | "all" | "older" AGE | "younger" AGE | "larger" SIZE | "smaller" SIZE
 *                 | "keyword" NAME | "mailbox" NAME | a flag: "seen" "flagged" "answered" "deleted" "draft", or with "un" before it
 *          AGE   since it was received: a number and h, d, w or y        SIZE  bytes, or a number and k, m or g (1024 …)
 *          A NAME that ends in "/*" is a mailbox and all below it. In text, a word with spaces stands in double quotes.
 */
import { FLAG_ANSWERED, FLAG_DELETED, FLAG_DRAFT, FLAG_FLAGGED, FLAG_SEEN } from '@mailstead/index'
import { DELIMITER, INBOX } from './name.ts'

/** What is asked of a message. One is used again for all rows. */
export interface AltmoveMessage {
  readonly mailbox: string
  readonly uid: number
  /** Bits of the index's system flags. */
  readonly flags: number
  readonly keywords: readonly string[]
  /** INTERNALDATE, milliseconds since the epoch. */
  readonly receivedMs: number
  /** When it came into this mailbox, milliseconds since the epoch. */
  readonly savedMs: number
  /** Canonical bytes. */
  readonly size: number
}

/** Whether this row wants its message moved. */
export type AltmovePredicate = (message: AltmoveMessage) => boolean

type Term = (message: AltmoveMessage, nowMs: number) => boolean

const FLAGS: ReadonlyMap<string, number> = new Map([
  ['seen', FLAG_SEEN],
  ['flagged', FLAG_FLAGGED],
  ['answered', FLAG_ANSWERED],
  ['deleted', FLAG_DELETED],
  ['draft', FLAG_DRAFT],
])
const HOUR = 3_600_000
const AGES: ReadonlyMap<string, number> = new Map([
  ['h', HOUR],
  ['d', 24 * HOUR],
  ['w', 7 * 24 * HOUR],
  ['y', 365 * 24 * HOUR],
])
const SIZES: ReadonlyMap<string, number> = new Map([
  ['', 1],
  ['k', 1024],
  ['m', 1024 ** 2],
  ['g', 1024 ** 3],
])

export interface AltmoveQuery {
  /** As of this time, in milliseconds since the epoch. */
  at(nowMs: number): AltmovePredicate
}

/** A string says what is wrong. */
export function parseAltmoveQuery(query: string | readonly string[]): AltmoveQuery | string {
  const words = typeof query === 'string' ? split(query) : [...query]
  if (words === undefined) return 'a double quote is not closed'
  if (words.length === 0) return 'it says nothing; for every message write: all'
  const terms: Term[] = []
  while (words.length > 0) {
    const term = parseTerm(words)
    if (typeof term === 'string') return term
    terms.push(term)
  }
  return { at: (nowMs) => (message) => terms.every((term) => term(message, nowMs)) }
}

function split(text: string): string[] | undefined {
  const words: string[] = []
  const rest = text.replaceAll(/"([^"]*)"|([^\s"]+)/g, (_, quoted: string | undefined, plain: string | undefined) => {
    words.push(quoted ?? plain ?? '')
    return ''
  })
  return rest.trim() === '' ? words : undefined
}

/** Takes the words of one term. */
function parseTerm(words: string[]): Term | string {
  const word = words.shift()!
  const key = word.toLowerCase()
  if (key === 'all') return () => true
  if (key === 'not') {
    if (words.length === 0) return '"not" must be followed by what is not to be'
    const term = parseTerm(words)
    return typeof term === 'string' ? term : (message, nowMs) => !term(message, nowMs)
  }
  const set = FLAGS.get(key)
  if (set !== undefined) return ({ flags }) => (flags & set) !== 0
  const unset = key.startsWith('un') ? FLAGS.get(key.slice(2)) : undefined
  if (unset !== undefined) return ({ flags }) => (flags & unset) === 0
  if (!['older', 'younger', 'larger', 'smaller', 'keyword', 'mailbox'].includes(key))
    return `${JSON.stringify(word)} is not known: all, older, younger, larger, smaller, a flag (seen, unseen …), keyword, mailbox, not`
  const value = words.shift()
  if (value === undefined || value === '') return `"${key}" must be followed by a value`
  switch (key) {
    case 'older':
    case 'younger': {
      const ms = amount(value, AGES)
      if (ms === undefined) return `${JSON.stringify(value)} is no age; write a number and h, d, w or y, such as 90d`
      return key === 'older'
        ? ({ receivedMs }, nowMs) => receivedMs < nowMs - ms
        : ({ receivedMs }, nowMs) => receivedMs >= nowMs - ms
    }
    case 'larger':
    case 'smaller': {
      const bytes = amount(value.toLowerCase(), SIZES)
      if (bytes === undefined) return `${JSON.stringify(value)} is no size; write bytes, or a number and k, m or g`
      return key === 'larger' ? ({ size }) => size > bytes : ({ size }) => size < bytes
    }
    case 'keyword': {
      const wanted = value.toLowerCase()
      return ({ keywords }) => keywords.some((keyword) => keyword.toLowerCase() === wanted)
    }
    default: {
      const below = value.endsWith(`${DELIMITER}*`) ? value.slice(0, -1) : undefined
      const wanted = below === undefined ? value : below.slice(0, -1)
      const name = wanted.toUpperCase() === INBOX ? INBOX : wanted
      return ({ mailbox }) => mailbox === name || (below !== undefined && mailbox.startsWith(`${name}${DELIMITER}`))
    }
  }
}

function amount(text: string, units: ReadonlyMap<string, number>): number | undefined {
  const match = /^(\d{1,12})([a-z]?)$/.exec(text)
  const unit = match === null ? undefined : units.get(match[2]!)
  return unit === undefined ? undefined : Number(match![1]) * unit
}
