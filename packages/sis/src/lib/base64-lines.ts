/**
 * Takes the lines of a part apart into characters of base64, which become bytes of a blob, and what else is between them, which
 * stays inline. What is said of a piece is said only after its bytes were encoded again and were equal to it.
 *
 * A window of the part is read at a time, and decided as a whole: either its operations are written, or none of them and the rest of
 * the part is stored as it came. Lines of equal length are read many at once by native code; others one by one.
 *
 * INVARIANTS
 *   1. Characters leave here only through `#prove`, or as a tail that was encoded again: nothing is trusted.
 *   2. Of earlier windows at most three characters (`pending`) are not bytes yet; they become whole or a tail.
 *   3. Which lines are *taken for* base64 is a guess that decides about space, not about truth.
 */
import { BASE64_VALUE, decodeTail, encodeTail, PAD_VALUE, unitBytes } from './base64.ts'
import type { PartBuffers } from './part-buffers.ts'
import { CRLF_END, LF_END, type LineEnd, NO_END, type SegmentMark, type SegmentWriter } from './segments.ts'

/** So many bytes in a row that are no base64: from there on a part is stored as it came. */
const LITERAL_RUN_MAX = 8192
/** A line that a window cuts is left for the next one, unless it is longer than this, or a quarter of the window. */
const CUT_LINE_MAX = 1024
/** A line without an end in sight that is this long is tried as a whole. */
const LONG_LINE = 2048
/** After lines that were not as regular as they seemed, so many bytes are read line by line. */
const SLOW_BYTES = 4096
/** Where it is doubtful whether a line is base64 or a word, it is a word if it is shorter than this. */
const WORD_MAX = 24

/** What a window may cost beyond what it saves, in bytes: the last one may hold one line. */
const COST_FREE = 64

const LF = 10
const CR = 13

interface State {
  /** Of the last full line, and whether the one before was the same. */
  lineLength: number
  lineEnd: LineEnd
  steady: boolean
  /** Longest line so far. */
  longest: number
  /** The last line was shorter, and ended a quantum: often the last one. */
  short: boolean
  /** A piece of a line without its end was taken. */
  midLine: boolean
  /** Something else came since the last line of base64. */
  broken: boolean
  blob: boolean
  /** The open unit: its characters without padding (0: none is open), and padding. */
  chars: number
  pads: number
  pending: string
  /** Nothing that stayed inline looks like base64. */
  exact: boolean
  /** Bytes that stayed inline since the last character. */
  literalRun: number
}

export class Base64Lines {
  readonly #list: SegmentWriter
  #s: State = {
    lineLength: 0,
    lineEnd: NO_END,
    steady: false,
    longest: 0,
    short: false,
    midLine: false,
    broken: false,
    blob: false,
    chars: 0,
    pads: 0,
    pending: '',
    exact: true,
    literalRun: 0,
  }
  readonly #cutLineMax: number
  readonly #bytes: Buffer
  #bytesLength = 0
  readonly #literals: Buffer
  #literalsLength = 0
  /** Characters that were taken line by line and not proved yet. */
  readonly #chars: Buffer
  #charsLength = 0
  /** Characters of this window. */
  #taken = 0
  #failed = false
  /** What the operations of this window cannot be worth, however it goes on. */
  #costMax = 0
  /** Where the literals that the window ends with began, and how things were then. */
  #run: { at: number; mark: SegmentMark; state: State; literals: number; cost: number } | undefined

  /** Bytes of the window that were dealt with. */
  consumed = 0
  /** What follows is to be stored as it came. No unit is open then. */
  ended = false

  /** For windows of up to the length of the one in `buffers`. */
  constructor(list: SegmentWriter, buffers: PartBuffers) {
    this.#list = list
    this.#cutLineMax = Math.min(CUT_LINE_MAX, buffers.window.length / 4)
    this.#bytes = buffers.bytes
    this.#literals = buffers.literals
    this.#chars = buffers.chars
  }

  /** What the last window adds to the blob. Valid until the next one. */
  get bytes(): Buffer {
    return this.#bytes.subarray(0, this.#bytesLength)
  }

  /** What the last window adds inline. Valid until the next one. */
  get literals(): Buffer {
    return this.#literals.subarray(0, this.#literalsLength)
  }

  /** Whether anything belongs into a blob. */
  get blob(): boolean {
    return this.#s.blob
  }

  get exact(): boolean {
    return this.#s.exact
  }

  /** Reads a window, which begins where the one before was `consumed`. `last`: nothing follows it. */
  take(window: Buffer, last: boolean): void {
    const before = { ...this.#s }
    const mark = this.#list.mark()
    const costBefore = this.#list.cost
    this.#reset()
    this.#costMax = costBefore + window.length / 4 + COST_FREE
    if (this.#s.literalRun > 0) this.#beginRun(0)

    let at = 0
    let slowUntil = 0
    while (at < window.length && !this.#failed) {
      if (at >= slowUntil) {
        const next = this.#rows(window, at, false)
        if (next > at) {
          at = next
          continue
        }
        if (this.#s.steady) slowUntil = at + SLOW_BYTES
      }
      const next = this.#line(window, at, last)
      if (next === at) break
      at = next
      if (this.#s.literalRun > LITERAL_RUN_MAX) {
        at = this.#cutRun()
        break
      }
    }
    this.consumed = at
    if (!this.#failed) this.#flush()
    if (last && !this.ended && !this.#failed) this.#endUnit()

    const run = this.#run
    const cost = (run?.cost ?? this.#list.cost) - costBefore + (run?.literals ?? this.#literalsLength)
    const grown = this.#list.full && this.#list.cost > costBefore
    if (this.#failed || grown || (this.#taken > 0 && cost > this.#taken / 4 + COST_FREE)) {
      this.#list.back(mark)
      this.#s = before
      this.#reset()
      this.consumed = 0
      this.ended = true
    }
    if (this.ended) this.#endUnit()
  }

  /** Only lines like those before may be at the beginning of the next window. */
  get steady(): boolean {
    const s = this.#s
    return s.steady && !s.midLine && !s.broken && !s.short && s.chars > 0 && s.pads === 0
  }

  /** Bytes of a line, with its end, while `steady`. */
  get row(): { readonly bytes: number; readonly end: LineEnd } {
    return { bytes: this.#s.lineLength + this.#s.lineEnd, end: this.#s.lineEnd }
  }

  /**
   * Reads the lines at the beginning of the window that are like those before, none if `consumed` is 0. They are followed by
   * a letter, so their last line end belongs to the part, whatever comes.
   */
  takeRows(window: Buffer): void {
    this.#reset()
    this.consumed = this.#rows(window, 0, true)
  }

  #reset(): void {
    this.#bytesLength = 0
    this.#literalsLength = 0
    this.#charsLength = 0
    this.#taken = 0
    this.#failed = false
    this.#run = undefined
  }

  // ---- what is no base64

  #beginRun(at: number): void {
    const cost = this.#list.cost
    this.#run = { at, mark: this.#list.mark(), state: { ...this.#s }, literals: this.#literalsLength, cost }
  }

  #literal(window: Buffer, from: number, to: number): void {
    if (to === from) return
    if (this.#s.literalRun === 0) this.#beginRun(from)
    window.copy(this.#literals, this.#literalsLength, from, to)
    this.#literalsLength += to - from
    this.#s.literalRun += to - from
    this.#list.inline(to - from)
  }

  /** Takes back the literals that go on and on; returns where they began. */
  #cutRun(): number {
    const run = this.#run!
    this.#list.back(run.mark)
    this.#s = run.state
    this.#literalsLength = run.literals
    this.ended = true
    return run.at
  }

  // ---- what is base64

  #open(): void {
    const s = this.#s
    if (!s.blob) {
      this.#list.blob()
      s.blob = true
    }
    s.broken = false
    this.#endRun()
  }

  #endRun(): void {
    this.#s.literalRun = 0
    this.#run = undefined
  }

  /** As many lines like the last one as there are. Returns the offset after them, or `at`. */
  #rows(window: Buffer, at: number, letterFollows: boolean): number {
    if (!this.steady) return at
    const s = this.#s
    const length = s.lineLength
    const row = length + s.lineEnd
    let end = at
    if (s.lineEnd === CRLF_END) {
      for (let to = at + row; to <= window.length; to += row) {
        if (window[to - 1] !== LF || window[to - 2] !== CR) break
        end = to
      }
    } else for (let to = at + row; to <= window.length && window[to - 1] === LF; to += row) end = to
    if (letterFollows) end -= row
    const rows = (end - at) / row
    if (rows < 2 || (letterFollows && BASE64_VALUE[window[end]!]! >= PAD_VALUE)) return at
    if (!this.#flush()) return at
    const chars = rows * length
    if (length % 4 === 0 && s.pending === '') {
      if (!this.#proveRows(window, at, rows)) return at
    } else {
      const text = window.toString('latin1', at, end).replace(s.lineEnd === CRLF_END ? /\r\n/g : /\n/g, '')
      // Line ends stand where they are expected; if these were all, then the text is the characters between them.
      if (text.length !== chars || !this.#prove(text)) return at
    }
    this.#open()
    s.chars += chars
    this.#taken += chars
    this.#list.lines(length, rows, s.lineEnd)
    return end
  }

  /** One line, or what there is of it. Returns the offset after it, or `at` if it has to wait for the next window. */
  #line(window: Buffer, at: number, last: boolean): number {
    const lf = window.indexOf(LF, at)
    let end: LineEnd = NO_END
    let to = lf
    let next = lf + 1
    if (lf >= 0) {
      end = lf > at && window[lf - 1] === CR ? CRLF_END : LF_END
      to = next - end
    } else {
      if (!last && window.length - at < this.#cutLineMax) return at
      to = window.length
      // Of a line end that is cut, nothing is taken.
      if (!last && window[to - 1] === CR) to--
      next = to
    }
    const length = to - at
    const s = this.#s
    if (length === 0) {
      if (!(s.midLine && end !== NO_END && this.#list.endLine(end))) {
        s.broken = true
        this.#literal(window, at, next)
      }
      s.midLine = false
      return next
    }
    if (length >= LONG_LINE && this.#longLine(window, at, to, end)) return next

    let letters = 0
    let pads = 0
    for (let i = at; i < to; i++) {
      const value = BASE64_VALUE[window[i]!]!
      if (value < PAD_VALUE) letters++
      else if (value === PAD_VALUE) pads++
    }
    if (letters === length && this.#likely(length)) {
      if (s.pads > 0) this.#endUnit()
      this.#append(window, at, to)
      this.#list.lines(length, 1, end)
      this.#ended(length, end)
      return next
    }
    const odd = length - letters - pads
    const mixed =
      odd === 0
        ? pads > 0 && (letters === 0 ? s.chars > 0 && !s.broken : this.#likely(letters))
        : length >= 16 && letters + pads >= length * 0.9
    if (mixed) this.#mixed(window, at, to, end)
    else {
      if (letters > 0) s.exact = false
      s.broken = true
      s.midLine = false
      this.#literal(window, at, next)
    }
    return next
  }

  /** Whether a line of so many letters is to be taken for base64. */
  #likely(letters: number): boolean {
    const s = this.#s
    if (s.midLine) return true
    if (s.broken || s.chars === 0) return letters >= Math.min(s.longest, WORD_MAX)
    return !s.short || letters >= WORD_MAX || letters % 4 === 0
  }

  #longLine(window: Buffer, at: number, to: number, end: LineEnd): boolean {
    const s = this.#s
    if (s.pads > 0 || !this.#flush()) return false
    if (!this.#prove(window.toString('latin1', at, to))) return false
    this.#open()
    s.chars += to - at
    this.#taken += to - at
    this.#list.lines(to - at, 1, end)
    this.#ended(to - at, end)
    return true
  }

  /** After a line of letters alone. */
  #ended(length: number, end: LineEnd): void {
    const s = this.#s
    if (!s.midLine && end !== NO_END) {
      s.steady = s.lineLength === length && s.lineEnd === end
      s.lineLength = length
      s.lineEnd = end
      s.short = s.longest >= WORD_MAX && length < s.longest && s.chars % 4 === 0
    }
    if (s.longest < length) s.longest = length
    s.midLine = end === NO_END
  }

  #append(window: Buffer, from: number, to: number): void {
    this.#open()
    window.copy(this.#chars, this.#charsLength, from, to)
    this.#charsLength += to - from
    this.#taken += to - from
    this.#s.chars += to - from
  }

  /** A line with padding, or other bytes, between letters. */
  #mixed(window: Buffer, from: number, to: number, end: LineEnd): void {
    const s = this.#s
    let piece = 0
    let at = from
    const close = (lineEnd: LineEnd): void => {
      if (piece > 0) this.#list.lines(piece, 1, lineEnd)
      piece = 0
    }
    while (at < to && !this.#failed) {
      const start = at
      while (at < to && BASE64_VALUE[window[at]!]! < PAD_VALUE) at++
      if (at > start) {
        if (s.pads > 0) {
          close(NO_END)
          this.#endUnit()
        }
        this.#append(window, start, at)
        piece += at - start
        continue
      }
      if (BASE64_VALUE[window[at]!] === PAD_VALUE && s.chars > 0) {
        const tail = s.chars % 4
        if (tail > 1 && s.pads < 4 - tail) {
          s.pads++
          piece++
          at++
          this.#endRun()
          continue
        }
        // Padding that is not in its place ends the unit all the same.
        close(NO_END)
        this.#endUnit()
      }
      close(NO_END)
      this.#literal(window, at, ++at)
    }
    if (piece > 0) close(end)
    else if (end !== NO_END) this.#literal(window, to, to + end)
    if (s.pads > 0 && s.pads === 4 - (s.chars % 4)) this.#endUnit()
    s.midLine = end === NO_END && piece === 0 && s.literalRun === 0
    s.steady = false
  }

  // ---- the proof

  /** Makes bytes of what was taken line by line. */
  #flush(): boolean {
    if (this.#charsLength === 0) return true
    const text = this.#chars.toString('latin1', 0, this.#charsLength)
    this.#charsLength = 0
    if (!this.#prove(text)) {
      this.#failed = true
      return false
    }
    // Literals that are taken back leave what was proved as it is.
    if (this.#run !== undefined) this.#run.state.pending = this.#s.pending
    return true
  }

  /** Decodes the characters and encodes the bytes again: false, with nothing changed, if that gives anything else. */
  #prove(text: string): boolean {
    const s = this.#s
    const all = s.pending === '' ? text : s.pending + text
    const rest = all.length % 4
    const whole = rest === 0 ? all : all.slice(0, all.length - rest)
    const tail = rest === 0 ? '' : all.slice(all.length - rest)
    for (let i = 0; i < rest; i++) if (BASE64_VALUE[tail.charCodeAt(i)]! >= PAD_VALUE) return false
    const at = this.#bytesLength
    const size = (whole.length / 4) * 3
    const written = this.#bytes.write(whole, at, size, 'base64')
    if (written !== size || this.#bytes.toString('base64', at, at + size) !== whole) return false
    this.#bytesLength += size
    s.pending = tail
    return true
  }

  /**
   * The same of equal lines of whole quanta, whose line ends stand where they are expected: nothing is taken out before they are
   * decoded, and what encoding gives is compared with each line where it is. This is the inner loop of all, so eight characters at a time, as a number: two that
   * are of other bytes are unequal, but for zeros of either sign, and what encodes is no zero.
   */
  #proveRows(window: Buffer, at: number, rows: number): boolean {
    const { lineLength, lineEnd } = this.#s
    const row = lineLength + lineEnd
    const first = this.#bytesLength
    const size = ((rows * lineLength) / 4) * 3
    // The decoder passes over line ends; had it passed over anything else, it would not find so much.
    const written = this.#bytes.write(window.toString('latin1', at, at + rows * row), first, size, 'base64')
    if (written !== size) return false
    this.#chars.write(this.#bytes.toString('base64', first, first + size), 0, 'latin1')
    const came = new DataView(window.buffer, window.byteOffset + at, rows * row)
    const encoded = new DataView(this.#chars.buffer, this.#chars.byteOffset, rows * lineLength)
    const eights = lineLength - (lineLength % 8)
    let from = 0
    let different = 0
    for (let start = 0; start < came.byteLength; start += row) {
      const end = start + eights
      for (let char = start; char < end; char += 8, from += 8)
        if (came.getFloat64(char, true) !== encoded.getFloat64(from, true)) different = 1
      if (eights === lineLength) continue
      different |= came.getInt32(end, true) ^ encoded.getInt32(from, true)
      from += 4
    }
    if (different !== 0) return false
    this.#bytesLength += size
    return true
  }

  /** Ends the open unit, if there is one: what is pending becomes its tail. */
  #endUnit(): void {
    const s = this.#s
    if (s.chars === 0 || !this.#flush()) return
    const tail = s.pending
    const at = this.#bytesLength
    const spare = decodeTail(tail, this.#bytes, at)
    if (encodeTail(this.#bytes, at, tail.length, spare) !== tail) throw new Error('a tail that is not its own')
    this.#bytesLength += unitBytes(tail.length)
    this.#list.unitEnd(tail.length, s.pads, spare)
    if (!this.ended && this.#list.cost > this.#costMax) this.#failed = true
    s.pending = ''
    s.chars = 0
    s.pads = 0
    s.midLine = false
    this.#endRun()
  }
}
