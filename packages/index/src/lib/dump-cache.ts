/** A cache file as text for people: every record, every value, every byte that is neither. Never fails on damage. */
import { hexDump, toHex } from '@mailstead/bytes'
import { DAY_MS, type Decided, DECISIONS_KEY, decodeDecisions } from './cache-decisions.ts'
import { CACHE_MAGIC_BYTES, decodeRecord, FILE_UID, fieldKey, tableSeed } from './cache-record.ts'

/** Bytes of a value that are shown. */
const SHOWN = 48

/** The dump of the cache of a table; undefined if no record of any table seems to be there. */
export function dumpCacheFile(bytes: Uint8Array, tableId: string): Iterable<string> | undefined {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  return buffer.indexOf(CACHE_MAGIC_BYTES) < 0 ? undefined : dump(buffer, tableId)
}

function* dump(bytes: Buffer, tableId: string): Generator<string> {
  yield `cache of table ${tableId}`
  const seed = tableSeed(tableId)
  const names = new Map(['directory', 'sizes', 'decisions'].map((name) => [fieldKey(name), name]))
  let lost = 0
  for (let at = 0; at < bytes.length; ) {
    const record = decodeRecord(bytes, at, seed)
    if (record === undefined) {
      const next = bytes.indexOf(CACHE_MAGIC_BYTES, at + 1)
      const end = next < 0 ? bytes.length : next
      lost += end - at
      if (next < 0 || decodeRecord(bytes, next, seed) !== undefined) {
        yield `${lost} bytes at ${end - lost}: no record of this table`
        for (const line of hexDump(bytes.subarray(end - lost, end), { start: end - lost }).split('\n'))
          if (line !== '') yield `    ${line}`
        lost = 0
      }
      at = end
      continue
    }
    const { uid, guid, fields, length } = record
    if (uid === 0)
      for (const { key, value } of fields) if (value !== undefined) names.set(key, Buffer.from(value).toString())
    yield `record at ${at}, ${length} bytes: ${uid === 0 ? 'names of fields' : uid === FILE_UID ? 'of the file itself' : `UID ${uid}, GUID ${toHex(guid)}`}`
    for (const { key, value } of fields) {
      const name = names.get(key) ?? key.toString(16).padStart(8, '0')
      const decided = uid === FILE_UID && key === DECISIONS_KEY && value !== undefined && decodeDecisions(value)
      if (value === undefined) yield `  ${name}: damaged`
      else if (decided) yield* dumpDecisions(decided)
      else
        yield `  ${name}: ${value.length} bytes ${JSON.stringify(Buffer.from(value.subarray(0, SHOWN)).toString('latin1'))}${value.length > SHOWN ? '…' : ''}`
    }
    at += length
  }
}

function* dumpDecisions({ dropped, marks, fields }: Decided): Generator<string> {
  yield `  decisions: temp fields dropped below UID ${dropped}`
  for (const { day, uid } of marks) yield `    on ${dateOf(day)} the next UID was ${uid}`
  for (const [name, { decision, forced, usedDay }] of fields)
    yield `    ${name}: ${decision}${forced ? ', forced' : ''}, last used ${dateOf(usedDay)}`
}

function dateOf(day: number): string {
  const ms = day * DAY_MS
  return ms <= 8.64e15 ? new Date(ms).toISOString().slice(0, 10) : `day ${day}`
}
