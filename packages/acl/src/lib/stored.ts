/**
 * A list as a value of the store's log, which covers it with its checksum. See docs/formats/acl.md.
 *
 * FORMAT   size    field
 *          1       version, 0
 *          varint  number of entries, then each, in the order of lists:
 *          1         kind in bits 0 … 3 (0 anyone, 1 authenticated, 2 domain, 3 group, 4 owner, 5 user, 6 group-override);
 *                    bit 4: gives, 5: denies, 6: gives rights of unknown names, 7: denies such
 *          text      name, where the kind has one
 *          varint    rights given, if bit 4
 *          varint    rights denied, if bit 5
 *          varint    number of unknown names given, each a text, if bit 6; the same for those denied, if bit 7
 *          varint  number of broken lines, each a text
 *
 * A text is its length in bytes (varint) and UTF-8. Nothing follows. One list, one value: entries are sorted, none says nothing.
 */
import { ByteReader, ByteWriter, BytesError } from '@mailstead/bytes'
import { AclError } from './error.ts'
import { compareIdentifiers, type IdentifierKind, isNamed } from './identifier.ts'
import { brokenLine, brokenText } from './line.ts'
import { type AclEntry, type AclList, aclList } from './list.ts'
import { ALL_RIGHTS } from './rights.ts'

const VERSION = 0
/** Longest value, in bytes: what a table of the index takes. A list that needs more is refused. */
export const ACL_VALUE_MAX = 60_000

// Must not change: on disk.
const KINDS: readonly IdentifierKind[] = [
  'anyone',
  'authenticated',
  'domain',
  'group',
  'owner',
  'user',
  'group-override',
]
const GIVES = 0x10
const DENIES = 0x20
const GIVES_OTHERS = 0x40
const DENIES_OTHERS = 0x80

/** The value of a list. Where entries came from is not kept. Throws ACL_LIMIT if it is longer than ACL_VALUE_MAX. */
export function encodeAcl(list: AclList): Uint8Array {
  const out = new ByteWriter()
  out.u8(VERSION)
  out.varint(list.entries.length)
  for (const { kind, name, rights, denied, otherRights, otherDenied } of list.entries) {
    const others = rights === undefined ? [] : (otherRights ?? [])
    const deniedOthers = denied === undefined ? [] : (otherDenied ?? [])
    out.u8(
      KINDS.indexOf(kind) |
        (rights === undefined ? 0 : GIVES) |
        (denied === undefined ? 0 : DENIES) |
        (others.length === 0 ? 0 : GIVES_OTHERS) |
        (deniedOthers.length === 0 ? 0 : DENIES_OTHERS),
    )
    if (isNamed(kind)) out.utf8(name)
    if (rights !== undefined) out.varint(rights)
    if (denied !== undefined) out.varint(denied)
    for (const names of [others, deniedOthers]) if (names.length > 0) writeTexts(out, names)
  }
  writeTexts(
    out,
    list.broken.map(({ text }) => brokenText(text)),
  )
  const value = out.finish()
  if (value.length > ACL_VALUE_MAX)
    throw new AclError('ACL_LIMIT', `an access list of ${value.length} bytes is longer than ${ACL_VALUE_MAX}`)
  return value
}

/** The list of a value. Throws ACL_CORRUPT if it is none. */
export function decodeAcl(value: Uint8Array): AclList {
  try {
    return decode(new ByteReader(value))
  } catch (error) {
    if (error instanceof BytesError || error instanceof AclError)
      throw new AclError('ACL_CORRUPT', `no access list: ${error.message}`, { cause: error })
    throw error
  }
}

function decode(from: ByteReader): AclList {
  if (from.u8() !== VERSION) throw from.malformed('an unknown version')
  const entries: AclEntry[] = []
  for (let left = from.varint(); left > 0; left--) {
    const entry = readEntry(from)
    const last = entries.at(-1)
    if (last !== undefined && compareIdentifiers(last, entry) >= 0) throw from.malformed('entries are not in order')
    entries.push(entry)
  }
  const broken = readTexts(from).map((text) => {
    if (text === '' || text.startsWith('#') || text.includes('\n')) throw from.malformed('a broken line that is none')
    return { text, ...brokenLine(text) }
  })
  from.expectEnd()
  return aclList(entries, broken)
}

function readEntry(from: ByteReader): AclEntry {
  const head = from.u8()
  const kind = KINDS[head & 0x0f]
  if (kind === undefined) throw from.malformed('an unknown kind')
  if ((head & (GIVES | DENIES)) === 0) throw from.malformed('an entry that says nothing')
  if (((head & GIVES_OTHERS) !== 0 && (head & GIVES) === 0) || ((head & DENIES_OTHERS) !== 0 && (head & DENIES) === 0))
    throw from.malformed('names without rights')
  const name = isNamed(kind) ? from.utf8() : ''
  const rights = (head & GIVES) === 0 ? undefined : readRights(from)
  const denied = (head & DENIES) === 0 ? undefined : readRights(from)
  const otherRights = (head & GIVES_OTHERS) === 0 ? undefined : readNames(from)
  const otherDenied = (head & DENIES_OTHERS) === 0 ? undefined : readNames(from)
  return { kind, name, rights, denied, otherRights, otherDenied }
}

function readRights(from: ByteReader): number {
  const rights = from.varint()
  if (rights > ALL_RIGHTS) throw from.malformed('unknown rights')
  return rights
}

function readNames(from: ByteReader): string[] {
  const names = readTexts(from)
  if (names.length === 0) throw from.malformed('no names')
  return names
}

function writeTexts(out: ByteWriter, texts: readonly string[]): void {
  out.varint(texts.length)
  for (const text of texts) out.utf8(text)
}

function readTexts(from: ByteReader): string[] {
  const texts: string[] = []
  for (let left = from.varint(); left > 0; left--) texts.push(from.utf8())
  return texts
}
