/**
 * lz4 as Dovecot's zlib plugin writes it: a format of its own around LZ4 blocks.
 *
 * FORMAT   15 bytes  "Dovecot-LZ4" 0D 2A 9B C5
 *          u32 big-endian, the most that a chunk holds before compression
 *          chunks: u32 big-endian, its size; a block of that size
 *
 * A block is sequences, each a byte (high half: literals, low half: length of the match less four), more bytes for each half that
 * is 15 (255 goes on), the literals, and how far back the match is (u16 little-endian). The last sequence has no match.
 * There is no checksum.
 */
import { BoxError } from '@mailstead/box'

const MAGIC = Buffer.from('Dovecot-LZ4\r\x2a\x9b\xc5', 'latin1')
export const LZ4_MAGIC_BYTES: number = MAGIC.length
const HEAD_BYTES = MAGIC.length + 4
/** Dovecot writes chunks of 64 KiB. */
const CHUNK_MAX: number = 4 * 1024 * 1024
const MATCH_MIN = 4

export function isLz4(first: Uint8Array): boolean {
  return first.length >= MAGIC.length && Buffer.compare(first.subarray(0, MAGIC.length), MAGIC) === 0
}

/** BOX_DAMAGED if it is not whole. */
export async function* unlz4(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  const input = new Input(source)
  const head = await input.take(HEAD_BYTES)
  if (!isLz4(head)) throw damaged('no header')
  const most = u32(head, MAGIC.length)
  if (most === 0 || most > CHUNK_MAX) throw damaged(`chunks of ${most} bytes`)
  const out = new Uint8Array(most)
  while (await input.more()) {
    const size = u32(await input.take(4), 0)
    // What cannot be compressed grows by no more than this.
    if (size === 0 || size > most + Math.floor(most / 255) + 16) throw damaged(`a chunk of ${size} bytes`)
    yield out.slice(0, expandBlock(await input.take(size), out))
  }
}

/** Expands a block into `out`; the number of its bytes. */
export function expandBlock(block: Uint8Array, out: Uint8Array): number {
  let at = 0
  let to = 0
  for (;;) {
    if (at >= block.length) throw damaged('a block ends without its last literals')
    const token = block[at++]!
    let literals = token >> 4
    if (literals === 15) {
      let more = 255
      while (more === 255) {
        if (at >= block.length) throw damaged('a length is not whole')
        more = block[at++]!
        literals += more
      }
    }
    if (literals > block.length - at || literals > out.length - to) throw damaged('literals beyond the end')
    out.set(block.subarray(at, at + literals), to)
    at += literals
    to += literals
    if (at === block.length) return to
    if (block.length - at < 2) throw damaged('a match is not whole')
    const back = block[at]! | (block[at + 1]! << 8)
    at += 2
    let length = (token & 15) + MATCH_MIN
    if ((token & 15) === 15) {
      let more = 255
      while (more === 255) {
        if (at >= block.length) throw damaged('a length is not whole')
        more = block[at++]!
        length += more
      }
    }
    if (back === 0 || back > to || length > out.length - to) throw damaged('a match outside of its block')
    // A match may reach into itself, so it is copied byte by byte.
    for (let i = 0; i < length; i++) out[to + i] = out[to - back + i]!
    to += length
  }
}

/** Bytes of a source, by as many as are asked for. */
class Input {
  readonly #iterator: AsyncIterator<Uint8Array>
  #held: Uint8Array = new Uint8Array(0)

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#iterator = source[Symbol.asyncIterator]()
  }

  async more(): Promise<boolean> {
    while (this.#held.length === 0) {
      const next = await this.#iterator.next()
      if (next.done === true) return false
      this.#held = next.value
    }
    return true
  }

  async take(count: number): Promise<Uint8Array> {
    const parts: Uint8Array[] = []
    let missing = count
    while (missing > 0) {
      if (!(await this.more())) throw damaged('it ends too early')
      const part = this.#held.subarray(0, missing)
      parts.push(part)
      missing -= part.length
      this.#held = this.#held.subarray(part.length)
    }
    return parts.length === 1 ? parts[0]! : Buffer.concat(parts)
  }
}

function u32(bytes: Uint8Array, at: number): number {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).readUInt32BE(at)
}

function damaged(what: string): BoxError {
  return new BoxError('BOX_DAMAGED', `lz4: ${what}`)
}
