/**
 * Text that is searched while it goes by, so that a message of any size takes the same memory.
 *
 * HOW   Bytes gather to pieces of TEXT_PIECE_BYTES. A piece is cut where the transfer encoding can be undone of each side alone,
 *       decoded by a reader that remembers characters cut in two, and folded up to the last place where folding of each side
 *       alone is folding of both. Of what is folded only the end is kept that a string could begin in.
 *
 * INVARIANTS
 *   1. What is found is what is found in the whole text, decoded and folded at once; but for runs longer than CARRY_MAX of what
 *      has no such place (blanks before a line end, combining marks), and for a header beyond one piece, of which each piece
 *      has its charset guessed by itself.
 *   2. Memory: some pieces, and the strings that are looked for.
 */
import { foldText } from '@mailstead/imap/cache-fields'
import {
  decodeBody,
  decodeEncodedWords,
  type MessagePart,
  parameter,
  type TextReader,
  textReaders,
} from '@mailstead/message'
import { Pace } from './pace.ts'

/** Bytes that are decoded and searched at a time. */
export const TEXT_PIECE_BYTES: number = 1 << 20
/** What is held back at most for a better place to cut: bytes, or units of text. */
const CARRY_MAX: number = 1 << 20

const SPACE = 0x20
const TAB = 9
const LF = 10
const CR = 13
const EQUALS = 0x3d

/** Where the bytes so far can be cut; 0: nowhere yet. */
type Cut = (bytes: Buffer) => number
/** One way to read the bytes, and what it found. It throws if it is the wrong way. */
interface Reading {
  readonly found: ReadonlySet<string>
  push(bytes: Buffer, last: boolean): void
}

export class FoldedText {
  readonly #cut: Cut
  readonly #readingsOf: (start: Buffer) => readonly Reading[]
  readonly #pieceBytes: number
  #readings: readonly Reading[] | undefined

  constructor(parts: { cut: Cut; readingsOf: (start: Buffer) => readonly Reading[]; pieceBytes: number }) {
    this.#cut = parts.cut
    this.#readingsOf = parts.readingsOf
    this.#pieceBytes = parts.pieceBytes
  }

  /** Whether the text so far holds a string, already folded. Final when all was read, or if each way to read finds it. */
  holds(needle: string): boolean {
    return this.#readings !== undefined && this.#readings.length > 0 && this.#readings[0]!.found.has(needle)
  }

  /** Reads to the end, or until `enough` says so of what was found in every way to read. */
  async read(source: AsyncIterable<Uint8Array>, enough: () => boolean): Promise<void> {
    let chunks: Uint8Array[] = []
    let bytes = 0
    let rest: Buffer = Buffer.alloc(0)
    const pace = new Pace()
    for await (const chunk of source) {
      // The chunk is valid only until the next one.
      chunks.push(Uint8Array.from(chunk))
      bytes += chunk.length
      if (bytes < this.#pieceBytes) continue
      const all = Buffer.concat([rest, ...chunks])
      chunks = []
      bytes = 0
      let end = this.#cut(all)
      if (all.length - end > CARRY_MAX) end = all.length
      if (end > 0) this.#push(all.subarray(0, end), false)
      rest = all.subarray(end)
      const due = pace.due()
      if (due !== undefined) await due
      // Only where there are no two ways to read: the better one may turn out wrong further on.
      if (this.#readings?.length === 1 && enough()) return
    }
    this.#push(Buffer.concat([rest, ...chunks]), true)
  }

  #push(bytes: Buffer, last: boolean): void {
    this.#readings ??= this.#readingsOf(bytes)
    this.#readings = this.#readings.filter((reading) => {
      try {
        reading.push(bytes, last)
        return true
      } catch (error) {
        // Bytes that are not of the charset; of other errors there is none.
        if (error instanceof TypeError) return false
        throw error
      }
    })
  }
}

/** A text part: transfer encoding undone, read in its charset. */
export function partText(
  needles: readonly string[],
  part: Pick<MessagePart, 'encoding' | 'parameters'>,
  pieceBytes: number = TEXT_PIECE_BYTES,
): FoldedText {
  const encoding = part.encoding?.trim().toLowerCase()
  const charset = parameter(part.parameters, 'charset')
  return new FoldedText({
    pieceBytes,
    cut: encoding === 'base64' ? cutBase64 : encoding === 'quoted-printable' ? cutQuotedPrintable : cutTwo,
    readingsOf: (bytes) =>
      textReaders(charset, decodeBody(bytes, encoding)).map((reader) => new PartReading(needles, encoding, reader)),
  })
}

/** A header: unfolded, its encoded words decoded. */
export function headerText(needles: readonly string[], pieceBytes: number = TEXT_PIECE_BYTES): FoldedText {
  return new FoldedText({ pieceBytes, cut: cutFields, readingsOf: () => [new HeaderReading(needles)] })
}

/** A header without the line ends that are inside fields; a character for each byte. */
export function unfolded(header: string): string {
  return header.replace(/\r?\n(?=[ \t])/g, '')
}

class PartReading implements Reading {
  readonly #window: SearchWindow
  readonly #encoding: string | undefined
  readonly #reader: TextReader

  constructor(needles: readonly string[], encoding: string | undefined, reader: TextReader) {
    this.#window = new SearchWindow(needles)
    this.#encoding = encoding
    this.#reader = reader
  }

  get found(): ReadonlySet<string> {
    return this.#window.found
  }

  push(bytes: Buffer, last: boolean): void {
    this.#window.push(this.#reader.decode(decodeBody(bytes, this.#encoding), { stream: !last }), last)
  }
}

class HeaderReading implements Reading {
  readonly #window: SearchWindow

  constructor(needles: readonly string[]) {
    this.#window = new SearchWindow(needles)
  }

  get found(): ReadonlySet<string> {
    return this.#window.found
  }

  push(bytes: Buffer, last: boolean): void {
    this.#window.push(decodeEncodedWords(unfolded(bytes.toString('latin1'))), last)
  }
}

/** Folds text that comes in pieces, and finds strings in it. */
class SearchWindow {
  readonly found = new Set<string>()
  #left: readonly string[]
  /** Not folded yet. */
  #rest = ''
  /** Folded, and searched: a string may begin in it. */
  #tail = ''
  readonly #overlap: number

  constructor(needles: readonly string[]) {
    this.#left = [...new Set(needles)]
    this.#overlap = Math.max(0, ...needles.map((needle) => needle.length)) - 1
  }

  push(piece: string, last: boolean): void {
    const text = this.#rest + piece
    let end = last ? text.length : foldableTo(text)
    if (text.length - end > CARRY_MAX) end = text.length
    this.#rest = text.slice(end)
    if (this.#left.length === 0) return
    const folded = this.#tail + foldText(text.slice(0, end))
    this.#left = this.#left.filter((needle) => {
      if (!folded.includes(needle)) return true
      this.found.add(needle)
      return false
    })
    this.#tail = this.#overlap > 0 ? folded.slice(-this.#overlap) : ''
  }
}

/** Before the last character that begins something: marks are sorted among themselves when they are decomposed. */
function foldableTo(text: string): number {
  let at = text.length - 1
  while (at > 0 && !BEGINS.test(text.slice(isLow(text, at) ? at - 1 : at, at + 1))) at -= isLow(text, at) ? 2 : 1
  if (at > 0 && isLow(text, at)) at--
  return Math.max(0, at)
}
// Halfwidth sound marks are letters that are decomposed to marks.
const BEGINS = /^[^\p{M}\uff9e\uff9f]/u

function isLow(text: string, at: number): boolean {
  const unit = text.charCodeAt(at)
  return (
    unit >= 0xdc00 && unit <= 0xdfff && at > 0 && text.charCodeAt(at - 1) >= 0xd800 && text.charCodeAt(at - 1) <= 0xdbff
  )
}

/** Anywhere, since readers remember; but the first piece has to show a byte order mark. */
function cutTwo(bytes: Buffer): number {
  return bytes.length < 2 ? 0 : bytes.length
}

/** Behind whole groups of four letters: padding ends a group, and what is no letter belongs to none. */
function cutBase64(bytes: Buffer): number {
  let letters = 0
  let end = 0
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]!
    if (byte === EQUALS) letters = 0
    else if (isBase64(byte)) letters++
    if (letters % 4 === 0) end = i + 1
  }
  return end < 8 ? 0 : end
}

function isBase64(byte: number): boolean {
  return (
    (byte >= 0x41 && byte <= 0x5a) ||
    (byte >= 0x61 && byte <= 0x7a) ||
    (byte >= 0x30 && byte <= 0x39) ||
    byte === 0x2b ||
    byte === 0x2f
  )
}

/** Behind a line end; else behind what is neither a blank, which may be padding, nor near a code. */
function cutQuotedPrintable(bytes: Buffer): number {
  const line = bytes.lastIndexOf(LF) + 1
  if (line > 8) return line
  for (let end = bytes.length; end > 8; end--) {
    const byte = bytes[end - 1]!
    if (byte === SPACE || byte === TAB || byte === CR || byte === EQUALS) continue
    if (bytes[end - 2] !== EQUALS && bytes[end - 3] !== EQUALS) return end
  }
  return 0
}

/** Before a line that begins a field. */
function cutFields(bytes: Buffer): number {
  for (let at = bytes.lastIndexOf(LF); at > 0; at = bytes.lastIndexOf(LF, at - 1)) {
    const next = bytes[at + 1]
    if (next !== undefined && ((next >= 0x41 && next <= 0x5a) || (next >= 0x61 && next <= 0x7a))) return at + 1
  }
  return 0
}
