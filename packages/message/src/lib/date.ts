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
  return parsePlainDate(value) ?? parseAnyDate(value)
}

/**
 * The date, if it is as nearly all mail has it: `Thu, 2 Jan 2020 03:04:05 -0700`, with or without the day of the week, and
 * anything after the zone. Undefined for anything else; never another answer than `parseAnyDate` has.
 */
export function parsePlainDate(value: string): MessageDate | undefined {
  let at = 0
  if (value.charCodeAt(3) === 0x2c) {
    if (!isLetter(value, 0) || !isLetter(value, 1) || !isLetter(value, 2) || value.charCodeAt(4) !== 0x20)
      return undefined
    at = 5
  }
  let day = digit(value, at++)
  if (value.charCodeAt(at) !== 0x20) day = day * 10 + digit(value, at++)
  if (value.charCodeAt(at) !== 0x20 || value.charCodeAt(at + 4) !== 0x20) return undefined
  const month = monthOf(value, at + 1)
  at += 5
  const year = twoDigits(value, at) * 100 + twoDigits(value, at + 2)
  const hour = twoDigits(value, at + 5)
  const minute = twoDigits(value, at + 8)
  const second = twoDigits(value, at + 11)
  if (value.charCodeAt(at + 4) !== 0x20 || value.charCodeAt(at + 7) !== 0x3a || value.charCodeAt(at + 10) !== 0x3a)
    return undefined
  if (value.charCodeAt(at + 13) !== 0x20) return undefined
  const sign = value.charCodeAt(at + 14)
  const zone = twoDigits(value, at + 15) * 60 + twoDigits(value, at + 17)
  // A digit that is none has made its number NaN, for which none of these holds.
  if (!(day >= 1 && day <= 28 + lateDays(month, year) && month >= 0 && year >= 1000)) return undefined
  if (!(hour <= 23 && minute <= 59 && second <= 60 && zone >= 0 && (sign === 0x2b || sign === 0x2d))) return undefined
  const offsetMinutes = sign === 0x2d ? 0 - zone : zone
  return { timeMs: Date.UTC(year, month, day, hour, minute, second) - offsetMinutes * 60_000, offsetMinutes }
}

function isLetter(text: string, at: number): boolean {
  const letter = text.charCodeAt(at) | 0x20
  return letter >= 0x61 && letter <= 0x7a
}

/** NaN for what is none. */
function digit(text: string, at: number): number {
  const value = text.charCodeAt(at) - 0x30
  return value >= 0 && value <= 9 ? value : Number.NaN
}

function twoDigits(text: string, at: number): number {
  return digit(text, at) * 10 + digit(text, at + 1)
}

/** 0 to 11; -1 for what is none. */
function monthOf(text: string, at: number): number {
  const a = text.charCodeAt(at) | 0x20
  const b = text.charCodeAt(at + 1) | 0x20
  const c = text.charCodeAt(at + 2) | 0x20
  for (let i = 0; i < MONTHS.length; i += 3) {
    if (MONTHS.charCodeAt(i) === a && MONTHS.charCodeAt(i + 1) === b && MONTHS.charCodeAt(i + 2) === c) return i / 3
  }
  return -1
}

/** Days of a month (0 to 11) beyond 28. */
function lateDays(month: number, year: number): number {
  if (month !== 1) return month === 3 || month === 5 || month === 8 || month === 10 ? 2 : 3
  return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 1 : 0
}

/** The same date, whatever is in it. */
export function parseAnyDate(value: string): MessageDate | undefined {
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
