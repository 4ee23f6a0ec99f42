/** Flags and keywords in commands. */
import type { Cursor } from './cursor.ts'
import { FLAG_ANSWERED, FLAG_DELETED, FLAG_DRAFT, FLAG_FLAGGED, FLAG_SEEN } from './vocabulary.ts'

const systemFlags: ReadonlyMap<string, number> = new Map([
  ['ANSWERED', FLAG_ANSWERED],
  ['FLAGGED', FLAG_FLAGGED],
  ['DELETED', FLAG_DELETED],
  ['SEEN', FLAG_SEEN],
  ['DRAFT', FLAG_DRAFT],
  // QUIRK: clients that copy mail pass on the \Recent they fetched; it is not theirs to set, and is dropped.
  ['RECENT', 0],
])

export interface ParsedFlags {
  readonly flags: number
  readonly keywords: readonly string[]
}

/** `(\Seen $Junk)`, or without parentheses where STORE allows it. */
export function parseFlags(cursor: Cursor, options: { readonly bare: boolean }): ParsedFlags {
  const open = cursor.skips('(')
  if (!open && !options.bare) cursor.fail('A list of flags is missing.')
  let flags = 0
  const keywords: string[] = []
  if (open && cursor.skips(')')) return { flags, keywords }
  for (let count = 1; ; count++) {
    if (count > cursor.limits.flags) cursor.fail('There are too many flags.')
    if (cursor.skips('\\')) {
      const flag = systemFlags.get(cursor.word('A flag is missing.'))
      if (flag === undefined) cursor.fail('There is no such system flag.')
      flags |= flag
    } else keywords.push(checkKeyword(cursor, cursor.atom('A flag is missing.'), keywords))
    if (open && cursor.skips(')')) break
    if (!open && cursor.atEnd) break
    cursor.space()
    if (!open && cursor.atEnd) break
  }
  return { flags, keywords: keywords.filter((keyword) => keyword !== '') }
}

function checkKeyword(cursor: Cursor, keyword: string, before: readonly string[]): string {
  if (keyword.length > cursor.limits.keywordBytes) cursor.fail('A keyword is too long.')
  return before.includes(keyword) ? '' : keyword
}
