/** Blobs in memory, kept once by plain SHA-256; and a whole message through extraction and back. */
import { createHash } from 'node:crypto'
import { type BlobSink, type BlobSource, BLOB_REF_BYTES } from '../src/lib/contract.ts'
import { SisError } from '../src/lib/error.ts'
import { type Extracted, type ExtractOptions, Extraction } from '../src/lib/extract.ts'
import { type Woven, weave } from '../src/lib/weave.ts'

export class MemoryBlobs implements BlobSink, BlobSource {
  readonly kept: Map<string, Buffer> = new Map()
  /** Begun and neither ended nor aborted. */
  begun: number = 0
  /** Whether writes are finished later, as those of a disk are; what was handed over is then changed by nobody else. */
  readonly #late: boolean

  constructor(late = false) {
    this.#late = late
  }

  begin(): ReturnType<BlobSink['begin']> {
    const pieces: Buffer[] = []
    this.begun++
    return {
      write: (bytes) => {
        if (!this.#late) {
          pieces.push(Buffer.from(bytes))
          return
        }
        return Promise.resolve().then(() => void pieces.push(Buffer.from(bytes)))
      },
      end: async () => {
        this.begun--
        const bytes = Buffer.concat(pieces)
        const ref = Buffer.alloc(BLOB_REF_BYTES)
        createHash('sha256').update(bytes).digest().copy(ref)
        const key = ref.toString('hex')
        const shared = this.kept.has(key)
        this.kept.set(key, bytes)
        return Promise.resolve({ ref, size: bytes.length, shared })
      },
      abort: async () => {
        this.begun--
        return Promise.resolve()
      },
    }
  }

  async open(ref: Uint8Array): ReturnType<BlobSource['open']> {
    const key = Buffer.from(ref).toString('hex')
    const bytes = this.kept.get(key)
    if (bytes === undefined) throw new SisError('SIS_NOT_FOUND', 'no such blob', { ref: key })
    return Promise.resolve({
      size: bytes.length,
      read: async (into, position) =>
        Promise.resolve(bytes.copy(into, 0, position, Math.min(bytes.length, position + into.length))),
      async [Symbol.asyncDispose]() {},
    })
  }
}

export interface Stored extends Extracted {
  readonly inline: Buffer
}

/** Writes the message in pieces that end at `cuts`. */
export async function store(
  message: Uint8Array,
  blobs: BlobSink,
  options: ExtractOptions = {},
  cuts: readonly number[] = [],
): Promise<Stored> {
  const kept: Buffer[] = []
  const extraction = new Extraction({ blobs, keep: (bytes) => void kept.push(Buffer.from(bytes)) }, options)
  let at = 0
  for (const cut of [...cuts, message.length]) {
    // A piece whose owner uses it for something else afterwards.
    const piece = Buffer.from(message.subarray(at, cut))
    await extraction.write(piece)
    piece.fill(0x3d)
    at = cut
  }
  const extracted = await extraction.end()
  return { ...extracted, inline: Buffer.concat(kept) }
}

export function inlineOf(inline: Buffer): { size: number; read: (into: Uint8Array, at: number) => Promise<number> } {
  return {
    size: inline.length,
    read: async (into, at) => Promise.resolve(inline.copy(into, 0, at, Math.min(inline.length, at + into.length))),
  }
}

export function woven(stored: Stored, blobs: BlobSource): Woven {
  return weave(stored.segments!, inlineOf(stored.inline), blobs)
}

/** The whole message again. */
export async function restore(stored: Stored, blobs: BlobSource): Promise<Buffer> {
  if (stored.segments === undefined) return stored.inline
  await using message = woven(stored, blobs)
  const bytes = Buffer.alloc(message.size)
  const read = await message.read(bytes, 0)
  return bytes.subarray(0, read)
}
