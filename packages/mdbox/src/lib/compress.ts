/**
 * Compressed bodies: zstd frames one behind another, each of which can be read alone.
 *
 * FORMAT   value of C := "zstd" [ SP frame ( SP size )+ ]
 *          frame   bytes before compression of every frame but the last, lower-case hex
 *          size    bytes of each frame as stored, lower-case hex
 *          A body of one frame has no list. Z has the size before compression, or if parts lie elsewhere, A.
 *
 * Any zstd decoder takes such a body for one stream: Dovecot with its zlib plugin knows it by the magic in its first bytes.
 *
 * INVARIANTS
 *   1. Checksums (H) are of what is stored, so that copying, checking and purging decompress nothing they need not.
 *   2. Nothing decompresses to more than what was recorded, so no body costs more memory than one frame.
 *   3. Where compression is on, a body that begins as compressed ones do is compressed whatever it costs: whoever knows codecs by
 *      their magic takes none for another.
 */
import { promisify } from 'node:util'
import { constants, zstdCompress, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { latin1, type Trailer } from './format.ts'

/** Bytes before compression of each frame that we write. */
export const FRAME_BYTES: number = 128 * 1024
/** Largest frame that is read, in bytes before compression. */
const FRAME_MAX: number = 1024 * 1024
/** The same as stored: what cannot be compressed grows a little. */
const STORED_FRAME_MAX: number = FRAME_MAX + 64 * 1024
/** Shorter bodies are not compressed, in bytes. */
export const COMPRESS_MIN = 512
/** Level of `auto`. */
const AUTO_LEVEL = 3
/** `auto`: the first frame must lose at least this share. */
const AUTO_SAVING = 1 / 8
/** Highest level: beyond it compressing costs more memory than a server should spend on a message. */
export const LEVEL_MAX = 19
/** Frames that need more memory than 2 to the power of this are not ours. */
const WINDOW_LOG_MAX = 23

/**
 * `auto`: each message if its beginning says that it is worth it. A number: each message of at least COMPRESS_MIN bytes at
 * this zstd level, 1 to LEVEL_MAX.
 */
export type Compression = 'off' | 'auto' | number

const compressLater = promisify(zstdCompress)

/** Up to here a frame is compressed at once, at AUTO_LEVEL and below, and above it; longer ones on another thread. In bytes. */
const AT_ONCE_MAX: number = 32 * 1024
const AT_ONCE_MAX_HIGH: number = 2 * 1024

/** Makes the frames of one body. */
export class Compressor {
  readonly #level: number
  readonly #atOnceMax: number
  readonly #sizes: number[] = []

  constructor(level: number) {
    this.#level = level
    this.#atOnceMax = level <= AUTO_LEVEL ? AT_ONCE_MAX : AT_ONCE_MAX_HIGH
  }

  /** The stored form of the next frame: FRAME_BYTES, or less if it is the last. One after the other. */
  async add(plain: Uint8Array): Promise<Buffer> {
    const how = options(this.#level)
    const stored = plain.length <= this.#atOnceMax ? zstdCompressSync(plain, how) : await compressLater(plain, how)
    this.#sizes.push(stored.length)
    return stored
  }

  /** For the record's metadata. */
  get codec(): string {
    const list =
      this.#sizes.length > 1
        ? ` ${FRAME_BYTES.toString(16)} ${this.#sizes.map((size) => size.toString(16)).join(' ')}`
        : ''
    return `zstd${list}`
  }
}

function options(level: number): { readonly params: Readonly<Record<number, number>> } {
  return { params: { [constants.ZSTD_c_compressionLevel]: level } }
}

/** What compresses a body that begins with `first` (all of it, or a frame's worth), with that first frame; undefined: keep it as it is. */
export async function compressorOf(
  policy: Compression,
  first: Uint8Array,
): Promise<{ readonly compressor: Compressor; readonly stored: Buffer } | undefined> {
  if (policy === 'off') return undefined
  const must = magicOf(first) !== undefined
  if (first.length < COMPRESS_MIN && !must) return undefined
  const compressor = new Compressor(policy === 'auto' ? AUTO_LEVEL : policy)
  const stored = await compressor.add(first)
  const most = policy === 'auto' ? first.length * (1 - AUTO_SAVING) : first.length
  return must || stored.length < most ? { compressor, stored } : undefined
}

export interface Compressed {
  readonly parts: readonly Buffer[]
  readonly compressor: Compressor
}

/** The frames of a body in memory; undefined: keep it as it is. */
export async function compressAll(
  policy: Compression,
  chunks: readonly Uint8Array[],
  bytes: number,
): Promise<Compressed | undefined> {
  if (policy === 'off' || bytes === 0) return undefined
  const body = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, bytes)
  const begun = await compressorOf(policy, body.subarray(0, FRAME_BYTES))
  if (begun === undefined) return undefined
  const parts = [begun.stored]
  for (let at = FRAME_BYTES; at < bytes; at += FRAME_BYTES)
    parts.push(await begun.compressor.add(body.subarray(at, at + FRAME_BYTES)))
  return { parts, compressor: begun.compressor }
}

/** The stored form of a stream. Calls `began` with what compresses it, unless it is kept as it is. */
export async function* compressing(
  policy: Compression,
  source: AsyncIterable<Uint8Array>,
  began: (compressor: Compressor) => void,
): AsyncGenerator<Uint8Array, void, undefined> {
  let compressor: Compressor | undefined
  let plain = policy === 'off'
  let waiting: Uint8Array[] = []
  let bytes = 0
  const frame = (): Buffer => {
    const all = Buffer.concat(waiting, bytes)
    const taken = all.subarray(0, FRAME_BYTES)
    waiting = all.length > FRAME_BYTES ? [all.subarray(FRAME_BYTES)] : []
    bytes -= taken.length
    return taken
  }
  const next = async function* (): AsyncGenerator<Uint8Array, void, undefined> {
    const taken = frame()
    if (compressor !== undefined) {
      yield await compressor.add(taken)
      return
    }
    const begun = await compressorOf(policy, taken)
    plain = begun === undefined
    if (begun !== undefined) {
      compressor = begun.compressor
      began(compressor)
    }
    yield begun?.stored ?? taken
  }
  for await (const chunk of source) {
    if (plain) {
      yield chunk
      continue
    }
    waiting.push(chunk)
    bytes += chunk.length
    while (bytes >= FRAME_BYTES && !plain) yield* next()
    if (!plain || bytes === 0) continue
    yield* waiting
    waiting = []
    bytes = 0
  }
  if (bytes > 0) yield* next()
}

/** Frames of a body, as its record says. */
export interface Frames {
  /** Bytes of the body before compression. */
  readonly plainSize: number
  /** Bytes before compression of every frame but the last. */
  readonly frameBytes: number
  /** Where each frame ends among the stored bytes. */
  readonly ends: Float64Array
}

/**
 * Reads C and Z. Undefined: the body is not compressed by us. A string says what is wrong: it names a codec that is not
 * known, or does not fit the size.
 */
export function readFrames(
  bytes: Uint8Array,
  trailer: Trailer,
  storedSize: number,
  plainSize: number,
): Frames | string | undefined {
  if (trailer.codecAt < 0) return undefined
  const text = latin1(bytes, trailer.codecAt, trailer.codecEnd)
  const [codec, frame, ...sizes] = text.split(' ')
  if (codec !== 'zstd') return `the codec ${JSON.stringify(text.slice(0, 20))} is not known`
  if (plainSize < 0) return 'its size before compression is missing'
  if (frame === undefined)
    return plainSize <= FRAME_MAX && storedSize <= STORED_FRAME_MAX
      ? { plainSize, frameBytes: Math.max(1, plainSize), ends: Float64Array.of(storedSize) }
      : `a frame of ${plainSize} bytes`
  const frameBytes = number(frame)
  const ends = new Float64Array(sizes.length)
  let end = 0
  for (const [i, size] of sizes.entries()) {
    const length = number(size)
    if (!(length > 0 && length <= STORED_FRAME_MAX)) return 'the list of its frames is unreadable'
    end += length
    ends[i] = end
  }
  if (!(frameBytes > 0 && frameBytes <= FRAME_MAX)) return 'the size of its frames is unreadable'
  if (end !== storedSize || Math.ceil(plainSize / frameBytes) !== sizes.length)
    return 'the list of its frames does not fit the size'
  return { plainSize, frameBytes, ends }
}

function number(text: string): number {
  return /^[1-9a-f][0-9a-f]{0,7}$/.test(text) ? Number.parseInt(text, 16) : Number.NaN
}

/** Bytes before compression of frame `index`. */
export function frameLength({ plainSize, frameBytes }: Frames, index: number): number {
  return Math.min(frameBytes, plainSize - index * frameBytes)
}

/** The plain bytes of one frame; undefined if it does not decompress to as many as it should. */
export function expandFrame(stored: Uint8Array, length: number): Buffer | undefined {
  try {
    const plain = zstdDecompressSync(stored, {
      maxOutputLength: Math.max(1, length),
      chunkSize: Math.max(64, length),
      params: { [constants.ZSTD_d_windowLogMax]: WINDOW_LOG_MAX },
    })
    return plain.length === length ? plain : undefined
  } catch {
    return undefined
  }
}

export type Magic = 'gz' | 'bz2' | 'zstd' | 'lz4' | 'xz'

/** The codec that whoever goes by the first bytes of a body takes it for. */
export function magicOf(bytes: Uint8Array): Magic | undefined {
  const begins = (...magic: readonly number[]): boolean => magic.every((byte, i) => bytes[i] === byte)
  if (begins(0x1f, 0x8b)) return 'gz'
  if (begins(0x42, 0x5a, 0x68) && bytes[3]! >= 0x31 && bytes[3]! <= 0x39) return 'bz2'
  if (begins(0x28, 0xb5, 0x2f, 0xfd)) return 'zstd'
  if (begins(...LZ4_MAGIC)) return 'lz4'
  if (begins(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0)) return 'xz'
  return undefined
}

/** "Dovecot-LZ4" 0D 2A 9B C5: a format of Dovecot's own. */
const LZ4_MAGIC: readonly number[] = [...Buffer.from('Dovecot-LZ4\r\x2a\x9b\xc5', 'latin1')]
