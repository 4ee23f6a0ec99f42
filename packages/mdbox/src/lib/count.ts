/**
 * Line ends: what decides whether stored bytes are the canonical form, and how long that form is.
 *
 * Every byte that is saved or verified goes by here. Sixteen at a time they cost less than half of what their CRC-32 does; a search
 * from LF to LF costs twice that. JavaScript has no such instructions, WebAssembly does, so this is a program of 186 bytes in it: `COUNTER`.
 * It sees its own memory only. Who reads much, again and again, reads into that memory (`CountedMemory`), and bytes are counted
 * where they are; others are copied to one of its pages, which is still in the processor's cache when it is read there. Where there
 * is no WebAssembly, or none with vectors, the search does it.
 */

const LF = 0x0a
const CR = 0x0d
/** Bytes counted at a time, of those that are copied. */
const PIECE_BYTES = 64 * 1024
/** Bytes of a vector. */
const VECTOR_BYTES = 16
/** Of the memory of WebAssembly. */
const PAGE_BYTES = 64 * 1024

/** Number of LFs without a CR before them. `before` is the byte before the first (0 at the beginning of a message). */
export function countLoneLf(bytes: Uint8Array, before: number): number {
  if (reading !== undefined && bytes.buffer === reading.memory.buffer)
    return countWhereItIs(reading, bytes, bytes.byteOffset, before)
  counter ??= newCounter(1)
  if (counter === 'none') return searchLoneLf(bytes, before)
  let lone = 0
  let last = before
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    const piece = bytes.length <= PIECE_BYTES ? bytes : bytes.subarray(at, at + PIECE_BYTES)
    counter.memory.set(piece)
    lone += countWhereItIs(counter, piece, 0, last)
    last = piece[piece.length - 1]!
  }
  return lone
}

/** Of bytes that lie at `from` in the counter's memory: the first and what is left of the last vector by hand. */
function countWhereItIs({ count }: Counter, bytes: Uint8Array, from: number, before: number): number {
  const { length } = bytes
  if (length === 0) return 0
  const vectors = length - 1 - ((length - 1) % VECTOR_BYTES)
  let lone = bytes[0] === LF && before !== CR ? 1 : 0
  if (vectors > 0) lone += count(from, from + vectors)
  for (let i = 1 + vectors; i < length; i++) if (bytes[i] === LF && bytes[i - 1] !== CR) lone++
  return lone
}

/** The same, from one LF to the next. */
export function searchLoneLf(bytes: Uint8Array, before: number): number {
  let lone = 0
  for (let at = bytes.indexOf(LF); at >= 0; at = bytes.indexOf(LF, at + 1))
    if ((at === 0 ? before : bytes[at - 1]) !== CR) lone++
  return lone
}

/**
 * Memory to read into, whose bytes are counted where they are. There is one of that at a time: who comes while it is used, or
 * wants more than there is, gets other memory. It may be used again when nobody holds it any more, or be let go.
 */
export class CountedMemory implements Disposable {
  readonly #counter: Counter | undefined
  #taken = 0

  /** `bytes`: all that will be taken, at most. */
  constructor(bytes: number) {
    if (reading !== undefined) return
    const last = spare?.deref()
    const made = last !== undefined && last.memory.length >= bytes ? last : newCounter(Math.ceil(bytes / PAGE_BYTES))
    if (made !== 'none') this.#counter = reading = made
  }

  /** What is in it is nobody's business. */
  take(bytes: number): Uint8Array {
    const memory = this.#counter?.memory
    if (memory === undefined || this.#taken + bytes > memory.length) return new Uint8Array(bytes)
    this.#taken += bytes
    return memory.subarray(this.#taken - bytes, this.#taken)
  }

  /** Nobody looks at what was taken any more. */
  [Symbol.dispose](): void {
    if (this.#counter === undefined || reading !== this.#counter) return
    reading = undefined
    spare = new WeakRef(this.#counter)
  }
}

interface Counter {
  readonly memory: Uint8Array
  /** Of the bytes behind the one at `from`, up to `to`, which is there. Their number is a multiple of VECTOR_BYTES. */
  readonly count: (from: number, to: number) => number
}

/** What is used of WebAssembly, whose types belong to the browser's library. */
interface Wasm {
  validate(program: Uint8Array): boolean
  readonly Module: new (program: Uint8Array) => object
  readonly Instance: new (
    module: object,
  ) => {
    readonly exports: {
      readonly m: { readonly buffer: ArrayBuffer }
      readonly f: (from: number, to: number) => number
    }
  }
}

let counter: Counter | 'none' | undefined
/** Whose memory is read into. */
let reading: Counter | undefined
/** What was read into last. */
let spare: WeakRef<Counter> | undefined

function newCounter(pages: number): Counter | 'none' {
  const { WebAssembly: wasm } = globalThis as { readonly WebAssembly?: Wasm }
  const program = Buffer.from(COUNTER.replace(/;.*|\s/g, ''), 'hex')
  program[PAGES_AT] = (pages & 0x7f) | 0x80
  program[PAGES_AT + 1] = pages >> 7
  if (wasm?.validate(program) !== true) return 'none'
  try {
    const { m, f } = new wasm.Instance(new wasm.Module(program)).exports
    return { memory: new Uint8Array(m.buffer), count: f }
  } catch (error) {
    // No room for the memory, which takes much more of addresses than of memory.
    if (error instanceof RangeError) return 'none'
    throw error
  }
}

/** Where the number of pages is in the program, in two bytes of seven bits. */
const PAGES_AT = 25
/** Memory `m`, function `f`. A vector of bytes counts up to 255 in each, then they are added up. */
const COUNTER = `
  0061736d 01000000      ; magic, version
  01 07 01 60 02 7f 7f 01 7f  ; type 0: (i32, i32) -> i32
  03 02 01 00            ; function 0 is of type 0
  05 04 01 00 80 00      ; memory 0: so many pages
  07 09 02 01 6d 02 00 01 66 00 00  ; exports m: memory 0, f: function 0
  0a 91 01 01 8e 01  ; code of function 0
  02 01 7f 02 7b  ; locals: 2 stop; vectors 3 each, 4 all (0 is from, which goes on, 1 is to)
  02 40  ; block
  03 40  ;   loop
  20 00 20 01 4f 0d 01  ;     leave if from >= to
  fd 0c 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 21 03  ;     each = 0
  20 00 41 f0 1f 6a 22 02  ;     stop = from + 255 * 16
  20 01 20 02 20 01 49 1b 21 02  ;     or to, if that is less
  03 40  ;     loop
  20 03  ;       each
  20 00 fd 00 00 01 41 0a fd 0f fd 23  ;       bytes at from + 1 that are LF
  20 00 fd 00 00 00 41 0d fd 0f fd 23  ;       those before them that are CR
  fd 4f fd 71 21 03  ;       each += the one and not the other (which is -1)
  20 00 41 10 6a 22 00  ;       from += 16
  20 02 49 0d 00 0b  ;       again if from < stop
  20 04 20 03 fd 7d fd 7f fd ae 01 21 04  ;     all += sums of four of each
  0c 00 0b 0b  ;     again
  20 04 fd 1b 00 20 04 fd 1b 01 6a 20 04 fd 1b 02 6a 20 04 fd 1b 03 6a 0b  ; sum of the four of all
`
