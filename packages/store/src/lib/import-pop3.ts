/**
 * What POP3 clients know of messages that came from elsewhere: values of their mailbox's table.
 *
 * FORMAT   key `pop3/<UID>` (the first of those in the value, ten digits), value: for each message the distance of its UID from
 *          the one before (from 0), its place in the order of the old server plus one (0: none) as varints, and its UIDL as text
 *          (varint length, UTF-8; empty: none). At most POP3_VALUE_MAX bytes in one value. Must not change: on disk
 *
 * A message without an entry has the UIDL that its UID and UIDVALIDITY make. A message that is expunged leaves its entry: no
 * other message ever gets its UID.
 */
import { ByteReader, ByteWriter } from '@mailstead/bytes'

const PREFIX = 'pop3/'
export const POP3_VALUE_MAX = 60_000

export interface Pop3Entry {
  readonly uid: number
  readonly uidl: string | undefined
  readonly order: number | undefined
}

/** The values that hold these entries, which are in ascending order of their UIDs. */
export function encodePop3(entries: readonly Pop3Entry[]): [key: string, value: Uint8Array][] {
  const values: [string, Uint8Array][] = []
  let out = new ByteWriter(256)
  let first = 0
  let before = 0
  const end = (): void => {
    if (out.position > 0) values.push([PREFIX + String(first).padStart(10, '0'), out.finish()])
    out = new ByteWriter(256)
    before = 0
  }
  for (const { uid, uidl, order } of entries) {
    if (out.position > POP3_VALUE_MAX - 1024) end()
    if (out.position === 0) first = uid
    out.varint(uid - before)
    out.varint(order === undefined ? 0 : order + 1)
    out.utf8(uidl ?? '')
    before = uid
  }
  end()
  return values
}

/** All entries of a mailbox, by UID. Throws a BytesError for what `encodePop3` does not write. */
export function decodePop3(values: ReadonlyMap<string, Uint8Array>): Map<number, Pop3Entry> {
  const entries = new Map<number, Pop3Entry>()
  for (const [key, value] of values) {
    if (!key.startsWith(PREFIX)) continue
    const reader = new ByteReader(value)
    let uid = 0
    while (reader.remaining > 0) {
      uid += reader.varint()
      const order = reader.varint()
      const uidl = reader.utf8()
      entries.set(uid, {
        uid,
        uidl: uidl === '' ? undefined : uidl,
        order: order === 0 ? undefined : order - 1,
      })
    }
  }
  return entries
}
