/**
 * Names of files, and the identity of a mailbox's directory.
 *
 * LAYOUT   unnamed/<id>          a message that has no name in a mailbox (yet): 16 hex digits, the first two of them the slot
 *          unnamed/x.<id>        one that no row has, as its writer died: until a purge
 *          <GUID>/u.<UID>        a message of a mailbox, as in Dovecot's sdbox
 *          <GUID>/x.<UID>        one that was expunged there, until a purge
 *          <GUID>/identity       what mailbox this is
 *          open.<slot>.lock      held by a process that writes (slots 0 … 15)
 *          open.<slot>.open      what such a process wrote down first (leftovers.ts)
 *          purge.lock            held by a purge
 *
 * FORMAT   identity := "sdbox 0 G" guid " V" uidvalidity [ " X" ] " B" name " H" crc LF
 *          guid: 32 hex digits; uidvalidity: hex; X: the mailbox was removed; name: modified UTF-7, as of the last time
 *          a process began to write here; crc: CRC-32 of all before " H", 8 hex digits. All hex is lower-case.
 * must not change: on disk
 */
import { crc32 } from '@mailstead/bytes'
import { hex8 } from '../format.ts'
import { readMailboxName, writeMailboxName } from '../mailbox-name.ts'

export const UNNAMED = 'unnamed'
export const IDENTITY = 'identity'
/** Longest identity file that is read, in bytes. */
export const IDENTITY_MAX = 2048
/** Bytes of an id: the first is the slot of who wrote the message, the others are random. */
export const ID_BYTES = 8

const GUID = /^[0-9a-f]{32}$/

export function isGuid(name: string): boolean {
  return GUID.test(name)
}

/** The UID in `u.<UID>` or `x.<UID>`; 0 for any other name. */
export function uidOfName(name: string, kind: 'u' | 'x'): number {
  if (name.length < 3 || name.length > 12 || name[0] !== kind || name[1] !== '.') return 0
  const uid = Number(name.slice(2))
  return Number.isInteger(uid) && uid > 0 && uid < 2 ** 32 && String(uid) === name.slice(2) ? uid : 0
}

/** Of an unnamed message; undefined for any other name. */
export function idOfName(name: string): string | undefined {
  return /^[0-9a-f]{16}$/.test(name) ? name : undefined
}

/** Of an unnamed message that nobody has. */
export function leftoverName(id: string): string {
  return `x.${id}`
}

export function slotOfId(id: string): number {
  return Number.parseInt(id.slice(0, 2), 16)
}

export interface Identity {
  readonly guid: string
  readonly uidValidity: number
  readonly removed: boolean
  /** Undefined if it is none that can be read. */
  readonly name: string | undefined
}

export function writeIdentity({ guid, uidValidity, removed, name }: Identity): Buffer {
  const encoded = name === undefined ? '' : writeMailboxName(name)
  const text = `sdbox 0 G${guid} V${uidValidity.toString(16)}${removed ? ' X' : ''} B${encoded}`
  return Buffer.from(`${text} H${hex8(crc32(Buffer.from(text, 'latin1')))}\n`, 'latin1')
}

/** Undefined: damage. */
export function readIdentity(bytes: Uint8Array): Identity | undefined {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1')
  const match = /^(sdbox 0 G([0-9a-f]{32}) V([1-9a-f][0-9a-f]{0,7})( X)? B([\x20-\x7e]*)) H([0-9a-f]{8})\n$/.exec(text)
  if (match === null) return undefined
  if (hex8(crc32(Buffer.from(match[1]!, 'latin1'))) !== match[6]) return undefined
  const name = readMailboxName(match[5]!)
  return {
    guid: match[2]!,
    uidValidity: Number.parseInt(match[3]!, 16),
    removed: match[4] !== undefined,
    name: name === '' ? undefined : name,
  }
}

/** GUID and UIDVALIDITY as a message's metadata has them: 40 hex digits. */
export function writeOrigin({ guid, uidValidity }: { readonly guid: string; readonly uidValidity: number }): string {
  return guid + hex8(uidValidity)
}

export function readOrigin(text: string): { readonly guid: string; readonly uidValidity: number } | undefined {
  if (!/^[0-9a-f]{40}$/.test(text)) return undefined
  return { guid: text.slice(0, 32), uidValidity: Number.parseInt(text.slice(32), 16) }
}
