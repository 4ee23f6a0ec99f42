/**
 * SEARCH, SORT and THREAD (RFC 9051 §6.4.4, RFC 5256, RFC 5032, RFC 7162 §3.1.5). Texts are converted from the command's
 * charset; any charset that a TextDecoder knows is known.
 */
import { TextDecoder } from 'node:util'
import type { SearchReturn } from './command.ts'
import type { Cursor } from './cursor.ts'
import { ImapSyntaxError } from './syntax-error.ts'
import type { SearchKey, SortCriterion, Target, ThreadAlgorithm } from './vocabulary.ts'
import { FLAG_ANSWERED, FLAG_DELETED, FLAG_DRAFT, FLAG_FLAGGED, FLAG_SEEN } from './vocabulary.ts'

interface Reading {
  readonly cursor: Cursor
  readonly uid: boolean
  /** Undefined: no charset was named. */
  readonly decoder: TextDecoder | undefined
  keys: number
  modSeq: boolean
}

export interface ParsedSearch {
  readonly key: SearchKey
  readonly modSeq: boolean
}

const utf8: TextDecoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** A decoder for the charset's texts. Throws BADCHARSET for one that is not known. */
function decoderOf(name: string): TextDecoder {
  // Latin-1 is what the web's decoder takes these for; a text that says ASCII and is not is most likely UTF-8.
  if (/^(?:us-ascii|ascii|utf-?8)$/i.test(name)) return utf8
  try {
    return new TextDecoder(name, { fatal: true })
  } catch {
    throw new ImapSyntaxError('The charset is not known.', 'BADCHARSET (US-ASCII UTF-8)')
  }
}

/** After `SEARCH ` or `UID SEARCH `. */
export function parseSearch(
  cursor: Cursor,
  uid: boolean,
): ParsedSearch & { readonly returns: SearchReturn | undefined } {
  let returns: SearchReturn | undefined
  if (cursor.skips('RETURN')) {
    cursor.space()
    returns = parseReturn(cursor)
    cursor.space()
  }
  try {
    let decoder: TextDecoder | undefined
    if (cursor.skips('CHARSET ')) {
      decoder = decoderOf(cursor.astring('A charset is missing.').toString('latin1'))
      cursor.space()
    }
    return { ...parseProgram(cursor, uid, decoder), returns }
  } catch (error) {
    if (returns?.save === true && error instanceof ImapSyntaxError) error.losesSaved = true
    throw error
  }
}

function parseReturn(cursor: Cursor): SearchReturn {
  cursor.takes('(', 'RETURN needs a list.')
  const named = new Set<string>()
  while (!cursor.skips(')')) {
    if (named.size > 0) cursor.space()
    const option = cursor.keyword('A RETURN option is missing.')
    if (!['MIN', 'MAX', 'ALL', 'COUNT', 'SAVE'].includes(option)) cursor.fail('There is no such RETURN option.')
    named.add(option)
  }
  return {
    min: named.has('MIN'),
    max: named.has('MAX'),
    all: named.has('ALL') || named.size === 0,
    count: named.has('COUNT'),
    save: named.has('SAVE'),
  }
}

/** The charset and the keys of SORT and THREAD. */
export function parseCharsetAndKeys(cursor: Cursor, uid: boolean): ParsedSearch {
  const decoder = decoderOf(cursor.astring('A charset is missing.').toString('latin1'))
  cursor.space()
  return parseProgram(cursor, uid, decoder)
}

const sortKeys: ReadonlyMap<string, SortCriterion['by']> = new Map([
  ['ARRIVAL', 'arrival'],
  ['CC', 'cc'],
  ['DATE', 'date'],
  ['FROM', 'from'],
  ['SIZE', 'size'],
  ['SUBJECT', 'subject'],
  ['TO', 'to'],
])

/** `(REVERSE DATE SUBJECT)` */
export function parseSortCriteria(cursor: Cursor): readonly SortCriterion[] {
  cursor.takes('(', 'A list of sort criteria is missing.')
  const criteria: SortCriterion[] = []
  for (;;) {
    let word = cursor.keyword('A sort criterion is missing.')
    const reverse = word === 'REVERSE'
    if (reverse) {
      cursor.space()
      word = cursor.keyword('REVERSE needs a sort criterion.')
    }
    const by = sortKeys.get(word)
    if (by === undefined) cursor.fail('There is no such sort criterion.')
    if (criteria.length >= 64) cursor.fail('There are too many sort criteria.')
    criteria.push({ by, reverse })
    if (cursor.skips(')')) return criteria
    cursor.space()
  }
}

export function parseThreadAlgorithm(cursor: Cursor): ThreadAlgorithm {
  const name = cursor.keyword('A threading algorithm is missing.')
  if (name !== 'REFERENCES' && name !== 'ORDEREDSUBJECT') cursor.fail('There is no such threading algorithm.')
  return name
}

function parseProgram(cursor: Cursor, uid: boolean, decoder: TextDecoder | undefined): ParsedSearch {
  const reading: Reading = { cursor, uid, decoder, keys: 0, modSeq: false }
  const keys: SearchKey[] = []
  for (;;) {
    keys.push(parseKey(reading, 0))
    if (!cursor.skipSpaces() || cursor.atEnd) break
  }
  const key: SearchKey = keys.length === 1 ? keys[0]! : { key: 'and', keys }
  return { key, modSeq: reading.modSeq }
}

const flagKeys: ReadonlyMap<string, SearchKey> = new Map<string, SearchKey>([
  ['ALL', { key: 'all' }],
  ['ANSWERED', { key: 'flag', flag: FLAG_ANSWERED, set: true }],
  ['UNANSWERED', { key: 'flag', flag: FLAG_ANSWERED, set: false }],
  ['DELETED', { key: 'flag', flag: FLAG_DELETED, set: true }],
  ['UNDELETED', { key: 'flag', flag: FLAG_DELETED, set: false }],
  ['DRAFT', { key: 'flag', flag: FLAG_DRAFT, set: true }],
  ['UNDRAFT', { key: 'flag', flag: FLAG_DRAFT, set: false }],
  ['FLAGGED', { key: 'flag', flag: FLAG_FLAGGED, set: true }],
  ['UNFLAGGED', { key: 'flag', flag: FLAG_FLAGGED, set: false }],
  ['SEEN', { key: 'flag', flag: FLAG_SEEN, set: true }],
  ['UNSEEN', { key: 'flag', flag: FLAG_SEEN, set: false }],
  ['RECENT', { key: 'recent' }],
  ['OLD', { key: 'not', of: { key: 'recent' } }],
  ['NEW', { key: 'and', keys: [{ key: 'recent' }, { key: 'flag', flag: FLAG_SEEN, set: false }] }],
])

function parseKey(reading: Reading, depth: number): SearchKey {
  const cursor: Cursor = reading.cursor
  const { uid } = reading
  if (depth > cursor.limits.searchDepth) cursor.fail('The search is nested too deeply.')
  if (++reading.keys > cursor.limits.searchKeys) cursor.fail('The search has too many keys.')
  const byte = cursor.peek()
  if (byte === 0x28) {
    cursor.at++
    const keys: SearchKey[] = []
    for (;;) {
      keys.push(parseKey(reading, depth + 1))
      if (cursor.skips(')')) break
      cursor.space()
    }
    return keys.length === 1 ? keys[0]! : { key: 'and', keys }
  }
  if (byte === 0x24) {
    cursor.at++
    return { key: 'target', target: { kind: 'saved', uid } }
  }
  if ((byte >= 0x30 && byte <= 0x39) || byte === 0x2a)
    return { key: 'target', target: { kind: 'sequences', set: cursor.sequenceSet() } }
  const word = cursor.keyword('A search key is missing.')
  const flagKey = flagKeys.get(word)
  if (flagKey !== undefined) return flagKey
  if (!isArgumentKey(word)) cursor.fail('There is no such search key.')
  cursor.space()
  switch (word) {
    case 'BCC':
    case 'CC':
    case 'FROM':
    case 'SUBJECT':
    case 'TO':
      return { key: 'header', field: word.toLowerCase(), value: text(reading) }
    case 'HEADER': {
      const field = cursor.astring('A header field is missing.').toString('latin1').toLowerCase()
      cursor.space()
      return { key: 'header', field, value: text(reading) }
    }
    case 'BODY':
      return { key: 'body', value: text(reading) }
    case 'TEXT':
      return { key: 'text', value: text(reading) }
    case 'KEYWORD':
    case 'UNKEYWORD':
      return { key: 'keyword', keyword: cursor.atom('A keyword is missing.'), set: word === 'KEYWORD' }
    case 'BEFORE':
    case 'ON':
    case 'SINCE':
      return { key: 'date', compare: compareOf(word), day: cursor.date(), sent: false }
    case 'SENTBEFORE':
    case 'SENTON':
    case 'SENTSINCE':
      return { key: 'date', compare: compareOf(word.slice(4)), day: cursor.date(), sent: true }
    case 'LARGER':
    case 'SMALLER':
      return {
        key: 'size',
        compare: word === 'LARGER' ? 'larger' : 'smaller',
        size: cursor.number('A size is missing.', Number.MAX_SAFE_INTEGER),
      }
    case 'OLDER':
    case 'YOUNGER':
      return {
        key: 'within',
        compare: word === 'OLDER' ? 'older' : 'younger',
        seconds: cursor.nonZero('An interval is missing or zero.', Number.MAX_SAFE_INTEGER),
      }
    case 'MODSEQ':
      reading.modSeq = true
      if (cursor.peek() === 0x22) {
        // RFC 7162 §3.1.5: an entry name and type, which mean nothing while modseqs are per message.
        cursor.string('')
        cursor.space()
        cursor.keyword('The entry type of MODSEQ is missing.')
        cursor.space()
      }
      return { key: 'modSeq', from: cursor.modSeq() }
    case 'UID':
      return { key: 'target', target: uidTarget(cursor) }
    case 'NOT':
      return { key: 'not', of: parseKey(reading, depth + 1) }
    case 'OR': {
      const left = parseKey(reading, depth + 1)
      cursor.space()
      return { key: 'or', left, right: parseKey(reading, depth + 1) }
    }
  }
}

function uidTarget(cursor: Cursor): Target {
  if (cursor.skips('$')) return { kind: 'saved', uid: true }
  return { kind: 'uids', set: cursor.sequenceSet() }
}

const argumentKeys = [
  'BCC',
  'BEFORE',
  'BODY',
  'CC',
  'FROM',
  'HEADER',
  'KEYWORD',
  'LARGER',
  'MODSEQ',
  'NOT',
  'OLDER',
  'ON',
  'OR',
  'SENTBEFORE',
  'SENTON',
  'SENTSINCE',
  'SINCE',
  'SMALLER',
  'SUBJECT',
  'TEXT',
  'TO',
  'UID',
  'UNKEYWORD',
  'YOUNGER',
] as const
const argumentKeySet: ReadonlySet<string> = new Set(argumentKeys)
function isArgumentKey(word: string): word is (typeof argumentKeys)[number] {
  return argumentKeySet.has(word)
}

function compareOf(word: string): 'before' | 'on' | 'since' {
  return word === 'BEFORE' ? 'before' : word === 'ON' ? 'on' : 'since'
}

function text(reading: Reading): string {
  const bytes = reading.cursor.astring('A search text is missing.')
  try {
    // Without a charset, eight-bit text can only be UTF-8, which many clients send.
    return (reading.decoder ?? utf8).decode(bytes)
  } catch {
    return reading.cursor.fail('A search text is not valid in its charset.')
  }
}
