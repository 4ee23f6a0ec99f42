/**
 * Reads a message once, front to back, and remembers where its parts begin and end. A line at a time, and of body lines
 * only their ends and, inside a multipart, their first bytes are looked at.
 *
 * Three states: in a header, in a body, on the rest of a boundary line. Open parts form a stack; a boundary line may close
 * any number of them. Invariants: `#base + i + #bare` is the canonical offset of index i of the current bytes once every LF
 * before i is counted; what is carried over to the next chunk always begins at the beginning of a line.
 */

import type { Content, ContentLimits } from './content.ts'
import { noContent, readContent } from './content.ts'
import { asBuffer } from './header.ts'
import type { ScanOptions } from './limits.ts'
import { ScanLimits, withDefaults } from './limits.ts'
import type { MessagePart, MessageStructure, PartKind, Quirk } from './structure.ts'
import { parameter, QUIRKS } from './structure.ts'

const LF = 10
const CR = 13
const DASH = 0x2d
const EMPTY: Buffer = Buffer.alloc(0)
const NONE: readonly MessagePart[] = []

type Writable<T> = { -readonly [K in keyof T]: T[K] }
type Part = Writable<MessagePart>

/** A part that has not ended, and what is known only while it is open. */
interface Open {
  readonly part: Part
  readonly parent: Open | undefined
  readonly depth: number
  /** Whether Content-* fields count even without MIME-Version and Content-Type. */
  readonly mime: boolean
  /** Whether a child without Content-Type is a message (RFC 2046 §5.1.5). */
  digest: boolean
  /** Boundary being looked for; undefined when this is not a multipart or the last one was seen. */
  boundary: Buffer | undefined
  /** Lines before the header, then before the body. */
  lines: number
}

/** Bytes read at a time, whatever the size of chunks: what is copied of a message at any moment. */
const WINDOW = 65_536

/** What is told while the message goes by. Offsets are of the bytes as they were pushed; told in their order, within `push` and `finish`. */
export interface ScanEvents {
  /** A part that has no parts, its fields known, has its body from `at`. */
  leafStart(part: MessagePart, at: number): void
  /**
   * That body ended, at the boundary line that begins at `at`, or at the end of the message. `lineEnd`: the line end before
   * `at` belongs to the boundary line, not to the body. An empty body may end before it began.
   */
  leafEnd(part: MessagePart, at: number, lineEnd: boolean): void
}

const NEED_MORE = -2
const NO_BOUNDARY = -1

/** Feed a message in any chunking with `push`, then ask `finish`. A scanner reads one message. */
export class MessageScanner {
  readonly #limits: Required<ScanOptions>
  readonly #events: ScanEvents | undefined
  readonly #budget: ContentLimits
  /** Bits as in `QUIRKS`. */
  #quirks = 0
  #state: 'header' | 'body' | 'boundary' | 'finished' = 'header'
  /** Physical offset of the current bytes, and LFs without CR before the place being read. */
  #base = 0
  #bare = 0
  #lines = 0
  #afterCR = false
  #atLineStart = true
  #carry: Buffer | undefined

  #current: Open
  readonly #root: Open
  #parts = 1
  /** Open multiparts, outermost first, whose boundary is still looked for. */
  readonly #waiting: Open[] = []
  /** On a boundary line: whether it was a closing one. */
  #closing = false
  /** A boundary line here or before takes no line end from the body: the one before it is the header's, or a boundary's. */
  #floor = 0
  /** The part whose header was ended by the boundary line just found. */
  #cut: Open | undefined

  /** The header being read: bytes of earlier chunks, where candidates for Content-* fields begin in it, its true length. */
  #kept: Buffer = EMPTY
  #keptLength = 0
  #headerLength = 0
  #headerBare = false
  #candidates: number[] = []
  #enclosedBytes = 0
  #topHeader: Buffer = EMPTY

  constructor(options?: ScanOptions, events?: ScanEvents) {
    this.#limits = withDefaults(options)
    this.#events = events
    const { parameters, fieldBytes, contentBytes } = this.#limits
    this.#budget = { parameters, fieldBytes, contentBytes }
    this.#root = this.#open(undefined, 0, false)
    this.#current = this.#root
  }

  /** Bytes whose place is decided: no event to come is about a byte before this, but for the line end just before it. */
  get decided(): number {
    return this.#base
  }

  /**
   * Passes over the next bytes of a leaf's body, for a caller who looked at them: they end with a line end, hold `lines` of them, each
   * CRLF (`bare`: each LF alone), no NUL, and no line in them begins with a dash. TypeError if no such body is being read, or
   * bytes that were pushed are not decided.
   */
  pass(bytes: number, lines: number, bare: boolean): void {
    if (this.#state !== 'body' || this.#carry !== undefined || !isLeaf(this.#current.part))
      throw new TypeError('pass() outside the body of a leaf')
    this.#base += bytes
    this.#lines += lines
    if (bare) this.#bare += lines
    this.#afterCR = false
    this.#atLineStart = true
  }

  /** The next bytes of the message. They are not kept: the caller may reuse the array. */
  push(chunk: Uint8Array): void {
    if (this.#state === 'finished') throw new TypeError('push() after finish()')
    if (chunk.length === 0) return
    const bytes = asBuffer(chunk)
    if (bytes.includes(0)) this.#quirk('nul')
    if (bytes.length <= WINDOW) this.#take(bytes)
    else for (let at = 0; at < bytes.length; at += WINDOW) this.#take(bytes.subarray(at, at + WINDOW))
  }

  #take(bytes: Buffer): void {
    if (this.#carry !== undefined) {
      bytes = Buffer.concat([this.#carry, bytes])
      this.#carry = undefined
    }
    this.#scan(bytes, false)
  }

  /** What was read. Ends the scanner. */
  finish(): MessageStructure {
    if (this.#state === 'finished') throw new TypeError('finish() called twice')
    const rest = this.#carry ?? EMPTY
    this.#carry = undefined
    this.#scan(rest, true)
    const size = this.#base + this.#bare
    while (this.#state === 'header') {
      if (this.#headerLength > 0) this.#quirk('no-empty-line')
      this.#endHeader(size, this.#lines, EMPTY, '', 0, 0)
    }
    this.#leafEnd(this.#base, false)
    for (const open of this.#waiting) if (open.part.children.length > 0) this.#quirk('unclosed-multipart')
    this.#closeUntil(undefined, size, this.#lines)
    this.#state = 'finished'
    return {
      size,
      physicalSize: this.#base,
      canonical: this.#bare === 0,
      root: this.#root.part,
      header: this.#topHeader,
      quirks: this.#quirks === 0 ? [] : QUIRKS.filter((_, bit) => (this.#quirks & (1 << bit)) !== 0),
    }
  }

  #quirk(quirk: Quirk): void {
    this.#quirks |= 1 << QUIRKS.indexOf(quirk)
  }

  #scan(bytes: Buffer, final: boolean): void {
    // The same bytes as text: line ends are found in it, and fields read from it, at a fraction of the cost.
    const text = bytes.toString('latin1')
    let at = 0
    for (;;) {
      const state = this.#state
      if (state === 'body') at = this.#scanBody(bytes, text, at, final)
      else if (state === 'header') at = this.#scanHeader(bytes, text, at, final)
      else at = this.#scanBoundaryLine(text, at)
      if (at >= bytes.length || this.#carry !== undefined) break
    }
    this.#base += at
    if (at > 0) this.#afterCR = bytes[at - 1] === CR
  }

  #countLine(text: string, lf: number): boolean {
    this.#lines++
    if (lf > 0 ? text.charCodeAt(lf - 1) === CR : this.#afterCR) return false
    this.#bare++
    return true
  }

  // ---- header

  #scanHeader(bytes: Buffer, text: string, from: number, final: boolean): number {
    let at = from
    const { length } = text
    const dashes = this.#waiting.length > 0
    while (at < length) {
      if (this.#atLineStart) {
        const first = text.charCodeAt(at)
        if (first === LF || (first === CR && text.charCodeAt(at + 1) === LF)) {
          const lf = first === LF ? at : at + 1
          if (this.#countLine(text, lf)) this.#headerBare = true
          this.#headerLength += lf + 1 - from
          this.#endHeader(this.#base + lf + 1 + this.#bare, this.#lines, bytes, text, from, lf + 1)
          return lf + 1
        }
        if (first === CR && at + 1 === length && !final) return this.#keepAndCarry(bytes, from, at)
        if (first === DASH && dashes) {
          const found = this.#boundaryAt(bytes, at, final)
          if (found === NEED_MORE) return this.#keepAndCarry(bytes, from, at)
          if (found !== NO_BOUNDARY) {
            // The header ends here; its last line end belongs to the boundary line.
            this.#headerLength += at - from
            this.#quirk('no-empty-line')
            if (this.#headerLength > 0) {
              this.#cut = this.#current
              this.#endHeader(this.#base + at + this.#bare - 2, this.#lines - 1, bytes, text, from, at)
            } else this.#endEmptyHeader()
            // A message in a part cut like this is empty.
            while (this.#state === 'header') this.#endEmptyHeader()
            return this.#boundaryFound(found, bytes, at)
          }
        }
        // C and M in either case: Content-* and MIME-Version.
        const letter = first | 0x20
        if (letter === 0x63 || letter === 0x6d) {
          if (this.#candidates.length < this.#limits.contentFields)
            this.#candidates.push(this.#headerLength + at - from)
          else this.#quirk('too-many-fields')
        }
      }
      const lf = text.indexOf('\n', at)
      if (lf < 0) {
        this.#atLineStart = false
        at = length
        break
      }
      if (this.#countLine(text, lf)) this.#headerBare = true
      this.#atLineStart = true
      at = lf + 1
    }
    this.#headerLength += at - from
    this.#keep(bytes, from, at)
    return at
  }

  #keepAndCarry(bytes: Buffer, from: number, at: number): number {
    this.#headerLength += at - from
    this.#keep(bytes, from, at)
    this.#carry = Buffer.from(bytes.subarray(at))
    return at
  }

  /** Copies header bytes for later, up to the limit; room grows by doubling. */
  #keep(bytes: Buffer, from: number, to: number): void {
    const max = this.#limits.headerBytes
    if (to - from > max - this.#keptLength) {
      to = from + max - this.#keptLength
      this.#quirk('header-truncated')
    }
    const needed = this.#keptLength + to - from
    if (needed > this.#kept.length) {
      const grown = Buffer.allocUnsafeSlow(Math.min(max, Math.max(needed, this.#kept.length * 2, 4096)))
      this.#kept.copy(grown, 0, 0, this.#keptLength)
      this.#kept = grown
    }
    bytes.copy(this.#kept, this.#keptLength, from, to)
    this.#keptLength = needed
  }

  #endEmptyHeader(): void {
    this.#endHeader(this.#current.part.headerStart, this.#current.lines, EMPTY, '', 0, 0)
  }

  /** The header of the current part ends at `bodyStart`, `lines` lines into the message; its last bytes are in `bytes`, and in `text`. */
  #endHeader(bodyStart: number, lines: number, bytes: Buffer, text: string, from: number, to: number): void {
    let header: Buffer
    let base = 0
    if (this.#keptLength === 0 && to - from <= this.#limits.headerBytes) {
      header = bytes.subarray(from, to)
      base = from
    } else {
      this.#keep(bytes, from, to)
      header = this.#kept.subarray(0, this.#keptLength)
      text = this.#candidates.length === 0 ? '' : header.toString('latin1')
    }
    const open = this.#current
    const { part } = open
    let candidates: readonly number[] = this.#candidates
    if (this.#headerLength > header.length) candidates = candidates.filter((start) => start < header.length)
    const content =
      candidates.length === 0 ? noContent(open.mime) : readContent(text, base, candidates, open.mime, this.#budget)
    if (this.#budget.contentBytes < 0) this.#quirk('too-many-fields')

    const topHeader = open.parent === undefined
    if (topHeader || open.parent?.part.kind === 'message') {
      if (!topHeader && this.#enclosedBytes + header.length > this.#limits.enclosedHeaderBytes) {
        this.#quirk('enclosed-headers-dropped')
        part.header = EMPTY
      } else {
        const canonical = this.#headerBare ? Buffer.from(canonicalBytes(header)) : Buffer.from(header)
        if (topHeader) this.#topHeader = canonical
        else {
          part.header = canonical
          this.#enclosedBytes += canonical.length
        }
      }
    }

    part.bodyStart = bodyStart
    part.headerLines = lines - open.lines
    open.lines = lines
    this.#keptLength = 0
    this.#headerLength = 0
    this.#headerBare = false
    if (this.#candidates.length > 0) this.#candidates = []
    if (this.#kept.length > 65_536) this.#kept = EMPTY

    this.#state = 'body'
    this.#floor = bodyStart
    this.#atLineStart = true
    this.#apply(content, open)
    if (this.#events !== undefined && isLeaf(part)) this.#events.leafStart(part, bodyStart - this.#bare)
  }

  /** Decides what the part is, and opens what is inside it. */
  #apply(content: Content, open: Open): void {
    const { part } = open
    let kind: PartKind = 'other'
    let boundary: string | undefined
    if (content.mime && content.typePresent) {
      const type = content.type.toLowerCase()
      if (!content.typeValid) kind = 'other'
      else if (type === 'text') kind = 'text'
      else if (type === 'message' && content.subtype.toLowerCase() === 'rfc822') kind = 'message'
      else if (type === 'multipart' && content.subtype !== '') {
        boundary = parameter(content.parameters, 'boundary')
        kind = 'multipart'
      }
      if (!content.typeValid) this.#quirk('bad-content-type')
    }
    if (!content.mime) content = noContent(false)
    if (!content.typePresent) kind = open.parent?.digest === true ? 'message' : 'text'

    part.contentTypePresent = content.typePresent
    part.type = content.typePresent ? content.type : kind === 'message' ? 'message' : 'text'
    part.subtype = content.typePresent ? content.subtype : kind === 'message' ? 'rfc822' : 'plain'
    part.parameters = content.parameters
    part.id = content.id
    part.description = content.description
    part.encoding = content.encoding
    part.md5 = content.md5
    part.disposition = content.disposition
    part.language = content.language
    part.location = content.location

    if (kind === 'multipart' || kind === 'message') {
      if (content.encoding !== undefined && /^(?:base64|quoted-printable)$/i.test(content.encoding)) {
        this.#quirk('encoded-composite')
      }
      if (open.depth + 1 >= this.#limits.mimeDepth) {
        this.#quirk('too-deep')
        kind = 'other'
      }
    }
    if (kind === 'message') {
      part.type = 'message'
      part.subtype = 'rfc822'
    } else if (kind === 'other' && isComposite(part)) {
      // A leaf must not be told as something that has parts.
      part.contentTypePresent = true
      part.type = 'application'
      part.subtype = 'octet-stream'
    }
    part.kind = kind
    if (open.parent === undefined && isPlainAscii(part)) {
      // Most mail. Told in one way however it was written, so that a cache needs only a bit for it.
      part.type = 'text'
      part.subtype = 'plain'
      part.parameters = []
      part.encoding = undefined
    }
    if (kind === 'multipart') {
      part.children = []
      open.digest = part.subtype.toLowerCase() === 'digest'
      if (boundary === undefined) this.#quirk('no-boundary')
      else {
        open.boundary = Buffer.from(boundary.slice(0, ScanLimits.boundaryBytes), 'latin1')
        this.#waiting.push(open)
      }
    } else if (kind === 'message') {
      const inner = this.#open(open, part.bodyStart, false)
      inner.lines = open.lines
      part.message = inner.part
      this.#parts++
      this.#current = inner
      this.#state = 'header'
    }
  }

  #open(parent: Open | undefined, headerStart: number, mime: boolean): Open {
    const part: Part = {
      kind: 'text',
      type: 'text',
      subtype: 'plain',
      parameters: [],
      contentTypePresent: false,
      id: undefined,
      description: undefined,
      encoding: undefined,
      md5: undefined,
      disposition: undefined,
      language: undefined,
      location: undefined,
      headerStart,
      bodyStart: headerStart,
      bodyEnd: headerStart,
      headerLines: 0,
      bodyLines: 0,
      children: NONE,
      message: undefined,
      header: undefined,
    }
    const depth = parent === undefined ? 0 : parent.depth + 1
    return { part, parent, depth, mime, digest: false, boundary: undefined, lines: this.#lines }
  }

  // ---- body

  #scanBody(bytes: Buffer, text: string, from: number, final: boolean): number {
    const { length } = text
    const looking = this.#waiting.length > 0
    let at = from
    if (looking && this.#atLineStart && at < length && text.charCodeAt(at) === DASH) {
      const found = this.#boundaryAt(bytes, at, final)
      if (found === NEED_MORE) return this.#carryFrom(bytes, at)
      if (found !== NO_BOUNDARY) return this.#boundaryFound(found, bytes, at)
    }
    if (at >= length) return at
    let lines = 0
    let bare = 0
    let lf = text.indexOf('\n', at)
    if (lf === 0) {
      lines = 1
      if (!this.#afterCR) bare = 1
      at = 1
      if (!(looking && text.charCodeAt(1) === DASH)) lf = text.indexOf('\n', 1)
      else lf = -2
    }
    while (lf >= 0) {
      lines++
      if (text.charCodeAt(lf - 1) !== CR) bare++
      at = lf + 1
      if (looking && text.charCodeAt(at) === DASH && (at + 1 === length || text.charCodeAt(at + 1) === DASH)) {
        lf = -2
        break
      }
      lf = text.indexOf('\n', at)
    }
    this.#lines += lines
    this.#bare += bare
    if (lf === -2) {
      // A line that begins with a dash: looked at by the next call.
      this.#atLineStart = true
      const found = this.#boundaryAt(bytes, at, final)
      if (found === NEED_MORE) return this.#carryFrom(bytes, at)
      if (found !== NO_BOUNDARY) return this.#boundaryFound(found, bytes, at)
      this.#atLineStart = false
      return at
    }
    this.#atLineStart = at === length && at > from
    return length
  }

  #carryFrom(bytes: Buffer, at: number): number {
    this.#carry = Buffer.from(bytes.subarray(at))
    return at
  }

  /**
   * Index in `#waiting` of the multipart whose boundary the line at `at` is. As RFC 2046 §5.1.2 has it, innermost first
   * and by prefix; a longer match further out is preferred unless this one is exact.
   */
  #boundaryAt(bytes: Buffer, at: number, final: boolean): number {
    const available = bytes.length - at
    if (available < 2) return final ? NO_BOUNDARY : NEED_MORE
    if (bytes[at + 1] !== DASH) return NO_BOUNDARY
    if (this.#parts >= this.#limits.parts) {
      this.#quirk('too-many-parts')
      return NO_BOUNDARY
    }
    const start = at + 2
    const limit = Math.min(bytes.length, at + ScanLimits.lineStartBytes)
    let end = start
    while (end < limit && bytes[end] !== LF) end++
    if (end === bytes.length && !final && available < ScanLimits.lineStartBytes) return NEED_MORE
    const lineEnds = end < limit
    if (lineEnds && end > start && bytes[end - 1] === CR) end--
    const length = end - start
    const dashes = lineEnds && length > 2 && bytes[end - 1] === DASH && bytes[end - 2] === DASH
    let best = NO_BOUNDARY
    let bestLength = -1
    const waiting = this.#waiting
    for (let i = waiting.length - 1; i >= 0; i--) {
      const boundary = waiting[i]!.boundary!
      const own = boundary.length
      if (own > length || own <= bestLength) continue
      if (own > 0 && (bytes[start] !== boundary[0] || bytes.compare(boundary, 0, own, start, start + own) !== 0))
        continue
      best = i
      bestLength = own
      if (own === length || (dashes && own === length - 2)) break
    }
    if (best !== NO_BOUNDARY) {
      const after = start + bestLength
      this.#closing = bytes[after] === DASH && bytes[after + 1] === DASH
    }
    return best
  }

  /** Closes what is inside the multipart at `index` of `#waiting`; the rest of the line is read next. */
  #boundaryFound(index: number, bytes: Buffer, at: number): number {
    const open = this.#waiting[index]!
    const here = this.#base + at + this.#bare
    this.#leafEnd(this.#base + at, here > this.#floor)
    if (here <= this.#floor) this.#closeUntil(open, here, this.#lines)
    else if (this.#cut === undefined) this.#closeUntil(open, here - 2, this.#lines - 1)
    else {
      // The line end taken from a header goes to what is around that part, not to the boundary.
      const around = this.#cut.parent
      this.#closeUntil(around, here - 2, this.#lines - 1)
      this.#current = around!
      this.#closeUntil(open, here, this.#lines)
      this.#cut = undefined
    }
    this.#waiting.length = this.#closing ? index : index + 1
    if (this.#closing) open.boundary = undefined
    this.#current = open
    this.#state = 'boundary'
    this.#atLineStart = false
    return at + 2
  }

  #leafEnd(at: number, lineEnd: boolean): void {
    const { part } = this.#current
    if (this.#events !== undefined && isLeaf(part)) this.#events.leafEnd(part, at, lineEnd)
  }

  /** Ends every open part inside `open` (all of them when undefined). */
  #closeUntil(open: Open | undefined, end: number, lines: number): void {
    for (let each: Open | undefined = this.#current; each !== undefined && each !== open; each = each.parent) {
      each.part.bodyEnd = Math.max(end, each.part.bodyStart)
      each.part.bodyLines = Math.max(0, lines - each.lines)
      if (each.part.kind === 'multipart' && each.part.children.length === 0) this.#quirk('empty-multipart')
    }
  }

  #scanBoundaryLine(text: string, from: number): number {
    const lf = text.indexOf('\n', from)
    if (lf < 0) return text.length
    this.#countLine(text, lf)
    this.#atLineStart = true
    if (this.#closing) {
      // What follows is epilogue.
      this.#state = 'body'
      this.#floor = this.#base + lf + 1 + this.#bare
      return lf + 1
    }
    const parent = this.#current
    const child = this.#open(parent, this.#base + lf + 1 + this.#bare, true)
    ;(parent.part.children as MessagePart[]).push(child.part)
    this.#parts++
    this.#current = child
    this.#state = 'header'
    return lf + 1
  }
}

function isLeaf(part: MessagePart): boolean {
  return part.kind === 'text' || part.kind === 'other'
}

function isComposite(part: MessagePart): boolean {
  const type = part.type.toLowerCase()
  return type === 'multipart' || (type === 'message' && part.subtype.toLowerCase() === 'rfc822')
}

/** Whether the part says nothing that the defaults of RFC 2045 §5.2 do not say. */
function isPlainAscii(part: MessagePart): boolean {
  return (
    part.kind === 'text' &&
    part.subtype.toLowerCase() === 'plain' &&
    (part.encoding === undefined || part.encoding.toLowerCase() === '7bit') &&
    part.id === undefined &&
    part.description === undefined &&
    part.md5 === undefined &&
    part.disposition === undefined &&
    part.language === undefined &&
    part.location === undefined &&
    (part.parameters.length === 0 ||
      (part.parameters.length === 1 &&
        part.parameters[0]![0].toLowerCase() === 'charset' &&
        part.parameters[0]![1].toLowerCase() === 'us-ascii'))
  )
}

/** Reads a whole message at once. */
export function scanMessage(bytes: Uint8Array, options?: ScanOptions): MessageStructure {
  const scanner = new MessageScanner(options)
  scanner.push(bytes)
  return scanner.finish()
}

/** The canonical form: every LF without CR becomes CRLF. The same bytes when they already are. */
export function canonicalBytes(input: Uint8Array): Buffer {
  const bytes = asBuffer(input)
  let bare = 0
  for (let lf = bytes.indexOf(LF); lf >= 0; lf = bytes.indexOf(LF, lf + 1)) if (bytes[lf - 1] !== CR) bare++
  if (bare === 0) return bytes
  const out = Buffer.allocUnsafe(bytes.length + bare)
  let to = 0
  let from = 0
  for (let lf = bytes.indexOf(LF); lf >= 0; lf = bytes.indexOf(LF, lf + 1)) {
    if (bytes[lf - 1] === CR) continue
    bytes.copy(out, to, from, lf)
    to += lf - from
    out[to++] = CR
    from = lf
  }
  bytes.copy(out, to, from)
  return out
}
