/** Dates of IMAP: `date-time` of APPEND and INTERNALDATE, `date` of SEARCH (RFC 9051 §9). */

const months = 'JanFebMarAprMayJunJulAugSepOctNovDec'
const dayMs = 86_400_000

function monthOf(text: string): number {
  const at = months.toLowerCase().indexOf(text.toLowerCase())
  return at >= 0 && at % 3 === 0 ? at / 3 : -1
}

/** Days since 1970-01-01 of `1-Feb-1994`, or undefined if there is no such day. */
export function parseDate(text: string): number | undefined {
  const match = /^([ 0-9]?[0-9])-([A-Za-z]{3})-([0-9]{4})$/.exec(text)
  if (match === null) return undefined
  return daysOf(Number(match[3]), monthOf(match[2]!), Number(match[1]))
}

/** Milliseconds since the epoch of `17-Jul-1996 02:44:25 -0700`, or undefined if it is not one. */
export function parseDateTime(text: string): number | undefined {
  const match =
    /^([ 0-9][0-9])-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{2})([0-9]{2})$/.exec(text)
  if (match === null) return undefined
  const days = daysOf(Number(match[3]), monthOf(match[2]!), Number(match[1]))
  const [hour, minute, second] = [Number(match[4]), Number(match[5]), Number(match[6])]
  const [zoneHour, zoneMinute] = [Number(match[8]), Number(match[9])]
  // A leap second counts as the second before it.
  if (days === undefined || hour > 23 || minute > 59 || second > 60 || zoneHour > 23 || zoneMinute > 59)
    return undefined
  const zone = (zoneHour * 60 + zoneMinute) * (match[7] === '-' ? -1 : 1)
  return days * dayMs + ((hour * 60 + minute - zone) * 60 + Math.min(59, second)) * 1000
}

function daysOf(year: number, month: number, day: number): number | undefined {
  if (month < 0 || day < 1) return undefined
  // Date.UTC takes years below 100 for the twentieth century.
  const ms = Date.UTC(year + 400, month, day) - 146_097 * dayMs
  const date = new Date(ms + 146_097 * dayMs)
  return date.getUTCMonth() === month && date.getUTCDate() === day ? ms / dayMs : undefined
}

/** Length of what `writeDateTime` writes. */
export const DATE_TIME_BYTES = 28

/** Writes `"17-Jul-1996 09:44:25 +0000"` with its quotes. Years outside 0 … 9999 are clamped. Returns the offset after it. */
export function writeDateTime(out: Uint8Array, at: number, ms: number): number {
  let clamped = ms
  if (!(ms >= -62_167_219_200_000)) clamped = -62_167_219_200_000
  else if (ms > 253_402_300_799_000) clamped = 253_402_300_799_000
  const seconds = Math.floor(clamped / 1000)
  const days = Math.floor(seconds / 86_400)
  const second = seconds - days * 86_400
  // From a day number to a civil date, counting years from March of the year 0 so that the leap day is the last.
  const z = days + 719_468
  const era = Math.floor(z / 146_097)
  const dayOfEra = z - era * 146_097
  const yearOfEra = Math.floor(
    (dayOfEra - Math.floor(dayOfEra / 1460) + Math.floor(dayOfEra / 36_524) - Math.floor(dayOfEra / 146_096)) / 365,
  )
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100))
  const shifted = Math.floor((5 * dayOfYear + 2) / 153)
  const day = dayOfYear - Math.floor((153 * shifted + 2) / 5) + 1
  const month = shifted < 10 ? shifted + 2 : shifted - 10
  const year = yearOfEra + era * 400 + (month < 2 ? 1 : 0)
  out[at] = 0x22
  two(out, at + 1, day)
  out[at + 3] = 0x2d
  for (let i = 0; i < 3; i++) out[at + 4 + i] = months.charCodeAt(month * 3 + i)
  out[at + 7] = 0x2d
  two(out, at + 8, Math.floor(year / 100))
  two(out, at + 10, year % 100)
  out[at + 12] = 0x20
  two(out, at + 13, Math.floor(second / 3600))
  out[at + 15] = 0x3a
  two(out, at + 16, Math.floor(second / 60) % 60)
  out[at + 18] = 0x3a
  two(out, at + 19, second % 60)
  out[at + 21] = 0x20
  out[at + 22] = 0x2b
  two(out, at + 23, 0)
  two(out, at + 25, 0)
  out[at + 27] = 0x22
  return at + DATE_TIME_BYTES
}

function two(out: Uint8Array, at: number, value: number): void {
  out[at] = 0x30 + Math.floor(value / 10)
  out[at + 1] = 0x30 + (value % 10)
}

/** INTERNALDATE of `ms`, without quotes. */
export function formatDateTime(ms: number): string {
  const out = Buffer.alloc(DATE_TIME_BYTES)
  writeDateTime(out, 0, ms)
  return out.toString('latin1', 1, DATE_TIME_BYTES - 1)
}
