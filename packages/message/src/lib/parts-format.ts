/**
 * A structure as bytes, for a cache. Format `mime.parts`, version 0, described in docs/formats/mime-parts.md:
 *
 *   version(1 byte) size physicalSize quirks part
 *   part = flags [type subtype] [parameters] [id] [description] [encoding] [md5] [disposition] [language] [location]
 *          headerStart-delta headerLength bodyLength headerLines bodyLines [children | message]
 *
 * Numbers are LEB128 varints, strings a length and that many bytes. Headers are not part of it. Damage is found where it
 * makes the bytes unreadable; the cache's own checksum finds the rest.
 */

import { MessageError } from './errors.ts'
import type { MessagePart, MessageStructure, Parameters, PartKind } from './structure.ts'
import { QUIRKS } from './structure.ts'

// must not change: on disk
const VERSION = 0
const KINDS: readonly PartKind[] = ['text', 'multipart', 'message', 'other']
const TYPE = 1 << 2
const PARAMETERS = 1 << 3
const ID = 1 << 4
const DESCRIPTION = 1 << 5
const ENCODING = 1 << 6
const MD5 = 1 << 7
const DISPOSITION = 1 << 8
const LANGUAGE = 1 << 9
const LOCATION = 1 << 10
const FLAGS_END = 1 << 11
/** Deepest nesting that is written or read: more than any scanner follows. */
const DEPTH_MAX = 1001

class Writer {
  #bytes = Buffer.allocUnsafe(256)
  #at = 0

  #room(bytes: number): void {
    if (this.#at + bytes <= this.#bytes.length) return
    const grown = Buffer.allocUnsafe(Math.max(this.#bytes.length * 2, this.#at + bytes))
    this.#bytes.copy(grown, 0, 0, this.#at)
    this.#bytes = grown
  }

  byte(value: number): void {
    this.#room(1)
    this.#bytes[this.#at++] = value
  }

  number(value: number): void {
    this.#room(8)
    while (value >= 128) {
      this.#bytes[this.#at++] = (value % 128) | 128
      value = Math.floor(value / 128)
    }
    this.#bytes[this.#at++] = value
  }

  string(value: string): void {
    this.number(value.length)
    this.#room(value.length)
    this.#at += this.#bytes.write(value, this.#at, 'latin1')
  }

  parameters(list: Parameters): void {
    this.number(list.length)
    for (const [name, value] of list) {
      this.string(name)
      this.string(value)
    }
  }

  done(): Buffer {
    return this.#bytes.subarray(0, this.#at)
  }
}

/** Bytes for the cache. Headers are left out. */
export function encodeStructure(structure: MessageStructure): Uint8Array {
  const out = new Writer()
  out.byte(VERSION)
  out.number(structure.size)
  out.number(structure.physicalSize)
  let quirks = 0
  for (const quirk of structure.quirks) quirks |= 1 << QUIRKS.indexOf(quirk)
  out.number(quirks)
  writePart(out, structure.root, 0)
  return out.done()
}

function writePart(out: Writer, part: MessagePart, from: number): void {
  let flags = KINDS.indexOf(part.kind)
  if (part.contentTypePresent) flags |= TYPE
  if (part.parameters.length > 0) flags |= PARAMETERS
  if (part.id !== undefined) flags |= ID
  if (part.description !== undefined) flags |= DESCRIPTION
  if (part.encoding !== undefined) flags |= ENCODING
  if (part.md5 !== undefined) flags |= MD5
  if (part.disposition !== undefined) flags |= DISPOSITION
  if (part.language !== undefined) flags |= LANGUAGE
  if (part.location !== undefined) flags |= LOCATION
  out.number(flags)
  if (part.contentTypePresent) {
    out.string(part.type)
    out.string(part.subtype)
  }
  if (part.parameters.length > 0) out.parameters(part.parameters)
  if (part.id !== undefined) out.string(part.id)
  if (part.description !== undefined) out.string(part.description)
  if (part.encoding !== undefined) out.string(part.encoding)
  if (part.md5 !== undefined) out.string(part.md5)
  if (part.disposition !== undefined) {
    out.string(part.disposition.type)
    out.parameters(part.disposition.parameters)
  }
  if (part.language !== undefined) {
    out.number(part.language.length)
    for (const tag of part.language) out.string(tag)
  }
  if (part.location !== undefined) out.string(part.location)
  out.number(part.headerStart - from)
  out.number(part.bodyStart - part.headerStart)
  out.number(part.bodyEnd - part.bodyStart)
  out.number(part.headerLines)
  out.number(part.bodyLines)
  if (part.kind === 'multipart') {
    out.number(part.children.length)
    let at = part.bodyStart
    for (const child of part.children) {
      writePart(out, child, at)
      at = child.bodyEnd
    }
  } else if (part.message !== undefined) writePart(out, part.message, part.bodyStart)
}

class Reader {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  get left(): number {
    return this.#bytes.length - this.#at
  }

  number(): number {
    let value = 0
    for (let factor = 1; ; factor *= 128) {
      const byte = this.#bytes[this.#at++]
      if (byte === undefined) throw bad('it ends too early')
      value += (byte & 127) * factor
      if (value > Number.MAX_SAFE_INTEGER) throw bad('a number is too large')
      if (byte < 128) return value
    }
  }

  /** A number of things that take at least one byte each. */
  count(): number {
    const value = this.number()
    if (value > this.left) throw bad('a length goes beyond the end')
    return value
  }

  string(): string {
    const length = this.count()
    this.#at += length
    return this.#bytes.toString('latin1', this.#at - length, this.#at)
  }

  parameters(): Parameters {
    const list: (readonly [string, string])[] = []
    for (let n = this.count(); n > 0; n--) list.push([this.string(), this.string()])
    return list
  }
}

function bad(why: string): MessageError {
  return new MessageError('MESSAGE_BAD_STRUCTURE', `not an encoded structure: ${why}`)
}

/**
 * What encodeStructure wrote, without the headers. Throws MESSAGE_BAD_STRUCTURE for anything else, other versions included.
 */
export function decodeStructure(bytes: Uint8Array): MessageStructure {
  const input = new Reader(bytes)
  const version = input.number()
  if (version !== VERSION) throw bad(`version ${version}`)
  const size = input.number()
  const physicalSize = input.number()
  if (physicalSize > size) throw bad('it is larger than its canonical form')
  const mask = input.number()
  if (mask >= 1 << QUIRKS.length) throw bad('an unknown quirk')
  const quirks = QUIRKS.filter((_, bit) => (mask & (1 << bit)) !== 0)
  const root = readPart(input, 0, size, 0)
  if (input.left !== 0) throw bad('bytes are left over')
  return { size, physicalSize, canonical: size === physicalSize, root, header: new Uint8Array(0), quirks }
}

function readPart(input: Reader, from: number, max: number, depth: number): MessagePart {
  if (depth > DEPTH_MAX) throw bad('it is nested too deep')
  const flags = input.number()
  if (flags >= FLAGS_END) throw bad('an unknown flag')
  const kind = KINDS[flags & 3]!
  const present = (flags & TYPE) !== 0
  const type = present ? input.string() : kind === 'message' ? 'message' : 'text'
  const subtype = present ? input.string() : kind === 'message' ? 'rfc822' : 'plain'
  const parameters = (flags & PARAMETERS) !== 0 ? input.parameters() : []
  const id = (flags & ID) !== 0 ? input.string() : undefined
  const description = (flags & DESCRIPTION) !== 0 ? input.string() : undefined
  const encoding = (flags & ENCODING) !== 0 ? input.string() : undefined
  const md5 = (flags & MD5) !== 0 ? input.string() : undefined
  const disposition = (flags & DISPOSITION) !== 0 ? { type: input.string(), parameters: input.parameters() } : undefined
  let language: string[] | undefined
  if ((flags & LANGUAGE) !== 0) {
    language = []
    for (let n = input.count(); n > 0; n--) language.push(input.string())
  }
  const location = (flags & LOCATION) !== 0 ? input.string() : undefined
  const headerStart = from + input.number()
  const bodyStart = headerStart + input.number()
  const bodyEnd = bodyStart + input.number()
  if (bodyEnd > max) throw bad('a part goes beyond its parent')
  const headerLines = input.number()
  const bodyLines = input.number()
  const children: MessagePart[] = []
  let message: MessagePart | undefined
  if (kind === 'multipart') {
    let at = bodyStart
    for (let n = input.count(); n > 0; n--) {
      const child = readPart(input, at, bodyEnd, depth + 1)
      children.push(child)
      at = child.bodyEnd
    }
  } else if (kind === 'message') message = readPart(input, bodyStart, bodyEnd, depth + 1)
  return {
    kind,
    type,
    subtype,
    parameters,
    contentTypePresent: present,
    id,
    description,
    encoding,
    md5,
    disposition,
    language,
    location,
    headerStart,
    bodyStart,
    bodyEnd,
    headerLines,
    bodyLines,
    children,
    message,
    header: undefined,
  }
}
