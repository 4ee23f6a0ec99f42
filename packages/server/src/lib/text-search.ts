/**
 * SEARCH BODY and TEXT: whether a message's text holds a string (RFC 3501 §6.4.4).
 *
 * What is searched: the bodies of parts that are text, transfer encoding undone, read in their charset; for TEXT the headers of
 * the message, of its parts and of enclosed messages too, encoded words decoded, unfolded. Bodies of other types, and what
 * stands around the parts of a multipart, are not text. Comparison disregards case and composition (see `foldText` of imap).
 *
 * Most mail is ASCII. ASCII bytes are folded and searched by native code, as they are, without decoding: folding changes nothing
 * of ASCII but case, and a needle that is not ASCII is not in it. What is not in memory goes by in pieces: see text-stream.ts.
 */
import { isAscii } from 'node:buffer'
import { foldText } from '@mailstead/imap/cache-fields'
import {
  decodeBody,
  decodeEncodedWords,
  decodeText,
  type MessagePart,
  type MessageStructure,
  parameter,
} from '@mailstead/message'
import type { MessageBody } from '@mailstead/store'
import { type FoldedText, headerText, partText, unfolded } from './text-stream.ts'

/** Charsets whose text is not what its bytes look like. */
const STATEFUL = /^(?:utf-?7|unicode-1-1-utf-7|utf-?16|utf-?32|iso-2022|hz|csiso2022|iso-10646)/i

export class Needle {
  /** Folded. */
  readonly text: string
  readonly #ascii: boolean
  readonly #blanks: boolean

  constructor(value: string) {
    this.text = foldText(value)
    this.#ascii = isAscii(Buffer.from(this.text))
    this.#blanks = this.text.includes(' ')
  }

  inText(text: string): boolean {
    return foldText(text).includes(this.text)
  }

  inAscii(bytes: Buffer): boolean {
    return this.#ascii && this.#inUpper(bytes.toString('latin1').toUpperCase())
  }

  /** `foldText` makes blanks of tabs and line ends, which matters only to those who look for blanks. */
  #inUpper(text: string): boolean {
    return (this.#blanks ? foldText(text) : text).includes(this.text)
  }

  inPart(bytes: Buffer, part: MessagePart): boolean {
    const encoding = part.encoding
    const plain = encoding === undefined || !/^\s*(?:base64|quoted-printable)\s*$/i.test(encoding)
    const decoded = plain ? bytes : asBuffer(decodeBody(bytes, encoding.trim()))
    const charset = parameter(part.parameters, 'charset')
    if (isAscii(decoded) && (charset === undefined || !STATEFUL.test(charset.trim()))) return this.inAscii(decoded)
    return this.inText(decodeText(decoded, charset))
  }

  inHeader(bytes: Buffer): boolean {
    if (isAscii(bytes) && !bytes.includes('=?')) {
      if (!this.#ascii) return false
      const text = bytes.toString('latin1').toUpperCase()
      // A needle without blanks cannot reach over a fold.
      return this.#inUpper(this.#blanks ? unfolded(text) : text)
    }
    return this.inText(decodeEncodedWords(unfolded(bytes.toString('latin1'))))
  }
}

/** A promise only where the bytes do not come at once. */
export function messageHolds(
  body: MessageBody,
  structure: MessageStructure,
  needles: readonly { readonly needle: Needle; readonly headers: boolean }[],
): boolean | Promise<boolean> {
  const whole = body.sliceSync(0, body.size)
  if (whole === undefined) return holdsSlowly(body, structure, needles)
  const bytes = asBuffer(whole)
  for (const { needle, headers } of needles) if (!partHolds(bytes, structure.root, needle, headers)) return false
  return true
}

function partHolds(bytes: Buffer, part: MessagePart, needle: Needle, headers: boolean): boolean {
  if (headers && part.bodyStart > part.headerStart)
    if (needle.inHeader(bytes.subarray(part.headerStart, part.bodyStart))) return true
  if (part.kind === 'multipart') {
    for (const child of part.children) if (partHolds(bytes, child, needle, headers)) return true
    return false
  }
  if (part.message !== undefined) return partHolds(bytes, part.message, needle, headers)
  return isText(part) && needle.inPart(bytes.subarray(part.bodyStart, part.bodyEnd), part)
}

async function holdsSlowly(
  body: MessageBody,
  structure: MessageStructure,
  needles: readonly { readonly needle: Needle; readonly headers: boolean }[],
): Promise<boolean> {
  let left = needles
  const search = async (wanted: typeof left, text: FoldedText, start: number, end: number): Promise<void> => {
    await text.read(body.stream(start, end), () => wanted.every(({ needle }) => text.holds(needle.text)))
    left = left.filter((each) => !wanted.includes(each) || !text.holds(each.needle.text))
  }
  const pending: MessagePart[] = [structure.root]
  for (let part = pending.pop(); part !== undefined; part = pending.pop()) {
    const { headerStart, bodyStart, bodyEnd } = part
    const wanted = left.filter(({ headers }) => headers)
    if (bodyStart > headerStart && wanted.length > 0)
      await search(wanted, headerText(textsOf(wanted)), headerStart, bodyStart)
    pending.push(...part.children)
    if (part.message !== undefined) pending.push(part.message)
    else if (part.kind !== 'multipart' && isText(part) && left.length > 0)
      await search(left, partText(textsOf(left), part), bodyStart, bodyEnd)
    if (left.length === 0) return true
  }
  return false
}

function textsOf(needles: readonly { readonly needle: Needle }[]): string[] {
  return needles.map(({ needle }) => needle.text)
}

function isText(part: MessagePart): boolean {
  return part.kind === 'text' || /^(?:text|message)$/i.test(part.type)
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
