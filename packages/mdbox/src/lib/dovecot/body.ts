/**
 * The bytes of a message: stored bytes, decompressed, with its external parts in their places.
 *
 * Sizes are checked on the way: what was stored (the header), what it decompresses to (Z), and what it is with each line
 * ended by CRLF (V). Parts in files are checked by their size and, where it is one, by the hash in their names.
 */
import { BoxError } from '@mailstead/box'
import { magicOf } from '../compress.ts'
import { expanded } from '../compress-foreign.ts'
import { countLoneLf } from '../count.ts'
import { type AttachmentPlace, externalPart } from './attachment.ts'
import type { DboxRecord } from './dbox-record.ts'
import { compressionOf } from './decompress.ts'
import { type OpenedFile, readAt } from './root.ts'

const PIECE_BYTES: number = 64 * 1024
const ZEROS_MIN = 256
/** As many bytes as the longest beginning of a compressed or encrypted body. */
const MAGIC_BYTES = 16
const CRYPT_MAGIC = Buffer.from('CRYPTED\x03\x07', 'latin1')

/** Where a message is, and where its external parts are. */
export interface BodyPlace extends AttachmentPlace {
  readonly file: OpenedFile
  readonly record: DboxRecord
}

/** BOX_DAMAGED or BOX_UNSUPPORTED if it is not whole. */
export async function* readBody(place: BodyPlace): AsyncGenerator<Uint8Array, void, undefined> {
  const { record, file } = place
  const { storedSize, plainSize, virtualSize, parts } = record
  const fail = (what: string, cause?: unknown): BoxError =>
    new BoxError('BOX_DAMAGED', `${what} in ${file.shown} at ${record.offset}`, {
      file: file.shown,
      offset: record.offset,
      ...(cause === undefined ? {} : { cause }),
    })
  if (parts === undefined) throw fail('references to attachments that cannot be read')
  const stored = new Counter()
  const plain = new Counter()
  for await (const piece of connected(place, stored, fail)) {
    plain.add(piece)
    if (plain.bytes > plainSize) throw fail(`more than the ${plainSize} bytes of the message`)
    yield piece
  }
  if (plain.bytes !== plainSize) throw fail(`${plain.bytes} of the ${plainSize} bytes of the message`)
  // Dovecot's repair counts what is stored, whatever that is.
  const virtual = plain.bytes + plain.lone
  if (virtualSize !== undefined && virtualSize !== virtual && virtualSize !== storedSize + stored.lone)
    throw fail(`${virtual} bytes with CRLF, where ${virtualSize} are recorded,`)
}

/** What goes by: bytes, and how many LF have no CR before them. */
class Counter {
  bytes = 0
  lone = 0
  #before = 0

  add(piece: Uint8Array): void {
    if (piece.length === 0) return
    this.bytes += piece.length
    this.lone += countLoneLf(piece, this.#before)
    this.#before = piece[piece.length - 1]!
  }
}

type Fail = (what: string, cause?: unknown) => BoxError

/** The text with its parts put back. */
async function* connected(place: BodyPlace, stored: Counter, fail: Fail): AsyncGenerator<Uint8Array, void, undefined> {
  const parts = place.record.parts!
  const inline = inlineBytes(place, stored, fail)
  let at = 0
  let next = 0
  try {
    for (;;) {
      while (next < parts.length && parts[next]!.start === at) {
        const part = parts[next]!
        yield* externalPart(place, part, fail)
        at += part.size
        next++
      }
      const got = await inline.next()
      if (got.done === true) break
      let piece = got.value
      for (let part = parts[next]; part !== undefined && at + piece.length > part.start; part = parts[next]) {
        const before = part.start - at
        if (before > 0) yield piece.subarray(0, before)
        piece = piece.subarray(before)
        yield* externalPart(place, part, fail)
        at = part.start + part.size
        next++
      }
      at += piece.length
      yield piece
    }
  } finally {
    await inline.return()
  }
  if (next < parts.length) throw fail('an attachment behind the end of the message')
}

/** What is stored in the file itself, decompressed. */
async function* inlineBytes(
  place: BodyPlace,
  stored: Counter,
  fail: Fail,
): AsyncGenerator<Uint8Array, void, undefined> {
  const { file, record } = place
  const { bodyAt, storedSize, plainSize, parts } = record
  // Without Z the size did not change, so nothing was compressed, whatever a message may begin with.
  const first = plainSize === storedSize ? EMPTY : await readAt(file.file, bodyAt, Math.min(MAGIC_BYTES, storedSize))
  const source = storedBytes(place, stored, fail)
  if (Buffer.compare(first.subarray(0, CRYPT_MAGIC.length), CRYPT_MAGIC) === 0)
    throw unsupported(place, 'it is encrypted')
  const magic = magicOf(first)
  if (magic === undefined) {
    yield* source
    return
  }
  if (compressionOf(first) === undefined) throw unsupported(place, `it is compressed with ${magic}`)
  let external = 0
  for (const part of parts!) external += part.size
  yield* expanded(source, plainSize - external, fail)
}

const EMPTY = new Uint8Array(0)

function unsupported({ file, record }: BodyPlace, what: string): BoxError {
  return new BoxError('BOX_UNSUPPORTED', `${what}, which is not read: ${file.shown} at ${record.offset}`, {
    file: file.shown,
    offset: record.offset,
  })
}

async function* storedBytes(
  place: BodyPlace,
  stored: Counter,
  fail: Fail,
): AsyncGenerator<Uint8Array, void, undefined> {
  const { file, record, faults, owner } = place
  const { bodyAt: start, storedSize: size } = record
  for (let at = 0; at < size; ) {
    const wanted = Math.min(PIECE_BYTES, size - at)
    const piece = await readAt(file.file, start + at, wanted)
    if (piece.length !== wanted) throw fail('the file ends within the message')
    const zeros = findZeros(piece)
    if (zeros >= 0)
      faults.add('zeros', 'the message has zeros as a lost sector leaves them', {
        file: file.shown,
        offset: start + at + zeros,
        ...owner,
      })
    stored.add(piece)
    at += wanted
    yield piece
  }
}

/** Where so many zeros are that no mail has them by itself, half of the smallest sector at least; -1 if nowhere. */
function findZeros(piece: Uint8Array): number {
  for (let at = 0; at < piece.length; at += ZEROS_MIN) {
    if (piece[at] !== 0) continue
    let from = at
    while (from > 0 && piece[from - 1] === 0) from--
    let to = at
    while (to < piece.length && piece[to] === 0) to++
    if (to - from >= ZEROS_MIN) return from
  }
  return -1
}
