/**
 * The shape of a scanned message. All offsets, sizes and line counts are of the canonical form, in which every LF without
 * CR is CRLF; for a message whose `canonical` is true they are also offsets into the stored bytes.
 *
 * Invariants: `headerStart <= bodyStart <= bodyEnd`; children lie inside their parent's body, in order, disjoint; a part
 * has at most one of `children` (multipart) and `message` (message/rfc822).
 */

/** Strings of bytes: each char code is one byte (latin1), as in the message. */
export type ByteString = string

/**
 * What a part is treated as. It follows from Content-Type, from the defaults of RFC 2045 §5.2 and RFC 2046 §5.1.5, and from
 * the limits; a multipart/* without a usable boundary, or too deep, is not `multipart`.
 */
export type PartKind = 'text' | 'multipart' | 'message' | 'other'

export interface Disposition {
  readonly type: ByteString
  readonly parameters: Parameters
}

/** Names and values in order, names as written. RFC 2231 continuations are joined: `name*` holds charset'language'%xx. */
export type Parameters = readonly (readonly [name: ByteString, value: ByteString])[]

export interface MessagePart {
  readonly kind: PartKind
  /** As written; `text` / `plain` or `message` / `rfc822` by default. May be empty when the field is broken. */
  readonly type: ByteString
  readonly subtype: ByteString
  /** As written. The default charset of text (us-ascii) is not added: see {@link bodyParameters}. */
  readonly parameters: Parameters
  /** False when type and subtype are defaults. */
  readonly contentTypePresent: boolean
  /** Content-ID, unfolded, as written. */
  readonly id: ByteString | undefined
  /** Content-Description, unfolded, encoded words as written. */
  readonly description: ByteString | undefined
  /** Content-Transfer-Encoding as written; undefined (which means 7bit) when absent or broken. */
  readonly encoding: ByteString | undefined
  readonly md5: ByteString | undefined
  readonly disposition: Disposition | undefined
  readonly language: readonly ByteString[] | undefined
  readonly location: ByteString | undefined
  /** Where the header of this part begins. */
  readonly headerStart: number
  /** Where its body begins: after the empty line. */
  readonly bodyStart: number
  /** Where its body ends: before the CRLF that belongs to the next boundary line. */
  readonly bodyEnd: number
  /** Line ends inside the header, the empty line included. */
  readonly headerLines: number
  /** Line ends inside the body. */
  readonly bodyLines: number
  /** Parts of a multipart, in order. May be empty. */
  readonly children: readonly MessagePart[]
  /** The message inside a message/rfc822 part; present exactly when `kind` is `message`. */
  readonly message: MessagePart | undefined
  /**
   * Canonical header of an enclosed message (only on the part that is another's `message`), empty line included; for its
   * ENVELOPE. Kept up to limits; undefined in a decoded structure.
   */
  readonly header: Uint8Array | undefined
}

/** Oddities worth telling an administrator. None of them makes a message unreadable. */
export type Quirk =
  /** A header was longer than `headerBytes`; fields beyond were not seen. */
  | 'header-truncated'
  /** Headers of enclosed messages beyond `enclosedHeaderBytes` were not kept. */
  | 'enclosed-headers-dropped'
  /** A header held more Content-* fields than `contentFields`, or all of them more than `contentBytes`. */
  | 'too-many-fields'
  /** Parts nested deeper than `mimeDepth` were not followed. */
  | 'too-deep'
  /** More parts than `parts`. */
  | 'too-many-parts'
  /** A multipart without boundary parameter is text. */
  | 'no-boundary'
  /** A multipart that never closed. */
  | 'unclosed-multipart'
  /** A multipart without any part. */
  | 'empty-multipart'
  /** RFC 2045 §6.4 forbids base64 and quoted-printable on composite types; the parts are read as they stand. */
  | 'encoded-composite'
  /** A header ended without an empty line. */
  | 'no-empty-line'
  /** A Content-Type that cannot be read. */
  | 'bad-content-type'
  /** A NUL byte anywhere. */
  | 'nul'

/** In the order they are told; the place of a quirk is its bit in the encoded form. */
// must not change: on disk
export const QUIRKS: readonly Quirk[] = [
  'header-truncated',
  'enclosed-headers-dropped',
  'too-many-fields',
  'too-deep',
  'too-many-parts',
  'no-boundary',
  'unclosed-multipart',
  'empty-multipart',
  'encoded-composite',
  'no-empty-line',
  'bad-content-type',
  'nul',
]
export interface MessageStructure {
  /** Canonical size in bytes: RFC822.SIZE. */
  readonly size: number
  /** Size as stored. */
  readonly physicalSize: number
  /** Whether the stored bytes are the canonical ones. */
  readonly canonical: boolean
  readonly root: MessagePart
  /** Canonical top header, empty line included, up to `headerBytes`. Empty in a decoded structure. */
  readonly header: Uint8Array
  readonly quirks: readonly Quirk[]
}

/**
 * Parameters as BODYSTRUCTURE tells them: those of a text part always name a charset (us-ascii by RFC 2045 §5.2).
 */
export function bodyParameters(part: MessagePart): Parameters {
  if (part.kind !== 'text') return part.parameters
  for (const [name] of part.parameters)
    if (name.length === 7 && name.toLowerCase() === 'charset') return part.parameters
  return [...part.parameters, US_ASCII]
}

const US_ASCII: readonly [string, string] = ['charset', 'us-ascii']

/** The value of a parameter by its name in any case. */
export function parameter(parameters: Parameters, name: string): ByteString | undefined {
  const wanted = name.toLowerCase()
  for (const [key, value] of parameters) if (key.toLowerCase() === wanted) return value
  return undefined
}

/**
 * A value with its blanks tidied: each run is one, none at the ends. Clients are told subjects and display names like
 * this, since folding and mailers add blanks nobody meant.
 */
export function tidyBlanks(value: ByteString): ByteString {
  if (isTidy(value)) return value
  return value.replace(/[ \t\r\n]+/g, ' ').replace(/^ | $/g, '')
}

function isTidy(value: string): boolean {
  // As after a blank: another one, and one at the end, are too many.
  let blank = true
  for (let i = 0; i < value.length; i++) {
    const c = value.charCodeAt(i)
    if (c > 0x20) blank = false
    else if (c === 0x20) {
      if (blank) return false
      blank = true
    } else if (c === 9 || c === 10 || c === 13) return false
    else blank = false
  }
  return !blank || value === ''
}
