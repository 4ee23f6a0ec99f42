/**
 * Line ends: what decides whether stored bytes are the canonical form, and how long that form is.
 *
 * Every byte that is saved or verified goes by here. Sixteen at a time they cost half of what their CRC-32 does; a search
 * from LF to LF costs twice that. JavaScript has no such instructions, WebAssembly does, so this is a program of 184 bytes in it: `COUNTER`.
 * Bytes are copied to its memory, which is still in the processor's cache when they are read there. Where there is no
 * WebAssembly, or none with vectors, the search does it.
 */

const LF = 0x0a
const CR = 0x0d
/** Bytes counted at a time. */
const PIECE_BYTES = 64 * 1024
/** Bytes of a vector. Before the first piece lies one, whose last byte is the one before. */
const VECTOR_BYTES = 16

/** Number of LFs without a CR before them. `before` is the byte before the first (0 at the beginning of a message). */
export function countLoneLf(bytes: Uint8Array, before: number): number {
  counter ??= newCounter()
  if (counter === 'none') return searchLoneLf(bytes, before)
  const { memory, count } = counter
  let lone = 0
  let last = before
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    const piece = bytes.length <= PIECE_BYTES ? bytes : bytes.subarray(at, at + PIECE_BYTES)
    const end = VECTOR_BYTES + piece.length
    memory[VECTOR_BYTES - 1] = last
    memory.set(piece, VECTOR_BYTES)
    // The rest of the last vector.
    memory.fill(0, end, end + VECTOR_BYTES)
    lone += count(piece.length)
    last = piece[piece.length - 1]!
  }
  return lone
}

/** The same, from one LF to the next. */
export function searchLoneLf(bytes: Uint8Array, before: number): number {
  let lone = 0
  for (let at = bytes.indexOf(LF); at >= 0; at = bytes.indexOf(LF, at + 1))
    if ((at === 0 ? before : bytes[at - 1]) !== CR) lone++
  return lone
}

interface Counter {
  readonly memory: Uint8Array
  /** Of so many bytes from VECTOR_BYTES on. */
  readonly count: (bytes: number) => number
}

/** What is used of WebAssembly, whose types belong to the browser's library. */
interface Wasm {
  validate(program: Uint8Array): boolean
  readonly Module: new (program: Uint8Array) => object
  readonly Instance: new (
    module: object,
  ) => { readonly exports: { readonly m: { readonly buffer: ArrayBuffer }; readonly f: (bytes: number) => number } }
}

let counter: Counter | 'none' | undefined

function newCounter(): Counter | 'none' {
  const { WebAssembly: wasm } = globalThis as { readonly WebAssembly?: Wasm }
  const program = Buffer.from(COUNTER.replace(/;.*|\s/g, ''), 'hex')
  if (wasm?.validate(program) !== true) return 'none'
  const { m, f } = new wasm.Instance(new wasm.Module(program)).exports
  return { memory: new Uint8Array(m.buffer), count: f }
}

/** Memory `m` of two pages, function `f`. A vector of bytes counts up to 255 in each, then they are added up. */
const COUNTER = `
  0061736d 01000000      ; magic, version
  01 06 01 60 01 7f 01 7f  ; type 0: (i32) -> i32
  03 02 01 00            ; function 0 is of type 0
  05 03 01 00 02         ; memory 0: two pages
  07 09 02 01 6d 02 00 01 66 00 00  ; exports m: memory 0, f: function 0
  0a 91 01 01 8e 01  ; code of function 0
  02 02 7f 02 7b  ; locals: 1 at, 2 stop; vectors 3 each, 4 all (0 is the number of bytes)
  02 40  ; block
  03 40  ;   loop
  20 01 20 00 4f 0d 01  ;     leave if at >= bytes
  fd 0c 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 21 03  ;     each = 0
  20 01 41 f0 1f 6a 22 02  ;     stop = at + 255 * 16
  20 00 20 02 20 00 49 1b 21 02  ;     or bytes, if that is less
  03 40  ;     loop
  20 03  ;       each
  20 01 fd 00 00 10 41 0a fd 0f fd 23  ;       bytes at 16 + at that are LF
  20 01 fd 00 00 0f 41 0d fd 0f fd 23  ;       those before them that are CR
  fd 4f fd 71 21 03  ;       each += the one and not the other (which is -1)
  20 01 41 10 6a 22 01  ;       at += 16
  20 02 49 0d 00 0b  ;       again if at < stop
  20 04 20 03 fd 7d fd 7f fd ae 01 21 04  ;     all += sums of four of each
  0c 00 0b 0b  ;     again
  20 04 fd 1b 00 20 04 fd 1b 01 6a 20 04 fd 1b 02 6a 20 04 fd 1b 03 6a 0b  ; sum of the four of all
`
