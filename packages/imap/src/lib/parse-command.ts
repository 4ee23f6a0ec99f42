/** From the bytes of a command (RFC 9051 §9) to what it asks for. Throws `ImapSyntaxError`, never anything else. */
import { TextDecoder } from 'node:util'
import type { UidSet } from '@mailstead/uidset'
import type { AppendHead, AppendPart, Command, ParsedCommand } from './command.ts'
import { Cursor } from './cursor.ts'
import type { ImapLimits } from './limits.ts'
import { defaultLimits } from './limits.ts'
import { readMailboxName } from './mailbox-name.ts'
import { parseSetAcl, parseWithIdentifier } from './parse-acl.ts'
import { parseFetch } from './parse-fetch.ts'
import { parseFlags } from './parse-flags.ts'
import { parseList, parseLsub, parseStatusItems } from './parse-list.ts'
import { parseCharsetAndKeys, parseSearch, parseSortCriteria, parseThreadAlgorithm } from './parse-search.ts'
import type { ResyncRequest, SpecialUse } from './session.ts'
import { ImapSyntaxError } from './syntax-error.ts'
import type { StoreRequest, Target } from './vocabulary.ts'

/** Parses a whole command, literals included as they came, without the last line end. The result shares no memory with `bytes`. */
export function parseCommand(bytes: Buffer, limits: ImapLimits = defaultLimits): ParsedCommand {
  const cursor = new Cursor(bytes, limits)
  const tag = cursor.tag()
  try {
    cursor.space()
    const command = parseNamed(cursor, cursor.keyword('The command is missing.'), false)
    cursor.end()
    return { tag, command }
  } catch (error) {
    if (error instanceof ImapSyntaxError) error.tag = tag
    throw error
  }
}

/** Parses APPEND from its tag up to the first message's literal, which is not part of `bytes`. */
export function parseAppendHead(bytes: Buffer, limits: ImapLimits = defaultLimits): AppendHead {
  const cursor = new Cursor(bytes, limits)
  const tag = cursor.tag()
  try {
    cursor.space()
    cursor.takes('APPEND ', 'APPEND is expected.')
    const mailbox = mailboxName(cursor)
    cursor.space()
    return { tag, mailbox, ...appendPart(cursor) }
  } catch (error) {
    if (error instanceof ImapSyntaxError) error.tag = tag
    throw error
  }
}

/** Parses what stands between two messages of MULTIAPPEND (RFC 3502). */
export function parseAppendPart(bytes: Buffer, limits: ImapLimits = defaultLimits): AppendPart {
  const cursor = new Cursor(bytes, limits)
  cursor.space()
  return appendPart(cursor)
}

function appendPart(cursor: Cursor): AppendPart {
  let flags = 0
  let keywords: readonly string[] = []
  let dateMs: number | undefined
  if (cursor.sees('(')) {
    ;({ flags, keywords } = parseFlags(cursor, { bare: false }))
    cursor.space()
  }
  if (cursor.sees('"')) {
    dateMs = cursor.dateTime()
    cursor.space()
  }
  if (cursor.sees('~')) throw new ImapSyntaxError('Binary literals are not taken.', 'UNKNOWN-CTE')
  cursor.end()
  return { flags, keywords, dateMs }
}

function parseNamed(cursor: Cursor, name: string, uid: boolean): Command {
  switch (name) {
    case 'UID': {
      if (uid) break
      cursor.space()
      const inner = cursor.keyword('UID needs a command.')
      if (!['FETCH', 'STORE', 'COPY', 'MOVE', 'SEARCH', 'SORT', 'THREAD', 'EXPUNGE'].includes(inner))
        cursor.fail('There is no such UID command.')
      return parseNamed(cursor, inner, true)
    }
    case 'CAPABILITY':
    case 'NOOP':
    case 'LOGOUT':
    case 'STARTTLS':
    case 'CHECK':
    case 'CLOSE':
    case 'UNSELECT':
    case 'IDLE':
    case 'NAMESPACE':
      return { name }
    case 'EXPUNGE':
      if (!uid) return { name, uids: undefined }
      cursor.space()
      return { name, uids: target(cursor, true) }
    default:
  }
  const parse = withArguments.get(name)
  if (parse === undefined) cursor.fail('There is no such command.')
  cursor.space()
  return parse(cursor, uid)
}

const withArguments: ReadonlyMap<string, (cursor: Cursor, uid: boolean) => Command> = new Map([
  ['LOGIN', parseLogin],
  ['AUTHENTICATE', parseAuthenticate],
  ['ENABLE', parseEnable],
  ['ID', parseId],
  ['SELECT', (cursor: Cursor): Command => parseSelect(cursor, 'SELECT')],
  ['EXAMINE', (cursor: Cursor): Command => parseSelect(cursor, 'EXAMINE')],
  ['CREATE', parseCreate],
  ['DELETE', (cursor: Cursor): Command => ({ name: 'DELETE', mailbox: mailboxName(cursor) })],
  ['SUBSCRIBE', (cursor: Cursor): Command => ({ name: 'SUBSCRIBE', mailbox: mailboxName(cursor) })],
  ['UNSUBSCRIBE', (cursor: Cursor): Command => ({ name: 'UNSUBSCRIBE', mailbox: mailboxName(cursor) })],
  ['RENAME', parseRename],
  ['LIST', parseList],
  ['LSUB', parseLsub],
  ['STATUS', parseStatus],
  ['APPEND', (cursor: Cursor): Command => cursor.fail('APPEND needs a message as a literal.')],
  ['SEARCH', (cursor: Cursor, uid: boolean): Command => ({ name: 'SEARCH', uid, ...parseSearch(cursor, uid) })],
  ['SORT', parseSort],
  ['THREAD', parseThread],
  [
    'FETCH',
    (cursor: Cursor, uid: boolean): Command => {
      const where = target(cursor, uid)
      cursor.space()
      return { name: 'FETCH', uid, target: where, request: parseFetch(cursor, { uid }) }
    },
  ],
  ['STORE', parseStore],
  ['COPY', (cursor: Cursor, uid: boolean): Command => parseCopy(cursor, uid, 'COPY')],
  ['MOVE', (cursor: Cursor, uid: boolean): Command => parseCopy(cursor, uid, 'MOVE')],
  ['GETACL', (cursor: Cursor): Command => ({ name: 'GETACL', mailbox: mailboxName(cursor) })],
  ['MYRIGHTS', (cursor: Cursor): Command => ({ name: 'MYRIGHTS', mailbox: mailboxName(cursor) })],
  ['SETACL', (cursor: Cursor): Command => parseSetAcl(cursor, mailboxName(cursor))],
  ['DELETEACL', (cursor: Cursor): Command => parseWithIdentifier(cursor, 'DELETEACL', mailboxName(cursor))],
  ['LISTRIGHTS', (cursor: Cursor): Command => parseWithIdentifier(cursor, 'LISTRIGHTS', mailboxName(cursor))],
])

function mailboxName(cursor: Cursor): string {
  const bytes = cursor.astring('A mailbox name is missing.')
  if (bytes.length > cursor.limits.mailboxNameBytes) throw new ImapSyntaxError('The mailbox name is too long.', 'LIMIT')
  if (bytes.length === 0) throw new ImapSyntaxError('The mailbox name is empty.', 'CANNOT')
  return readMailboxName(bytes)
}

function target(cursor: Cursor, uid: boolean): Target {
  if (cursor.skips('$')) return { kind: 'saved', uid }
  return { kind: uid ? 'uids' : 'sequences', set: cursor.sequenceSet() }
}

const strictUtf8: TextDecoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Names and passwords: UTF-8, or else each byte a character. */
function credential(bytes: Buffer): string {
  try {
    return strictUtf8.decode(bytes)
  } catch {
    return bytes.toString('latin1')
  }
}

function parseLogin(cursor: Cursor): Command {
  const user = credential(cursor.astring('A user name is missing.'))
  cursor.space()
  const password = credential(cursor.astring('A password is missing.'))
  return { name: 'LOGIN', user, password }
}

function parseAuthenticate(cursor: Cursor): Command {
  const mechanism = cursor.word('A mechanism is missing.')
  let initial: string | undefined
  if (cursor.skipSpaces() && !cursor.atEnd) {
    initial = cursor.bytes.toString('latin1', cursor.at)
    cursor.at = cursor.bytes.length
    if (!/^(?:=|[A-Za-z0-9+/]+={0,2})$/.test(initial)) cursor.fail('The initial response is not base64.')
  }
  return { name: 'AUTHENTICATE', mechanism, initial }
}

function parseEnable(cursor: Cursor): Command {
  const capabilities: string[] = []
  for (;;) {
    capabilities.push(cursor.word('A capability is missing.'))
    if (capabilities.length > 64) cursor.fail('There are too many capabilities.')
    if (!cursor.skipSpaces() || cursor.atEnd) return { name: 'ENABLE', capabilities }
  }
}

function parseId(cursor: Cursor): Command {
  if (cursor.skips('NIL')) return { name: 'ID', fields: undefined }
  cursor.takes('(', 'ID needs a list or NIL.')
  const fields = new Map<string, string | undefined>()
  while (!cursor.skips(')')) {
    if (fields.size > 0) cursor.space()
    // RFC 2971 §3.3: at most 30 pairs.
    if (fields.size >= 30) cursor.fail('ID has too many fields.')
    const field = cursor.string('A field of ID is missing.').toString('latin1')
    cursor.space()
    fields.set(field, cursor.nstring('A value of ID is missing.')?.toString('utf8'))
  }
  return { name: 'ID', fields }
}

function parseSelect(cursor: Cursor, name: 'SELECT' | 'EXAMINE'): Command {
  const mailbox = mailboxName(cursor)
  let condstore = false
  let resync: ResyncRequest | undefined
  if (cursor.skipSpaces() && !cursor.atEnd) {
    cursor.takes('(', 'SELECT parameters are malformed.')
    for (;;) {
      const parameter = cursor.keyword('A SELECT parameter is missing.')
      if (parameter === 'CONDSTORE') condstore = true
      else if (parameter === 'QRESYNC') {
        cursor.space()
        resync = parseResync(cursor)
      } else cursor.fail('There is no such SELECT parameter.')
      if (cursor.skips(')')) break
      cursor.space()
    }
  }
  return { name, mailbox, condstore, resync }
}

/** `(uidvalidity modseq [known-uids] [(known-sequences known-uids)])`: RFC 7162 §3.2.5. */
function parseResync(cursor: Cursor): ResyncRequest {
  cursor.takes('(', 'QRESYNC parameters are missing.')
  const uidValidity = cursor.nonZero('UIDVALIDITY is missing.')
  cursor.space()
  const modSeq = cursor.modSeq()
  // RFC 7162 §7: mod-sequence-value, which is positive.
  if (modSeq === 0) cursor.fail('A mod-sequence of QRESYNC is positive.')
  let knownUids: UidSet | undefined
  let sequenceMatch: ResyncRequest['sequenceMatch']
  if (cursor.skips(' ') && !cursor.sees('(')) {
    knownUids = cursor.knownSet()
    cursor.skips(' ')
  }
  if (cursor.skips('(')) {
    const sequences = cursor.knownSet()
    cursor.space()
    const uids = cursor.knownSet()
    if (sequences.size !== uids.size) cursor.fail('QRESYNC pairs unequal numbers of messages and UIDs.')
    sequenceMatch = { sequences, uids }
    cursor.takes(')', 'QRESYNC parameters are malformed.')
  }
  cursor.takes(')', 'QRESYNC parameters are malformed.')
  return { uidValidity, modSeq, knownUids, sequenceMatch }
}

const specialUses: ReadonlyMap<string, SpecialUse> = new Map([
  ['ALL', '\\All'],
  ['ARCHIVE', '\\Archive'],
  ['DRAFTS', '\\Drafts'],
  ['FLAGGED', '\\Flagged'],
  ['JUNK', '\\Junk'],
  ['SENT', '\\Sent'],
  ['TRASH', '\\Trash'],
])

function parseCreate(cursor: Cursor): Command {
  const mailbox = mailboxName(cursor)
  const specialUse: SpecialUse[] = []
  if (cursor.skipSpaces() && !cursor.atEnd) {
    cursor.takes('(USE (', 'There is no such CREATE parameter.')
    while (!cursor.skips(')')) {
      if (specialUse.length > 0) cursor.space()
      cursor.takes('\\', 'A special use is missing.')
      const use = specialUses.get(cursor.word('A special use is missing.'))
      // RFC 6154 §3: a use that the server does not have is refused, not malformed.
      if (use === undefined) throw new ImapSyntaxError('There is no such special use.', 'USEATTR')
      if (!specialUse.includes(use)) specialUse.push(use)
    }
    cursor.takes(')', 'CREATE parameters are malformed.')
  }
  return { name: 'CREATE', mailbox, specialUse }
}

function parseRename(cursor: Cursor): Command {
  const from = mailboxName(cursor)
  cursor.space()
  return { name: 'RENAME', from, to: mailboxName(cursor) }
}

function parseStatus(cursor: Cursor): Command {
  const mailbox = mailboxName(cursor)
  cursor.space()
  return { name: 'STATUS', mailbox, items: parseStatusItems(cursor) }
}

function parseSort(cursor: Cursor, uid: boolean): Command {
  const criteria = parseSortCriteria(cursor)
  cursor.space()
  return { name: 'SORT', uid, criteria, ...parseCharsetAndKeys(cursor, uid) }
}

function parseThread(cursor: Cursor, uid: boolean): Command {
  const algorithm = parseThreadAlgorithm(cursor)
  cursor.space()
  return { name: 'THREAD', uid, algorithm, ...parseCharsetAndKeys(cursor, uid) }
}

function parseStore(cursor: Cursor, uid: boolean): Command {
  const where = target(cursor, uid)
  cursor.space()
  let unchangedSince: number | undefined
  if (cursor.skips('(')) {
    cursor.takes('UNCHANGEDSINCE ', 'There is no such STORE modifier.')
    unchangedSince = cursor.modSeq()
    cursor.takes(')', 'STORE modifiers are malformed.')
    cursor.space()
  }
  const mode: StoreRequest['mode'] = cursor.skips('+') ? 'add' : cursor.skips('-') ? 'remove' : 'replace'
  const item = cursor.keyword('A STORE item is missing.')
  if (item !== 'FLAGS' && item !== 'FLAGS.SILENT') cursor.fail('There is no such STORE item.')
  cursor.space()
  const { flags, keywords } = parseFlags(cursor, { bare: true })
  const silent = item === 'FLAGS.SILENT'
  return {
    name: 'STORE',
    uid,
    target: where,
    request: { mode, flags, keywords, silent, unchangedSince, uid },
  }
}

function parseCopy(cursor: Cursor, uid: boolean, name: 'COPY' | 'MOVE'): Command {
  const where = target(cursor, uid)
  cursor.space()
  return { name, uid, target: where, mailbox: mailboxName(cursor) }
}
