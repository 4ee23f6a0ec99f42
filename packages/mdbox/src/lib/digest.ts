/** What is computed of a message while its bytes come in: sizes, checksums, and in the end the frame around them. */
import type { BoxMetadata } from '@mailstead/box'
import { compareBytes, crc32, toHex } from '@mailstead/bytes'
import { writeAttached } from './attached.ts'
import type { Compressor } from './compress.ts'
import { countLoneLf } from './count.ts'
import { CHUNK_BYTES, writeFrame } from './format.ts'
import { writeMailboxName } from './mailbox-name.ts'
import { writeOrigin } from './sdbox/names.ts'

/** Of the bytes as they came. */
export class Lines {
  bytes = 0
  #lone = 0
  #before = 0

  add(chunk: Uint8Array): void {
    if (chunk.length === 0) return
    this.#lone += countLoneLf(chunk, this.#before)
    this.#before = chunk[chunk.length - 1]!
    this.bytes += chunk.length
  }

  /** Size in canonical form. */
  get size(): number {
    return this.bytes + this.#lone
  }
}

/** Of a message of which parts lie elsewhere. */
export interface Elsewhere {
  readonly segments: Uint8Array
  /** Bytes that stayed, before compression. */
  readonly inlineSize: number
}

/** Of the bytes as they are stored. */
export class Digest {
  size = 0
  #crc = 0
  readonly #chunks: number[] = []

  add(bytes: Uint8Array): void {
    let at = 0
    while (at < bytes.length) {
      const filled = this.size % CHUNK_BYTES
      const take = Math.min(CHUNK_BYTES - filled, bytes.length - at)
      const piece = at === 0 && take === bytes.length ? bytes : bytes.subarray(at, at + take)
      this.#crc = crc32(piece, filled === 0 ? 0 : this.#crc)
      at += take
      this.size += take
      if (filled + take === CHUNK_BYTES) this.#chunks.push(this.#crc)
    }
  }

  /** Header and metadata of a record with these bytes. `segments`: how the message is put together again of what stayed, `inline`. */
  frame(metadata: BoxMetadata, lines: Lines, compressor?: Compressor, elsewhere?: Elsewhere): Buffer {
    const { guid, receivedMs, mailbox } = metadata
    const isAsItCame = compressor === undefined && elsewhere === undefined
    return writeFrame(this.size, {
      size: lines.size,
      receivedMs,
      guid,
      mailbox: mailbox === undefined ? '' : encodedName(mailbox),
      origin: originText(metadata),
      chunks: this.size % CHUNK_BYTES === 0 ? this.#chunks : [...this.#chunks, this.#crc],
      plainSize: isAsItCame ? undefined : lines.bytes,
      codec: compressor?.codec,
      attached: elsewhere && writeAttached(lines.size, elsewhere.inlineSize, elsewhere.segments),
    })
  }
}

let lastName = ''
let lastEncoded = ''
/** Deliveries name the same mailbox again and again. */
function encodedName(name: string): string {
  if (name !== lastName) {
    lastEncoded = writeMailboxName(name)
    lastName = name
  }
  return lastEncoded
}

let lastOrigin: BoxMetadata['origin']
let lastOriginText: string | undefined
/** And the same origin: its text is kept as long as nobody gives another. */
function originText({ origin }: BoxMetadata): string | undefined {
  if (origin?.uidValidity === undefined) return undefined
  if (
    lastOrigin === undefined ||
    lastOrigin.uidValidity !== origin.uidValidity ||
    compareBytes(lastOrigin.mailbox, origin.mailbox) !== 0
  ) {
    lastOriginText = writeOrigin({ guid: toHex(origin.mailbox), uidValidity: origin.uidValidity })
    lastOrigin = origin
  }
  return lastOriginText
}
