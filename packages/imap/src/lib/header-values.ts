/**
 * One walk over a header for all cache fields: the fields kept raw in `hdr`, and the unfolded values that `search` and `thread` look at.
 * Values hold one byte in each character.
 */
import { cachedHeaderFields } from './header-field.ts'

export interface HeaderValues {
  readonly from: readonly string[]
  readonly to: readonly string[]
  readonly cc: readonly string[]
  readonly bcc: readonly string[]
  readonly subject: readonly string[]
  readonly references: readonly string[]
  /** The fields of `cachedHeaderFields` and the empty line. */
  readonly kept: Uint8Array
}

const LF = 10
const CR = 13
const COLON = 0x3a
const SPACE = 0x20
const TAB = 9
/** Names longer than any that is looked for are not looked at. */
const NAME_MAX: number = Math.max(...Array.from(cachedHeaderFields, (name) => name.length))

/** Reads a canonical header, up to its empty line or its end. */
export function readHeaderValues(header: Uint8Array): HeaderValues {
  const bytes = Buffer.from(header.buffer, header.byteOffset, header.length)
  const values = { from: [], to: [], cc: [], bcc: [], subject: [], references: [] } as Record<
    'from' | 'to' | 'cc' | 'bcc' | 'subject' | 'references',
    string[]
  >
  const { length } = bytes
  const kept = Buffer.allocUnsafe(length + 2)
  let used = 0
  let at = 0
  while (at < length && bytes[at] !== LF && !(bytes[at] === CR && bytes[at + 1] === LF)) {
    let end = at
    let folded = false
    for (;;) {
      const lf = bytes.indexOf(LF, end)
      end = lf < 0 ? length : lf + 1
      const next = bytes[end]
      if (next !== SPACE && next !== TAB) break
      folded = true
    }
    let nameEnd = at
    while (nameEnd < end && nameEnd - at <= NAME_MAX && bytes[nameEnd] !== COLON && bytes[nameEnd]! > SPACE) nameEnd++
    let colon = nameEnd
    while (bytes[colon] === SPACE || bytes[colon] === TAB) colon++
    if (bytes[colon] === COLON) {
      const name = bytes.toString('latin1', at, nameEnd).toLowerCase()
      if (cachedHeaderFields.has(name)) {
        used += bytes.copy(kept, used, at, end)
        if (kept[used - 1] !== LF) used += kept.write('\r\n', used, 'latin1')
        if (Object.hasOwn(values, name)) {
          let value = bytes.toString('latin1', colon + 1, end)
          if (folded) value = value.replace(/\r?\n/g, '')
          values[name as keyof typeof values].push(value.trim())
        }
      }
    }
    at = end
  }
  used += kept.write('\r\n', used, 'latin1')
  return { ...values, kept: kept.subarray(0, used) }
}
