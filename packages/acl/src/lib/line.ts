/**
 * One line of an access list, as Dovecot writes it, and what is left of one that is broken.
 *
 * FORMAT   line   := identifier [ SP rights ]
 *          identifier is bare up to the first space, or quoted with `"`, `\` before any character inside. A `-` in front (inside the
 *                     quotes) makes the line negative. Only a space ends it: a tab is part of the name.
 *          rights := letters [ ":" names ]     blanks before and after; names are separated by blanks and commas
 *
 * A line that is not so is broken. It gives nothing, and denies what it may have denied: nobody gets, because a line is broken, what a
 * repair of that line would withhold — the owner excepted where the line does not say whom it means.
 */
import { type Identifier, isNamed, parseIdentifier, formatIdentifier } from './identifier.ts'
import type { AclEntry, BrokenEffect } from './list.ts'
import { ALL_RIGHTS, formatFileRights, rightOfLetter, rightOfName } from './rights.ts'

/** Longest line in characters: what is longer is broken. */
export const LINE_MAX = 8192
/** So much of a broken line is kept. */
export const BROKEN_TEXT_MAX = 400

export type ParsedLine =
  | { readonly entry: AclEntry }
  | { readonly broken: { readonly problem: string; readonly effect: BrokenEffect } }

interface Rights {
  readonly rights: number
  readonly others: readonly string[] | undefined
}

/** Reads a line without its end. */
export function parseLine(line: string): ParsedLine {
  if (line.length > LINE_MAX) return { broken: { problem: 'it is too long', effect: effectOf(brokenText(line)) } }
  const read = splitIdentifier(line)
  const negative = read.text.startsWith('-')
  const identifier = read.whole ? parseIdentifier(negative ? read.text.slice(1) : read.text) : undefined
  const rights = parseLineRights(read.rest)
  const problem = !read.whole
    ? 'a quote is not closed, or no space follows it'
    : identifier === undefined
      ? 'it does not say whom it means'
      : rights
  if (identifier === undefined || typeof rights === 'string')
    return { broken: { problem: problem as string, effect: effectOf(brokenText(line)) } }
  const { others } = rights
  return {
    entry: negative
      ? { ...identifier, denied: rights.rights, otherDenied: others }
      : { ...identifier, rights: rights.rights, otherRights: others },
  }
}

/** What is kept of a broken line. Its effect is always that of what is kept, so that it can be told again. */
export function brokenText(line: string): string {
  if (line.length > BROKEN_TEXT_MAX) return `${line.slice(0, BROKEN_TEXT_MAX)}\ufffd`
  // Written to a file, a CR at the end would be part of the line's end.
  return line.endsWith('\r') ? `${line}\ufffd` : line
}

/** A broken line again, from what was kept of it. */
export function brokenLine(text: string): { readonly problem: string; readonly effect: BrokenEffect } {
  const read = parseLine(text)
  // What is no broken line by itself was damaged where it was kept: nothing is known of it.
  return 'broken' in read ? read.broken : { problem: 'it was broken', effect: effectOf('') }
}

function effectOf(text: string): BrokenEffect {
  const read = splitIdentifier(text)
  const sign = signOf(read.text)
  const identifier = read.whole ? parseIdentifier(sign === 'negative' ? read.text.slice(1) : read.text) : undefined
  if (identifier !== undefined)
    return sign === 'negative' ? { ...identifier, denied: ALL_RIGHTS } : { ...identifier, rights: 0 }
  const rights = read.whole ? parseLineRights(read.rest) : ''
  const known = typeof rights === 'string' ? undefined : rights.rights
  return {
    kind: 'illegible',
    name: '',
    rights: sign === 'negative' ? undefined : (known ?? 0),
    denied: sign === 'positive' ? undefined : (known ?? ALL_RIGHTS),
  }
}

/** A letter begins a line that gives, `-` one that denies; of anything else it cannot be told (a dash that is none is easily typed). */
function signOf(text: string): 'positive' | 'negative' | 'unknown' {
  const first = text.charCodeAt(0) | 0x20
  if (text.startsWith('-')) return 'negative'
  return first >= 0x61 && first <= 0x7a ? 'positive' : 'unknown'
}

/** The identifier with its sign, unquoted, and what follows its space. Not `whole`: a quote is not closed, or what follows it is no space. */
export function splitIdentifier(line: string): {
  readonly text: string
  readonly rest: string
  readonly whole: boolean
} {
  if (!line.startsWith('"')) {
    const space = line.indexOf(' ')
    return space < 0
      ? { text: line, rest: '', whole: true }
      : { text: line.slice(0, space), rest: line.slice(space + 1), whole: true }
  }
  let text = ''
  for (let at = 1; at < line.length; at++) {
    const character = line[at]!
    if (character === '"') {
      const next = line[at + 1]
      return { text, rest: line.slice(at + 2), whole: next === undefined || next === ' ' }
    }
    if (character === '\\') at++
    text += line[at] ?? ''
  }
  return { text, rest: '', whole: false }
}

const blank = /[ \t]/

/** The rights of a line, or why they are none. */
function parseLineRights(text: string): Rights | string {
  let at = 0
  while (at < text.length && blank.test(text[at]!)) at++
  let rights = 0
  for (; at < text.length && !blank.test(text[at]!) && text[at] !== ':'; at++) {
    const right = rightOfLetter(text[at]!)
    if (right === 0) return `${JSON.stringify(text[at])} is no right`
    rights |= right
  }
  while (at < text.length && blank.test(text[at]!)) at++
  if (at >= text.length) return { rights, others: undefined }
  if (text[at] !== ':') return 'something follows its rights'
  const others = new Set<string>()
  for (const name of text.slice(at + 1).split(/[ \t,]+/)) {
    if (name === '') continue
    // oxlint-disable-next-line no-control-regex -- controls are what is looked for
    if (/[\0-\x1f\ufffd]/.test(name)) return `${JSON.stringify(name)} is no right`
    const right = rightOfName(name)
    if (right === 0) others.add(name)
    rights |= right
  }
  return { rights, others: others.size === 0 ? undefined : [...others].sort() }
}

/** The lines of an entry, without their ends: one for what it gives, one for what it denies. */
export function formatEntry(entry: AclEntry): string[] {
  const lines: string[] = []
  if (entry.rights !== undefined) lines.push(formatLine(entry, '', entry.rights, entry.otherRights))
  if (entry.denied !== undefined) lines.push(formatLine(entry, '-', entry.denied, entry.otherDenied))
  return lines
}

function formatLine(identifier: Identifier, sign: string, rights: number, others: readonly string[] = []): string {
  const text = sign + formatIdentifier(identifier)
  // As Dovecot: only a space needs quotes.
  const quoted = isNamed(identifier.kind) && text.includes(' ') ? `"${text.replace(/["\\']/g, '\\$&')}"` : text
  return `${quoted} ${formatFileRights(rights)}${others.length === 0 ? '' : ` :${others.join(' ')}`}`
}
