/**
 * Dates of RFC 5322 §3.3 with the obsolete forms of §4.3, tolerant of what mail has in their place.
 */

import { ScanLimits } from './limits.ts'

export interface MessageDate {
  /** Milliseconds since the epoch. */
  readonly timeMs: number
  /** Offset of the sender's clock from UTC in minutes, east positive; 0 when unknown. */
  readonly offsetMinutes: number
}

const MONTHS = 'janfebmaraprmayjunjulaugsepoctnovdec'

/**
 * Minutes east of UTC (RFC 5322 §4.3). Any other name, those of the military included, means that the offset is not known:
 * the same name stands for several zones.
 */
const ZONES: Readonly<Record<string, number>> = {
  ut: 0,
  utc: 0,
  gmt: 0,
  est: -300,
  edt: -240,
  cst: -360,
  cdt: -300,
  mst: -420,
  mdt: -360,
  pst: -480,
  pdt: -420,
}

/** Reads a Date value, unfolded. Undefined when there is no day, month, year and time in it. */
export function parseDate(value: string): MessageDate | undefined {
  const short = value.slice(0, ScanLimits.dateBytes)
  const text = short.includes('(') ? withoutComments(short) : short
  const match =
    /^\s*(?:[a-z]+\s*[.,]?\s*)?(\d{1,2})[\s-]+([a-z]{3})[a-z]*\.?[\s,-]+(\d{2,4})[\s,]+(\d{1,2})\s*[:.]\s*(\d{1,2})(?:\s*[:.]\s*(\d{1,2})(?:\.\d+)?)?\s*(.*)$/is.exec(
      text,
    )
  if (match !== null) return dateOf(match[1]!, match[2]!, match[3]!, match.slice(4, 7), match[7]!)
  // asctime: Tue Aug  6 00:29:18 2002, perhaps with a zone before or after the year
  const asctime =
    /^\s*(?:[a-z]+\s*,?\s*)?([a-z]{3})[a-z]*\.?\s+(\d{1,2}),?\s+(\d{1,2}):(\d{1,2})(?::(\d{1,2}))?\s+(?:([a-z]{1,5}|[+-]\d{4})\s+)?(\d{4})\s*(.*)$/is.exec(
      text,
    )
  if (asctime === null) return undefined
  return dateOf(asctime[2]!, asctime[1]!, asctime[7]!, asctime.slice(3, 6), asctime[6] ?? asctime[8]!)
}

function dateOf(
  dayText: string,
  monthText: string,
  yearText: string,
  time: readonly (string | undefined)[],
  zone: string,
): MessageDate | undefined {
  const monthAt = MONTHS.indexOf(monthText.toLowerCase())
  if (monthAt < 0 || monthAt % 3 !== 0) return undefined
  const day = Number(dayText)
  const hour = Number(time[0])
  const minute = Number(time[1])
  const second = Number(time[2] ?? 0)
  if (day < 1 || day > 31 || hour > 23 || minute > 59 || second > 60) return undefined
  let year = Number(yearText)
  // RFC 5322 §4.3: two digits below 50 are 20xx, other two and all three digits count from 1900. So do years like 0102.
  if (yearText.length === 2) year += year < 50 ? 2000 : 1900
  else if (year < 1000) year += 1900
  const offsetMinutes = zoneOf(zone)
  const clock = new Date(0)
  clock.setUTCFullYear(year, monthAt / 3, day)
  if (clock.getUTCDate() !== day) return undefined
  clock.setUTCHours(hour, minute, second)
  const timeMs = clock.getTime() - offsetMinutes * 60_000
  return Number.isNaN(timeMs) ? undefined : { timeMs, offsetMinutes }
}

function zoneOf(text: string): number {
  const numeric = /^(?:gmt|utc?)?\s*([+-])(\d{2}):?(\d{2})/i.exec(text)
  if (numeric !== null) {
    const minutes = Number(numeric[2]) * 60 + Number(numeric[3])
    return numeric[1] === '-' ? 0 - minutes : minutes
  }
  const name = /^[a-z]+/i.exec(text)
  return name === null ? 0 : (ZONES[name[0].toLowerCase()] ?? 0)
}

function withoutComments(value: string): string {
  let out = ''
  let depth = 0
  for (let i = 0; i < value.length; i++) {
    const c = value[i]!
    if (c === '(') depth++
    else if (c === ')') {
      if (depth > 0) depth--
      if (depth === 0) out += ' '
    } else if (c === '\\') i++
    else if (depth === 0) out += c
  }
  return out
}
