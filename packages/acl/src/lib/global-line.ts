/**
 * One line of the global file.
 *
 * FORMAT   line    := pattern SP entry [ blanks "@" precedence ]
 *          pattern is bare up to the first space, or quoted with `"`, `\` before any character inside
 *          entry   as in a mailbox's own file (line.ts)
 *          precedence := -999 … 999    (default 0)
 *
 * A pattern is of whole names as clients see them. A level of it that is `%u`, `%n` or `%d` matches any one level, and what it matched
 * stands for it in the identifier, which must have each of them: `Public/%d/* domain=%d lr`. No wildcard may come before. (A level `%%u` is
 * `%u` itself.) Without such a level, `%` is only a character.
 *
 * A broken line concerns the names that its pattern matches. Of a pattern that cannot be read, those that begin with what can be. What
 * has an unreadable precedence counts after all others.
 */
import { type Identifier, isNamed, parseIdentifier } from './identifier.ts'
import { brokenLine, brokenText, parseLine, splitIdentifier } from './line.ts'
import type { AclEntry, BrokenEffect } from './list.ts'
import { isWild, literalPrefix } from './pattern.ts'
import { ALL_RIGHTS } from './rights.ts'

/** Greatest precedence, and least when negative. */
export const PRECEDENCE_MAX = 999

export interface GlobalLine {
  readonly precedence: number
  readonly pattern: GlobalPattern
  readonly entry: AclEntry | undefined
  readonly broken: { readonly text: string; readonly problem: string; readonly effect: BrokenEffect } | undefined
}

/** Literal text, levels that are captured, and a pattern for the rest. */
export interface GlobalPattern {
  /** What names begin with. If `exact`, all of it. */
  readonly prefix: string
  readonly exact: boolean
  /** The whole pattern, for matching, if no level is captured. */
  readonly whole: string
  /** Levels to capture, each after literal text: `Public/`, `d`. */
  readonly levels: readonly { readonly before: string; readonly variable: string }[]
  /** What comes after the last captured level. */
  readonly rest: string
}

/** Reads a line without its end. */
export function parseGlobalLine(line: string): GlobalLine {
  const { text: name, rest, whole } = splitIdentifier(line)
  const { entryText, precedence } = splitPrecedence(rest)
  if (!whole || name === '' || name.includes('\ufffd'))
    return brokenPattern(line, 'its pattern cannot be read', whole ? precedence : undefined)
  const pattern = parsePattern(name)
  if (typeof pattern === 'string') return brokenPattern(line, pattern, precedence)
  const read = parseLine(entryText)
  if ('broken' in read) {
    const { problem, effect } = read.broken
    // A tab ends nothing, but whoever writes one means it to.
    if (effect.kind === 'illegible' && name.includes('\t')) return brokenPattern(line, problem, precedence)
    return broken(pattern, precedence, { text: brokenText(entryText), problem, effect })
  }
  if (!usesAll(read.entry, pattern)) {
    const problem = 'its identifier lacks a variable of its pattern'
    return broken(pattern, precedence, { text: entryText, problem, effect: effectOfUnbound(read.entry) })
  }
  return { precedence: precedence ?? PRECEDENCE_MAX + 1, pattern, entry: read.entry, broken: undefined }
}

function broken(
  pattern: GlobalPattern,
  precedence: number | undefined,
  what: NonNullable<GlobalLine['broken']>,
): GlobalLine {
  return { precedence: precedence ?? PRECEDENCE_MAX + 1, pattern, entry: undefined, broken: what }
}

/** Whom it means is not known, nor what: it denies everything where names begin like it. */
function brokenPattern(line: string, problem: string, precedence: number | undefined): GlobalLine {
  const start = line.trimStart().replace(/^"/, '')
  const literal = /^[^\s*?\\%\ufffd]*/.exec(start)![0]
  const pattern = { prefix: literal, exact: false, whole: `${literal}*`, levels: [], rest: '' }
  const { effect } = brokenLine('\ufffd')
  return broken(pattern, precedence, { text: brokenText(line), problem, effect })
}

/** What stands for lines that were not read: it denies everything to everybody but owners, everywhere. */
export const UNREAD_LINES: GlobalLine = brokenPattern('\ufffd', 'the rest was not read', undefined)

/** The entry without its precedence, which is undefined if it cannot be read. */
function splitPrecedence(text: string): { readonly entryText: string; readonly precedence: number | undefined } {
  const at = text.lastIndexOf('@')
  const before = text[at - 1]
  // A user name may have an `@`; a precedence follows a blank.
  if (at < 0 || (before !== ' ' && before !== '\t')) return { entryText: text, precedence: 0 }
  const number = /^-?\d{1,3}[ \t]*$/.test(text.slice(at + 1)) ? Number(text.slice(at + 1)) : undefined
  return { entryText: number === undefined ? text : text.slice(0, at).trimEnd(), precedence: number }
}

/** What the pattern is made of, or why it is none. */
function parsePattern(pattern: string): GlobalPattern | string {
  const parts = pattern.split('/')
  const levels: { before: string; variable: string }[] = []
  if (!parts.some((part) => /^%[und]$/.test(part))) {
    const prefix = literalPrefix(pattern)
    return { prefix, exact: !isWild(pattern), whole: pattern, levels, rest: '' }
  }
  let before = ''
  for (const [at, part] of parts.entries()) {
    const delimiter = at === 0 ? '' : '/'
    if (/^%[und]$/.test(part)) {
      if (isWild(before)) return 'a wildcard comes before a variable'
      levels.push({ before: before + delimiter, variable: part[1]! })
      before = ''
    } else before += delimiter + (/^%%[und]$/.test(part) ? part.slice(1) : part)
  }
  return { prefix: levels[0]!.before, exact: false, whole: '', levels, rest: before }
}

function usesAll(entry: Identifier, { levels }: GlobalPattern): boolean {
  return levels.every(({ variable }) => isNamed(entry.kind) && entry.name.includes(`%${variable}`))
}

/** With an identifier that has variables it is not known whom it means. */
function effectOfUnbound({ kind, name, rights, denied }: AclEntry): BrokenEffect {
  const identified = !/%[und]/.test(name)
  if (!identified) return { kind: 'illegible', name: '', rights, denied }
  return denied === undefined ? { kind, name, rights: 0 } : { kind, name, denied: ALL_RIGHTS }
}

/** The values of the variables where the pattern matches up to the last of them; undefined if it does not. `at` is where the rest begins. */
export function captureLevels(
  { levels }: GlobalPattern,
  name: string,
): { readonly values: ReadonlyMap<string, string>; readonly at: number } | undefined {
  const values = new Map<string, string>()
  let at = 0
  for (const { before, variable } of levels) {
    if (!name.startsWith(before, at)) return undefined
    const start = at + before.length
    const slash = name.indexOf('/', start)
    at = slash < 0 ? name.length : slash
    const value = name.slice(start, at)
    if (value === '' || (values.get(variable) ?? value) !== value) return undefined
    values.set(variable, value)
  }
  return { values, at }
}

/** The entry with the variables replaced; undefined if nobody can have that name. */
export function bindEntry(entry: AclEntry, values: ReadonlyMap<string, string>): AclEntry | undefined {
  if (values.size === 0) return entry
  const name = entry.name.replace(/%([und])/g, (text, variable: string) => values.get(variable) ?? text)
  const identifier = parseIdentifier(`${entry.kind}=${name}`)
  return identifier === undefined ? undefined : { ...entry, ...identifier }
}
