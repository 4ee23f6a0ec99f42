/**
 * A cursor over a header field's value (unfolded, one char per byte) that reads the tokens of RFC 5322 and RFC 2045 as
 * mail really has them: any byte of 128 and above is a letter, blanks and comments may stand between any two tokens, and
 * what is broken is left for the caller to skip.
 */

/** `more`: a token was read and something follows; `end`: the value is used up; `bad`: no such token here. */
export type Outcome = 'more' | 'end' | 'bad'

const ATEXT = 1
const TOKEN = 2
const classes: Uint8Array = new Uint8Array(256).fill(ATEXT | TOKEN, 128)
for (const c of "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-^_`{|}~") {
  classes[c.charCodeAt(0)] = ATEXT | TOKEN
}
for (const c of '/=?') classes[c.charCodeAt(0)] = ATEXT
classes['.'.charCodeAt(0)] = TOKEN

/** Where the run of `atext` (and of dots) that begins at `at` ends. */
export function atextEnd(text: string, at: number, dots: boolean): number {
  const { length } = text
  while (at < length) {
    const c = text.charCodeAt(at)
    if ((classes[c]! & ATEXT) === 0 && !(dots && c === DOT)) break
    at++
  }
  return at
}

/** Where the dot-atom without blanks that begins at `at` ends; -1 if there is none. */
export function plainDotAtomEnd(text: string, at: number): number {
  for (;;) {
    const end = atextEnd(text, at, false)
    if (end === at) return -1
    if (end === text.length || text.charCodeAt(end) !== DOT) return end
    at = end + 1
  }
}

const LF = 10
const CR = 13
const QUOTE = 0x22
const OPEN = 0x28
const CLOSE = 0x29
const DOT = 0x2e
const BACKSLASH = 0x5c

/** What stands for a NUL inside a quoted string or comment: U+FFFD in UTF-8. */
const NUL_REPLACEMENT = '\xef\xbf\xbd'

export class Cursor {
  readonly text: string
  at = 0
  /** The token just read, appended to what was there. */
  token = ''
  /** The last comment skipped, without its outer parentheses; of one that never closes, some of it. */
  comment = ''

  constructor(text: string) {
    this.text = text
  }

  get atEnd(): boolean {
    return this.at >= this.text.length
  }

  /** The char at the cursor, or NaN at the end. */
  peek(): number {
    return this.text.charCodeAt(this.at)
  }

  isAtext(): boolean {
    return !this.atEnd && (classes[this.peek()]! & ATEXT) !== 0
  }

  /** Empties the token and returns it. */
  take(): string {
    const token = this.token
    this.token = ''
    return token
  }

  /** Blanks, line ends and comments. `bad` when a comment never closes. */
  skipBlank(): Outcome {
    const { text } = this
    while (this.at < text.length) {
      const c = text.charCodeAt(this.at)
      if (c === 0x20 || c === 9 || c === CR || c === LF) this.at++
      else if (c === OPEN) {
        this.comment = ''
        if (!this.#skipComment()) return 'bad'
      } else return 'more'
    }
    return 'end'
  }

  #skipComment(): boolean {
    const { text } = this
    let depth = 1
    let from = ++this.at
    for (; this.at < text.length; this.at++) {
      switch (text.charCodeAt(this.at)) {
        case 0:
          this.comment += text.slice(from, this.at) + NUL_REPLACEMENT
          from = this.at + 1
          break
        case OPEN:
          depth++
          break
        case CLOSE:
          if (--depth === 0) {
            this.comment += text.slice(from, this.at)
            this.at++
            return true
          }
          break
        case BACKSLASH:
          if (this.at + 1 >= text.length) return this.#cutShort() !== 'bad'
          this.comment += text.slice(from, this.at)
          from = ++this.at
          break
        case LF:
          this.comment += text.slice(
            from,
            text.charCodeAt(this.at - 1) === CR && this.at > from ? this.at - 1 : this.at,
          )
          from = this.at + 1
          break
      }
    }
    return false
  }

  /** RFC 5322 §3.2.3 atom. */
  atom(): Outcome {
    if (!this.isAtext()) return 'bad'
    return this.#run(ATEXT, false)
  }

  /** Atoms and dots in any mixture, possibly none. */
  atomOrDots(): Outcome {
    return this.#run(ATEXT, true)
  }

  /** RFC 2045 §5.1 token, possibly empty. */
  mimeToken(): Outcome {
    return this.#run(TOKEN, false)
  }

  #run(kind: number, dots: boolean): Outcome {
    const { text } = this
    const from = this.at
    let at = from
    for (; at < text.length; at++) {
      const c = text.charCodeAt(at)
      if ((classes[c]! & kind) === 0 && !(dots && c === DOT)) break
    }
    this.token += text.slice(from, at)
    this.at = at
    return at >= text.length ? 'end' : this.skipBlank()
  }

  /** Atoms with dots between, blanks allowed around the dots (RFC 5322 §4.4). */
  dotAtom(): Outcome {
    const { text } = this
    for (;;) {
      const from = this.at
      while (this.isAtext()) this.at++
      if (this.at === from) return 'bad'
      this.token += text.slice(from, this.at)
      if (this.atEnd) return 'end'
      let next = this.skipBlank()
      if (next !== 'more') return next
      if (this.peek() !== DOT) return 'more'
      this.at++
      this.token += '.'
      next = this.skipBlank()
      if (next !== 'more') return 'bad'
    }
  }

  /** RFC 5322 §3.2.4, the cursor being on the first quote. */
  quotedString(): Outcome {
    const { text } = this
    let from = ++this.at
    for (; this.at < text.length; this.at++) {
      switch (text.charCodeAt(this.at)) {
        case 0:
          this.token += text.slice(from, this.at) + NUL_REPLACEMENT
          from = this.at + 1
          break
        case QUOTE:
          this.token += text.slice(from, this.at)
          this.at++
          return this.skipBlank()
        case LF:
          this.token += text.slice(from, text.charCodeAt(this.at - 1) === CR && this.at > from ? this.at - 1 : this.at)
          from = this.at + 1
          break
        case BACKSLASH:
          if (this.at + 1 >= text.length) return this.#cutShort()
          this.token += text.slice(from, this.at)
          from = ++this.at
          break
      }
    }
    return 'bad'
  }

  /** A display name: words with one blank between. Possibly empty, but never beginning with a dot. */
  phrase(): Outcome {
    if (this.atEnd) return 'end'
    if (this.peek() === DOT) return 'bad'
    for (;;) {
      const word = this.peek() === QUOTE ? this.quotedString() : this.atomOrDots()
      if (word !== 'more') return word
      if (!this.isAtext() && this.peek() !== QUOTE && this.peek() !== DOT) return this.skipBlank()
      this.token += ' '
    }
  }

  /** What follows an @, the cursor being on it: a dot-atom or a literal in brackets, brackets kept. */
  domain(): Outcome {
    this.at++
    const next = this.skipBlank()
    if (next !== 'more') return 'bad'
    return this.peek() === 0x5b ? this.#domainLiteral() : this.dotAtom()
  }

  #cutShort(): Outcome {
    this.at = this.text.length
    return 'bad'
  }

  #domainLiteral(): Outcome {
    const { text } = this
    let from = this.at++
    for (; this.at < text.length; this.at++) {
      switch (text.charCodeAt(this.at)) {
        case 0:
          this.token += text.slice(from, this.at) + NUL_REPLACEMENT
          from = this.at + 1
          break
        case 0x5b:
          return 'bad'
        case 0x5d:
          this.at++
          this.token += text.slice(from, this.at)
          return this.skipBlank()
        case LF:
          this.token += text.slice(from, text.charCodeAt(this.at - 1) === CR && this.at > from ? this.at - 1 : this.at)
          from = this.at + 1
          break
        case BACKSLASH:
          if (this.at + 1 >= text.length) return this.#cutShort()
          this.token += text.slice(from, this.at)
          from = ++this.at
          break
      }
    }
    return 'bad'
  }
}
