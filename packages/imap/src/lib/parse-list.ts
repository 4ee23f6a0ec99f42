/** LIST and LSUB with the options of RFC 5258, RFC 5819, RFC 6154 and RFC 8440; the items of STATUS. */
import type { Command, ListReturn } from './command.ts'
import type { Cursor } from './cursor.ts'
import { readMailboxName } from './mailbox-name.ts'
import type { StatusItem } from './vocabulary.ts'

type ListCommand = Extract<Command, { name: 'LIST' | 'LSUB' }>

const nothing: ListReturn = {
  subscribed: false,
  children: false,
  specialUse: false,
  myRights: false,
  status: undefined,
}

export function parseLsub(cursor: Cursor): ListCommand {
  const reference = cursor.astring('A reference is missing.')
  cursor.space()
  const pattern = cursor.listPattern()
  return {
    name: 'LSUB',
    // The parents of subscribed mailboxes that a `%` stops at are listed too (RFC 3501 §6.3.9).
    request: {
      patterns: [join(cursor, reference, pattern)],
      subscribed: true,
      recursiveMatch: true,
      specialUse: false,
    },
    rootOnly: false,
    extended: false,
    returns: nothing,
  }
}

export function parseList(cursor: Cursor): ListCommand {
  let subscribed = false
  let recursiveMatch = false
  let specialUse = false
  let extended = false
  if (cursor.skips('(')) {
    extended = true
    let count = 0
    while (!cursor.skips(')')) {
      if (count++ > 0) cursor.space()
      switch (cursor.keyword('A selection option is missing.')) {
        case 'SUBSCRIBED':
          subscribed = true
          break
        case 'RECURSIVEMATCH':
          recursiveMatch = true
          break
        case 'SPECIAL-USE':
          specialUse = true
          break
        case 'REMOTE':
          break
        default:
          cursor.fail('There is no such selection option.')
      }
    }
    // RFC 5258 §3.1
    if (recursiveMatch && !subscribed && !specialUse) cursor.fail('RECURSIVEMATCH cannot stand alone.')
    cursor.space()
  }
  const reference = cursor.astring('A reference is missing.')
  cursor.space()
  const patterns: string[] = []
  let rootOnly = false
  if (cursor.skips('(')) {
    extended = true
    for (;;) {
      if (patterns.length >= cursor.limits.listPatterns) cursor.fail('There are too many patterns.')
      patterns.push(join(cursor, reference, cursor.listPattern()))
      if (cursor.skips(')')) break
      cursor.space()
    }
  } else {
    const pattern = cursor.listPattern()
    rootOnly = pattern.length === 0 && !extended
    patterns.push(join(cursor, reference, pattern))
  }
  let returns = nothing
  if (cursor.skipSpaces() && !cursor.atEnd) {
    cursor.takes('RETURN (', 'LIST takes nothing but RETURN after its pattern.')
    extended = true
    returns = parseReturn(cursor)
  }
  return {
    name: 'LIST',
    request: { patterns, subscribed, recursiveMatch, specialUse },
    rootOnly: rootOnly && !extended,
    extended,
    returns,
  }
}

function parseReturn(cursor: Cursor): ListReturn {
  let subscribed = false
  let children = false
  let specialUse = false
  let myRights = false
  let status: readonly StatusItem[] | undefined
  let count = 0
  while (!cursor.skips(')')) {
    if (count++ > 0) cursor.space()
    switch (cursor.keyword('A RETURN option is missing.')) {
      case 'SUBSCRIBED':
        subscribed = true
        break
      case 'CHILDREN':
        children = true
        break
      case 'SPECIAL-USE':
        specialUse = true
        break
      case 'MYRIGHTS':
        myRights = true
        break
      case 'STATUS':
        cursor.space()
        status = parseStatusItems(cursor)
        break
      default:
        cursor.fail('There is no such RETURN option.')
    }
  }
  return { subscribed, children, specialUse, myRights, status }
}

const statusItems: ReadonlySet<string> = new Set<StatusItem>([
  'MESSAGES',
  'RECENT',
  'UIDNEXT',
  'UIDVALIDITY',
  'UNSEEN',
  'DELETED',
  'SIZE',
  'HIGHESTMODSEQ',
  'APPENDLIMIT',
])

/** `(MESSAGES UNSEEN)`: each item once. */
export function parseStatusItems(cursor: Cursor): readonly StatusItem[] {
  cursor.takes('(', 'A list of STATUS items is missing.')
  const items: StatusItem[] = []
  for (;;) {
    const item = cursor.keyword('A STATUS item is missing.')
    if (!isStatusItem(item)) cursor.fail('There is no such STATUS item.')
    if (!items.includes(item)) items.push(item)
    if (cursor.skips(')')) return items
    cursor.space()
  }
}

function isStatusItem(word: string): word is StatusItem {
  return statusItems.has(word)
}

function join(cursor: Cursor, reference: Buffer, pattern: Buffer): string {
  if (reference.length + pattern.length > cursor.limits.mailboxNameBytes) cursor.fail('The pattern is too long.')
  return readMailboxName(reference.length === 0 ? pattern : Buffer.concat([reference, pattern]))
}
