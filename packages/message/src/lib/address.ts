/**
 * Address lists of RFC 5322 §3.4 with the obsolete forms of §4.4, as mail really has them. Whatever is not an address still
 * becomes one, so that a client shows that something was there; what is missing is named.
 */

import { ScanLimits } from './limits.ts'
import { atextEnd, Cursor, plainDotAtomEnd } from './tokens.ts'
import type { Outcome } from './tokens.ts'

/**
 * One element of an ENVELOPE address list (RFC 3501 §7.4.2). `group-start` has its name in `mailbox` and nothing else;
 * `group-end` has nothing at all. Strings hold one char per byte; encoded words are as written.
 */
export interface Address {
  readonly kind: 'address' | 'group-start' | 'group-end'
  /** Display name, or the comment that stands for it. */
  readonly name: string | undefined
  /** Obsolete source route, `@a,@b`. */
  readonly route: string | undefined
  readonly mailbox: string | undefined
  readonly host: string | undefined
}

/** What stands for a part that is not there. Visible to clients in ENVELOPE; the words are those other servers use. */
export const MISSING_MAILBOX = 'MISSING_MAILBOX'
export const MISSING_DOMAIN = 'MISSING_DOMAIN'
const SYNTAX_ERROR = 'SYNTAX_ERROR'
const INVALID_ROUTE = 'INVALID_ROUTE'

const DOT = 0x2e
const COMMA = 0x2c
const COLON = 0x3a
const SEMICOLON = 0x3b
const LESS = 0x3c
const GREATER = 0x3e
const AT = 0x40
const QUOTE = 0x22

/** Reads the value of an address field, unfolded or not. Never fails; at most `ScanLimits.addresses` elements. */
export function parseAddressList(value: string): Address[] {
  return parsePlainList(value) ?? parseAnyList(value)
}

function blanksEnd(text: string, at: number): number {
  const { length } = text
  while (at < length) {
    const c = text.charCodeAt(at)
    if (c > 0x20 || (c !== 0x20 && c !== 9 && c !== 13 && c !== 10)) break
    at++
  }
  return at
}

/**
 * The list, if it is as nearly all mail has it: `a@b` and `Name <a@b>`, the name of words or in quotes. Undefined for
 * anything else; never another answer than `parseAnyList` has.
 */
export function parsePlainList(text: string): Address[] | undefined {
  const list: Address[] = []
  const { length } = text
  let at = blanksEnd(text, 0)
  while (at < length) {
    if (list.length === ScanLimits.addresses) return undefined
    let name: string | undefined
    let from = at
    if (text.charCodeAt(at) === DOT) return undefined
    at = atextEnd(text, at, true)
    if (at === length) return undefined
    const bare = at > from && text.charCodeAt(at) === AT
    if (!bare) {
      // Words of a name, up to the angle bracket.
      for (let start = from; ; at = atextEnd(text, start, true)) {
        let word: string
        if (at === length) return undefined
        if (at > start) word = text.slice(start, at)
        else {
          const c = text.charCodeAt(at)
          if (c === LESS) break
          const close = c === QUOTE ? plainQuoteEnd(text, at + 1) : -1
          if (close < 0) return undefined
          word = text.slice(at + 1, close)
          at = close + 1
        }
        name = name === undefined ? word : `${name} ${word}`
        start = blanksEnd(text, at)
      }
      from = ++at
      at = atextEnd(text, at, true)
      if (at === length || at === from || text.charCodeAt(from) === DOT || text.charCodeAt(at) !== AT) return undefined
    }
    const end = plainDotAtomEnd(text, at + 1)
    if (end < 0) return undefined
    const mailbox = text.slice(from, at)
    const host = text.slice(at + 1, end)
    at = end
    if (!bare && (at === length || text.charCodeAt(at++) !== GREATER)) return undefined
    list.push({ kind: 'address', name: name === '' ? undefined : name, route: undefined, mailbox, host })
    at = blanksEnd(text, at)
    if (at === length) break
    if (text.charCodeAt(at) !== COMMA) return undefined
    at = blanksEnd(text, at + 1)
  }
  return list
}

/** Offset of the quote that ends a quoted string in which nothing needs a second look; -1 if it is none. */
function plainQuoteEnd(text: string, at: number): number {
  for (; at < text.length; at++) {
    const c = text.charCodeAt(at)
    if (c === QUOTE) return at
    if (c === 0x5c || c === 0 || c === 10 || c === 13) return -1
  }
  return -1
}

/** The same list, whatever is in it. */
export function parseAnyList(value: string): Address[] {
  const parser = new AddressParser(value)
  parser.list()
  return parser.found
}

class AddressParser {
  readonly found: Address[] = []
  readonly #cursor: Cursor
  #name: string | undefined
  #route: string | undefined
  #mailbox: string | undefined
  #host: string | undefined

  constructor(value: string) {
    this.#cursor = new Cursor(value)
  }

  list(): void {
    const cursor = this.#cursor
    if (cursor.skipBlank() !== 'more') return
    while (this.found.length < ScanLimits.addresses) {
      if (this.#address() === 'end' || cursor.peek() !== COMMA) return
      const next = cursor.at + 1
      cursor.at = next
      const after = cursor.skipBlank()
      if (after === 'end') return
      if (after === 'bad') {
        cursor.at = next
        this.#addMailbox()
        return
      }
    }
  }

  #address(): Outcome {
    const start = this.#cursor.at
    return this.#group(start) ?? this.#mailboxAt(start)
  }

  /** `name: a, b;` — undefined when there is no group here. */
  #group(start: number): Outcome | undefined {
    const cursor = this.#cursor
    cursor.token = ''
    if (cursor.phrase() !== 'more' || cursor.peek() !== COLON) {
      cursor.at = start
      return undefined
    }
    cursor.at++
    let next = cursor.skipBlank()
    this.found.push({ kind: 'group-start', name: undefined, route: undefined, mailbox: cursor.take(), host: undefined })
    if (next === 'more' && cursor.peek() !== SEMICOLON) {
      while (this.found.length < ScanLimits.addresses) {
        this.#mailboxAt(cursor.at)
        if (cursor.peek() !== COMMA) break
        cursor.at++
        next = cursor.skipBlank()
        if (next !== 'more') {
          next = 'bad'
          break
        }
      }
    }
    if (next !== 'bad') {
      if (cursor.peek() === SEMICOLON) {
        cursor.at++
        next = cursor.skipBlank()
      } else next = 'bad'
    }
    this.found.push({ kind: 'group-end', name: undefined, route: undefined, mailbox: undefined, host: undefined })
    return next
  }

  #mailboxAt(start: number): Outcome {
    const cursor = this.#cursor
    let outcome = this.#nameAddress()
    if (outcome === undefined) {
      cursor.at = start
      outcome = this.#plainAddress()
    }
    this.#addMailbox()
    return outcome
  }

  #addMailbox(): void {
    this.found.push({
      kind: 'address',
      name: this.#name,
      route: this.#route,
      mailbox: this.#mailbox ?? MISSING_MAILBOX,
      host: this.#host === undefined || this.#host === '' ? MISSING_DOMAIN : this.#host,
    })
    this.#name = undefined
    this.#route = undefined
    this.#mailbox = undefined
    this.#host = undefined
  }

  /** `Name <a@b>` — undefined when there is no `<` after a phrase. */
  #nameAddress(): Outcome | undefined {
    const cursor = this.#cursor
    cursor.token = ''
    if (cursor.phrase() !== 'more' || cursor.peek() !== LESS) return undefined
    const name = cursor.take()
    this.#name = name === '' ? undefined : name
    if (this.#angle() === 'bad') this.#host = SYNTAX_ERROR
    return cursor.atEnd ? 'end' : 'more'
  }

  #angle(): Outcome {
    const cursor = this.#cursor
    cursor.at++
    if (cursor.skipBlank() !== 'more') return 'bad'
    if (cursor.peek() === AT) {
      const routed = this.#domainList()
      if (routed && cursor.peek() === COLON) cursor.at++
      else {
        this.#route = INVALID_ROUTE
        if (cursor.atEnd) return 'bad'
      }
      if (cursor.skipBlank() !== 'more') return 'bad'
    }
    if (cursor.peek() !== GREATER) {
      if (this.#localPart() !== 'more') return 'bad'
      if (cursor.peek() === AT && this.#domain() !== 'more') return 'bad'
    }
    if (cursor.peek() !== GREATER) return 'bad'
    cursor.at++
    return cursor.skipBlank()
  }

  #domainList(): boolean {
    const cursor = this.#cursor
    cursor.token = ''
    while (cursor.peek() === AT) {
      if (cursor.token.length > 0) cursor.token += ','
      cursor.token += '@'
      if (cursor.domain() !== 'more') return false
      while (cursor.skipBlank() === 'more' && cursor.peek() === COMMA) cursor.at++
    }
    if (cursor.atEnd) return false
    this.#route = cursor.take()
    return true
  }

  /** Atoms and dots in any order: mailboxes ending in a dot, or with two in a row, are in use. */
  #localPart(): Outcome {
    const cursor = this.#cursor
    cursor.token = ''
    const outcome = cursor.peek() === QUOTE ? cursor.quotedString() : this.#dottedAtoms()
    if (outcome !== 'bad') this.#mailbox = cursor.token
    return outcome
  }

  #dottedAtoms(): Outcome {
    const cursor = this.#cursor
    let outcome: Outcome = 'bad'
    do {
      while (cursor.peek() === DOT) {
        cursor.token += '.'
        cursor.at++
        if (cursor.atEnd) return 'end'
        outcome = 'more'
      }
      if (cursor.peek() === AT) break
      outcome = cursor.atom()
    } while (outcome === 'more' && cursor.peek() === DOT)
    return outcome
  }

  #domain(): Outcome {
    const cursor = this.#cursor
    cursor.token = ''
    const outcome = cursor.domain()
    if (outcome !== 'bad') this.#host = cursor.take()
    return outcome
  }

  /** `a@b (Name)`. Without a domain, one word alone is a mailbox; several, or one in quotes, are a name. */
  #plainAddress(): Outcome {
    const cursor = this.#cursor
    cursor.comment = ''
    const quoted = cursor.peek() === QUOTE
    let outcome = this.#localPart()
    const hasDomain = outcome !== 'end' && cursor.peek() === AT
    if (hasDomain) outcome = this.#domain()
    if (cursor.comment !== '') this.#name = cursor.comment
    else if (!hasDomain) {
      const first = `${cursor.token} `
      cursor.token = ''
      cursor.phrase()
      if (cursor.token !== '') {
        this.#name = first + cursor.take()
        this.#mailbox = undefined
      } else if (quoted) {
        this.#name = this.#mailbox
        this.#mailbox = undefined
      }
      return 'bad'
    }
    return outcome
  }
}
