/**
 * `dovecot-uidlist`: which file of a Maildir has which UID.
 *
 * FORMAT   Text, a line each. Version 3: `3` and fields (V UIDVALIDITY, N next UID, G GUID of the mailbox in hexadecimal), then
 *          for each message its UID, fields (G GUID, P POP3 UIDL, O POP3 order, S size, W size with CRLF, others), ` :` and the
 *          name of the file up to its flags. A field is a letter and a value without spaces. Version 1: `1`, UIDVALIDITY and next
 *          UID, then UIDs and names. Dovecot appends lines while the first one still has the next UID of before.
 */

/** Largest file that is read, in bytes. */
export const UIDLIST_BYTES_MAX: number = 512 * 1024 * 1024
const UID_LAST = 2 ** 32 - 2

export interface MaildirUidlist {
  /** Undefined where the first line does not say, or cannot be read. */
  readonly uidValidity: number | undefined
  readonly uidNext: number
  readonly guid: Uint8Array | undefined
  /** Ascending. */
  readonly uids: Uint32Array
  /** Names of files, without flags. */
  readonly names: readonly string[]
  /** Fields as they are written: look with `fieldOf`. */
  readonly fields: readonly string[]
}

/** Reads what can be read; each line that cannot is told of, with its offset. */
export function readUidlist(bytes: Uint8Array, bad: (message: string, offset: number) => void): MaildirUidlist {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  const uids: number[] = []
  const names: string[] = []
  const fields: string[] = []
  let head: Head = { version: 0, uidValidity: undefined, uidNext: 1, guid: undefined }
  let last = 0
  let sorted = true
  for (let at = 0, line = 0; at < buffer.length; line++) {
    const lf = buffer.indexOf(10, at)
    if (lf < 0) {
      bad('the last line is not complete', at)
      break
    }
    const text = buffer.toString('utf8', at, lf)
    if (line === 0) {
      const read = readHead(text)
      if (read === undefined) bad('the first line is not that of a uidlist', 0)
      // Version 3 is what anybody still writes.
      head = read ?? { ...head, version: 3 }
      if (read === undefined && !isRecord(text, 3)) {
        at = lf + 1
        continue
      }
    }
    if (line > 0 || head.uidValidity === undefined) {
      const record = isRecord(text, head.version)
      if (record === undefined) {
        if (line > 0) bad('no message can be read from a line', at)
      } else {
        if (record.uid <= last) sorted = false
        last = Math.max(last, record.uid)
        uids.push(record.uid)
        names.push(record.name)
        fields.push(record.fields)
      }
    }
    at = lf + 1
  }
  const uidNext = Math.max(head.uidNext, last + 1)
  const known = { uidValidity: head.uidValidity, uidNext, guid: head.guid }
  if (sorted) return { ...known, uids: Uint32Array.from(uids), names, fields }
  bad('UIDs do not ascend', 0)
  // Of two with one UID the later line is meant.
  const byUid = new Map<number, number>()
  for (const [i, uid] of uids.entries()) byUid.set(uid, i)
  const order = [...byUid].sort(([a], [b]) => a - b)
  return {
    ...known,
    uids: Uint32Array.from(order, ([uid]) => uid),
    names: order.map(([, i]) => names[i]!),
    fields: order.map(([, i]) => fields[i]!),
  }
}

/** The value of a field; undefined if there is none. */
export function fieldOf(fields: string, letter: string): string | undefined {
  if (fields === '') return undefined
  for (const field of fields.split(' ')) if (field[0] === letter) return field.slice(1)
  return undefined
}

interface Head {
  readonly version: number
  readonly uidValidity: number | undefined
  readonly uidNext: number
  readonly guid: Uint8Array | undefined
}

function readHead(line: string): Head | undefined {
  const [version, ...rest] = line.split(' ')
  if (version === '1') {
    const [validity, next] = rest
    return headOf(1, validity, next, undefined)
  }
  if (version !== '3') return undefined
  const text = rest.join(' ')
  return headOf(3, fieldOf(text, 'V'), fieldOf(text, 'N'), fieldOf(text, 'G'))
}

function headOf(version: number, validity = '', next = '', guid = ''): Head | undefined {
  const uidValidity = decimal(validity)
  const uidNext = decimal(next)
  if (uidValidity === undefined || uidNext === undefined || uidValidity === 0 || uidNext === 0) return undefined
  return { version, uidValidity, uidNext, guid: hexGuid(guid) }
}

/** 16 bytes of 32 hexadecimal digits; undefined for anything else, and for the GUID that means none. */
export function hexGuid(text: string): Uint8Array | undefined {
  return /^[0-9a-f]{32}$/i.test(text) && /[^0]/.test(text) ? new Uint8Array(Buffer.from(text, 'hex')) : undefined
}

interface UidlistRecord {
  readonly uid: number
  readonly name: string
  readonly fields: string
}

function isRecord(line: string, version: number): UidlistRecord | undefined {
  const space = line.indexOf(' ')
  const uid = decimal(line.slice(0, Math.max(0, space)))
  if (uid === undefined || uid === 0 || uid > UID_LAST) return undefined
  const colon = version === 1 ? space : line[space + 1] === ':' ? space + 1 : line.indexOf(' :', space + 1) + 1
  if (colon === 0) return undefined
  // Some versions wrote the flags too.
  const name = withoutFlags(line.slice(colon + 1))
  if (name === '' || name.includes('/')) return undefined
  return { uid, name, fields: version === 1 ? '' : line.slice(space + 1, Math.max(space + 1, colon - 1)) }
}

/** The name of a message's file without its flags. */
export function withoutFlags(file: string): string {
  const colon = file.indexOf(':')
  return colon < 0 ? file : file.slice(0, colon)
}

function decimal(text: string): number | undefined {
  if (!/^\d{1,10}$/.test(text)) return undefined
  const value = Number(text)
  return value < 2 ** 32 ? value : undefined
}
