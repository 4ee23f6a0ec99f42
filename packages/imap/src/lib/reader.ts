/**
 * Cuts a byte stream into IMAP commands. No I/O, no callbacks, nothing allocated per byte.
 *
 * A command is text up to CRLF (a lone LF is accepted), and where that text ends in `{n}` or `{n+}` (RFC 9051 §4.3,
 * RFC 7888) n bytes of literal and more text. `next` says what is there:
 *
 *   'more'        everything pushed so far is used up
 *   'command'     `command` is a whole command, literals included as they came, without the last line end
 *   'continue'    the client waits for `+` before it sends its literal; answer, then call `next` again
 *   'append'      APPEND's next message: `command` is the text up to the literal (for the first one from the tag on,
 *                 later from after the literal before), `literalSize` and `literalSync` tell of the literal.
 *                 Call `accept` and read `data`, or `skip`, or (`literalSync` only) `abandon`
 *   'append-end'  `command` is what followed the last message
 *   'line'        the plain line asked for by `expectLine`
 *   'refused'     the command broke a limit and is swallowed; `refusedTag`, `refusal`
 *   'skipped'     what `skip` was to skip is skipped: the command is over
 *   'fatal'       there is no way to find the next command: say BYE
 *
 * INVARIANTS
 *   1. The answer depends on the bytes alone, not on how they are cut into chunks.
 *   2. Memory is bounded by the limits: text, literals and commands that are too long are thrown away as they come.
 *   3. Framing never depends on the grammar of a command, so a bad command cannot make its literal a command.
 *   4. `command` may share memory with a pushed chunk; it is valid until the next call of `next` or `push`.
 *   5. Between commands nothing is held.
 */
import type { ImapLimits } from './limits.ts'

export type ReaderEvent =
  | 'more'
  | 'command'
  | 'continue'
  | 'append'
  | 'append-end'
  | 'line'
  | 'refused'
  | 'skipped'
  | 'fatal'

export type ReaderLimits = Pick<ImapLimits, 'lineBytes' | 'literalBytes' | 'commandBytes' | 'swallowBytes'>

type Mode = 'text' | 'literal' | 'decide' | 'stream' | 'skip-text' | 'skip-literal' | 'plain'

const LF = 10
const CR = 13
const SPACE = 32
const QUOTE = 0x22
const OPEN = 0x28
const PLUS = 0x2b
const ZERO = 0x30
const BACKSLASH = 0x5c
const BRACE = 0x7b
const UNBRACE = 0x7d
const TILDE = 0x7e

const empty: Buffer = Buffer.alloc(0)
/** Room for ` ~{18446744073709551615+}` CR LF: what must be remembered of a skipped line to see a literal at its end. */
const TAIL_BYTES = 32
const NO_LITERAL = -1
/** In place of the end of a line that holds no literal: no line has it. */
const PLAIN = '\n\n'

export class CommandReader {
  /** See above. */
  command: Buffer = empty
  literalSize = 0
  literalSync = false
  refusedTag: string | undefined = undefined
  refusal = ''

  #limits: ReaderLimits
  #chunk: Buffer = empty
  #at = 0
  /** Where the current command begins in `#chunk`, while it lies in one chunk. */
  #start = 0
  #queue: Buffer[] | undefined = undefined
  /** The command so far, once it lies in several chunks. */
  #held: Buffer | undefined = undefined
  #heldUsed = 0
  #mode: Mode = 'text'
  /** Bytes of text in this command, and of text and literals. */
  #text = 0
  #total = 0
  /** Offset in the command at which the current piece of text began: after a literal. */
  #pieceStart = 0
  #left = 0
  #append = false
  /** While skipping: the last bytes of the line, and whether it was asked for. */
  #tail = ''
  #asked = false

  constructor(limits: ReaderLimits) {
    this.#limits = limits
  }

  /** From the next command on. */
  setLimits(limits: ReaderLimits): void {
    this.#limits = limits
  }

  /** Bytes of the message that `accept`ed still have to come. */
  get literalLeft(): number {
    return this.#mode === 'stream' ? this.#left : 0
  }

  /** Of an APPEND: its command is over, its literal is yet to be decided on, or it is still inside. */
  get state(): 'over' | 'decide' | 'inside' {
    if (this.#mode === 'decide') return 'decide'
    return this.#append || this.#mode === 'stream' || this.#asked ? 'inside' : 'over'
  }

  /** Between commands, with nothing read of the next. */
  get isIdle(): boolean {
    return (this.#mode === 'text' || this.#mode === 'plain') && this.#total === 0 && this.#at === this.#chunk.length
  }

  /** The chunk belongs to the reader from now on. */
  push(chunk: Buffer): void {
    if (chunk.length === 0) return
    if (this.#at < this.#chunk.length) {
      this.#queue ??= []
      this.#queue.push(chunk)
      return
    }
    this.#release()
    this.#chunk = chunk
  }

  /** Forgets everything that was pushed and not used: STARTTLS. */
  reset(): void {
    this.#chunk = empty
    this.#at = 0
    this.#queue = undefined
    this.#fresh()
    this.#mode = 'text'
  }

  /** The next line is taken as it is, without literals: AUTHENTICATE, IDLE. */
  expectLine(): void {
    this.#mode = 'plain'
  }

  next(): ReaderEvent {
    for (;;) {
      if (this.#at === this.#chunk.length && !this.#advance()) return 'more'
      switch (this.#mode) {
        case 'text':
        case 'plain': {
          const event = this.#readText()
          if (event !== undefined) return event
          break
        }
        case 'literal': {
          const count = Math.min(this.#left, this.#chunk.length - this.#at)
          this.#take(count)
          this.#left -= count
          if (this.#left === 0) {
            this.#mode = 'text'
            this.#pieceStart = this.#total
          }
          break
        }
        case 'skip-text': {
          const event = this.#skipText()
          if (event !== undefined) return event
          break
        }
        case 'skip-literal': {
          const count = Math.min(this.#left, this.#chunk.length - this.#at)
          this.#at += count
          this.#left -= count
          if (this.#left === 0) this.#mode = 'skip-text'
          break
        }
        case 'decide':
        case 'stream':
          throw new Error('a message of APPEND must be accepted, read, skipped or abandoned first')
      }
    }
  }

  /** After 'append': the literal is wanted. Read it with `data`. */
  accept(): void {
    this.#left = this.literalSize
    this.#mode = 'stream'
    this.#forget()
    if (this.#left === 0) this.#endOfMessage()
  }

  /** The next bytes of the message; undefined if more must be pushed first, or the message is complete (`literalLeft`). */
  data(): Buffer | undefined {
    if (this.#mode !== 'stream') return undefined
    if (this.#at === this.#chunk.length && !this.#advance()) return undefined
    const end = Math.min(this.#chunk.length, this.#at + this.#left)
    const piece = this.#chunk.subarray(this.#at, end)
    this.#left -= end - this.#at
    this.#at = end
    if (this.#left === 0) this.#endOfMessage()
    return piece
  }

  /** After 'append' or inside its literal: the rest of the command is thrown away; then comes 'skipped'. */
  skip(): void {
    this.#asked = true
    if (this.#mode === 'decide') this.#left = this.literalSync ? 0 : this.literalSize
    else if (this.#mode !== 'stream') this.#left = 0
    if (this.#mode === 'decide' && this.literalSync) throw new Error('the client waits: abandon')
    this.#forget()
    this.#tail = ''
    this.#mode = this.#left > 0 ? 'skip-literal' : 'skip-text'
  }

  /** After 'append' of a synchronizing literal: it will not be sent, the command is over. */
  abandon(): void {
    this.#fresh()
    this.#mode = 'text'
  }

  #endOfMessage(): void {
    this.#forget()
    // The limit of a line is for each message's part of it.
    this.#text = 0
    this.#append = true
    this.#mode = 'text'
  }

  /** The text so far is done with; the command goes on. */
  #forget(): void {
    this.#held = undefined
    this.#heldUsed = 0
    this.#start = this.#at
    this.#pieceStart = 0
    this.#total = 0
  }

  #fresh(): void {
    this.#forget()
    this.#text = 0
    this.#left = 0
    this.#append = false
    this.#asked = false
    this.#tail = ''
  }

  /** Lets a used chunk go. What the command still needs of it is held. */
  #release(): void {
    if (this.#held === undefined && this.#total > 0) this.#hold(this.#chunk, this.#start, this.#chunk.length)
    this.#chunk = empty
    this.#at = 0
    this.#start = 0
  }

  /** The next chunk, or false if there is none. */
  #advance(): boolean {
    this.#release()
    const queue = this.#queue
    if (queue === undefined) return false
    this.#chunk = queue.shift()!
    if (queue.length === 0) this.#queue = undefined
    return true
  }

  #hold(from: Buffer, start: number, end: number): void {
    const count = end - start
    let held = this.#held
    if (held === undefined || this.#heldUsed + count > held.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(256, 2 * (this.#heldUsed + count)))
      if (held !== undefined) held.copy(larger, 0, 0, this.#heldUsed)
      held = larger
      this.#held = held
    }
    from.copy(held, this.#heldUsed, start, end)
    this.#heldUsed += count
  }

  #take(count: number): void {
    if (this.#held !== undefined) this.#hold(this.#chunk, this.#at, this.#at + count)
    this.#at += count
    this.#total += count
  }

  #view(): Buffer {
    return this.#held === undefined
      ? this.#chunk.subarray(this.#start, this.#at)
      : this.#held.subarray(0, this.#heldUsed)
  }

  #readText(): ReaderEvent | undefined {
    const chunk = this.#chunk
    const lf = chunk.indexOf(LF, this.#at)
    const end = lf < 0 ? chunk.length : lf + 1
    if (this.#text + end - this.#at > this.#limits.lineBytes) {
      const wasPlain = this.#mode === 'plain'
      this.#refuse('The line is too long.')
      // A plain line holds no literal.
      if (wasPlain) this.#tail = PLAIN
      return undefined
    }
    this.#text += end - this.#at
    this.#take(end - this.#at)
    if (lf < 0) return undefined
    const view = this.#view()
    let length = view.length - 1
    if (length > 0 && view[length - 1] === CR) length--
    if (this.#mode === 'plain') {
      this.command = view.subarray(0, length)
      this.#fresh()
      this.#mode = 'text'
      return 'line'
    }
    const brace = this.#literalAt(view, length)
    if (brace === NO_LITERAL) {
      this.command = view.subarray(0, length)
      const event = this.#append ? 'append-end' : 'command'
      this.#fresh()
      return event
    }
    if (this.#append || isAppend(view, brace)) {
      this.command = view.subarray(0, brace)
      this.#append = true
      this.#mode = 'decide'
      return 'append'
    }
    if (this.literalSize > this.#limits.literalBytes || this.#total + this.literalSize > this.#limits.commandBytes) {
      const sync = this.literalSync
      const size = this.literalSize
      this.#refuse('The literal is too large.')
      this.#tail = ''
      if (sync) {
        this.#fresh()
        this.#mode = 'text'
        return 'refused'
      }
      if (size > this.#limits.swallowBytes) return 'fatal'
      this.#left = size
      if (size > 0) this.#mode = 'skip-literal'
      return undefined
    }
    this.#left = this.literalSize
    if (this.#left > 0) this.#mode = 'literal'
    else this.#pieceStart = this.#total
    return this.literalSync ? 'continue' : undefined
  }

  /**
   * Where the literal's announcement begins in the line that ends at `length`; sets `literalSize` and `literalSync`.
   * It must stand where a string may (after a space or a parenthesis) and outside quotes.
   */
  #literalAt(view: Buffer, length: number): number {
    if (length < 3 || view[length - 1] !== UNBRACE) return NO_LITERAL
    let at = length - 2
    const plus = view[at] === PLUS
    if (plus) at--
    let size = 0
    let scale = 1
    let digits = 0
    for (let byte = view[at]!; at > this.#pieceStart && byte >= ZERO && byte <= ZERO + 9; byte = view[--at]!) {
      size += (byte - ZERO) * scale
      scale *= 10
      if (++digits > 20) return NO_LITERAL
    }
    if (digits === 0 || view[at] !== BRACE || at <= this.#pieceStart) return NO_LITERAL
    let before = view[at - 1]
    let start = at
    if (before === TILDE && at - 1 > this.#pieceStart) {
      start = at - 1
      before = view[at - 2]
    }
    if (before !== SPACE && before !== OPEN) return NO_LITERAL
    let quoted = false
    for (let i = this.#pieceStart; i < start; i++) {
      const byte = view[i]
      if (quoted && byte === BACKSLASH) i++
      else if (byte === QUOTE) quoted = !quoted
    }
    if (quoted) return NO_LITERAL
    this.literalSize = size
    this.literalSync = !plus
    return at
  }

  #refuse(why: string): void {
    // A limit broken while APPEND is read is told the same way; the engine knows its tag.
    this.refusedTag = this.#append
      ? undefined
      : tagOf(Buffer.concat([this.#view().subarray(0, 256), this.#firstBytes()]))
    this.refusal = why
    const append = this.#append
    // What was taken of the line may be the beginning of a literal's announcement.
    const taken = this.#view()
    const tail = taken.toString('latin1', Math.max(this.#pieceStart, taken.length - TAIL_BYTES))
    this.#fresh()
    this.#append = append
    this.#tail = tail
    this.#mode = 'skip-text'
  }

  /** What is next in the chunk: not taken where the line would be longer than its limit. */
  #firstBytes(): Buffer {
    return this.#chunk.subarray(this.#at, Math.min(this.#chunk.length, this.#at + 256))
  }

  #skipText(): ReaderEvent | undefined {
    const chunk = this.#chunk
    const lf = chunk.indexOf(LF, this.#at)
    const end = lf < 0 ? chunk.length : lf + 1
    // Only the end of the line matters: whether a literal follows.
    const plain = this.#tail === PLAIN
    if (!plain)
      this.#tail = (this.#tail + chunk.toString('latin1', Math.max(this.#at, end - TAIL_BYTES), end)).slice(-TAIL_BYTES)
    this.#at = end
    this.#start = end
    if (lf < 0) return undefined
    const literal = plain ? null : /[ (]~?\{([0-9]{1,20})(\+?)\}\r?\n$/.exec(this.#tail)
    this.#tail = ''
    if (literal !== null && literal[2] === '+') {
      const size = Number(literal[1])
      if (size > this.#limits.swallowBytes) return 'fatal'
      this.#left = size
      if (size > 0) this.#mode = 'skip-literal'
      return undefined
    }
    // A synchronizing literal is not sent unless asked for, so the command ends here too.
    const event = this.#asked ? 'skipped' : 'refused'
    this.#fresh()
    this.#mode = 'text'
    return event
  }
}

/** Whether the literal announced at `brace` is a message of APPEND, and not its mailbox name. */
function isAppend(view: Buffer, brace: number): boolean {
  const space = view.indexOf(SPACE)
  if (space < 1 || space + 8 > brace) return false
  if (view.toString('latin1', space, space + 8).toUpperCase() !== ' APPEND ') return false
  return brace > space + 8
}

/** The tag a line begins with, if it is one (RFC 9051 §9: tag). */
export function tagOf(line: Uint8Array): string | undefined {
  let end = 0
  while (end < line.length && end < 128 && isTagByte(line[end]!)) end++
  if (end === 0 || (end < line.length && line[end] !== SPACE && line[end] !== CR && line[end] !== LF)) return undefined
  return Buffer.from(line.buffer, line.byteOffset, end).toString('latin1')
}

function isTagByte(byte: number): boolean {
  if (byte <= SPACE || byte >= 0x7f) return false
  // Not ( ) { % * " \ +
  return (
    byte !== OPEN &&
    byte !== 0x29 &&
    byte !== BRACE &&
    byte !== 0x25 &&
    byte !== 0x2a &&
    byte !== QUOTE &&
    byte !== BACKSLASH &&
    byte !== PLUS
  )
}
