/** What each command does. Data replies are written; how the command ended is returned, undefined where that was told already. */
import { UidSet } from '@mailstead/uidset'
import { authenticate, login } from './authenticate.ts'
import { capabilities } from './capabilities.ts'
import type { Command, SearchReturn } from './command.ts'
import type { Connection } from './connection.ts'
import { ImapError } from './error.ts'
import { formatQuoted, formatText } from './format.ts'
import { listMyRights, runAcl } from './run-acl.ts'
import {
  formatNamespaces,
  writeListEntry,
  writeNumbers,
  writeSelected,
  writeStatus,
  writeThreads,
  writeVanished,
} from './replies.ts'
import type { ImapSession, ListEntry, SearchResult, SelectedMailbox } from './session.ts'
import { ImapSyntaxError } from './syntax-error.ts'
import type { Target } from './vocabulary.ts'

type Of<Name extends Command['name'], One = Command> = One extends { readonly name: infer Names }
  ? Name extends Names
    ? One
    : never
  : never

const LOG_IN = 'BAD Log in first.'
const SELECT_FIRST = 'BAD Select a mailbox first.'
const READ_ONLY = 'NO [READ-ONLY] The mailbox is open for reading only.'

export async function execute(connection: Connection, tag: string, command: Command): Promise<string | undefined> {
  const { session, selected, output } = connection
  switch (command.name) {
    case 'CAPABILITY':
      output.text(`* CAPABILITY ${capabilities(connection)}\r\n`)
      return 'OK Capability completed.'
    case 'NOOP':
      return 'OK Nothing done.'
    case 'LOGOUT':
      output.text('* BYE Logging out.\r\n')
      connection.tagged(tag, 'OK Logout completed.')
      connection.finish('logout')
      return undefined
    case 'ID':
      return identify(connection, command)
    case 'STARTTLS':
      if (session !== undefined) return 'BAD Too late: logged in already.'
      await connection.startTls(tag)
      return undefined
    case 'LOGIN':
      if (session !== undefined) return 'BAD Logged in already.'
      if (!connection.mayLogin) return 'NO [PRIVACYREQUIRED] Use TLS first.'
      await login(connection, tag, 'LOGIN', { name: command.user, password: command.password })
      return undefined
    case 'AUTHENTICATE':
      if (session !== undefined) return 'BAD Logged in already.'
      return authenticate(connection, tag, command.mechanism, command.initial)
    default:
  }
  if (session === undefined) return LOG_IN
  switch (command.name) {
    case 'ENABLE':
      return enable(connection, command)
    case 'NAMESPACE': {
      const { personal, others, shared } = session.namespaces
      output.text(
        `* NAMESPACE ${formatNamespaces(personal)} ${formatNamespaces(others)} ${formatNamespaces(shared)}\r\n`,
      )
      return 'OK Namespace completed.'
    }
    case 'IDLE':
      connection.startIdle(tag)
      return undefined
    case 'SELECT':
    case 'EXAMINE':
      return select(connection, session, command)
    case 'CREATE':
      return create(session, command)
    case 'DELETE':
      if (command.mailbox === 'INBOX') return 'NO [CANNOT] INBOX cannot be deleted.'
      await session.remove(command.mailbox)
      return 'OK Delete completed.'
    case 'RENAME':
      await session.rename(command.from, stripTrailing(command.to))
      return 'OK Rename completed.'
    case 'SUBSCRIBE':
      await session.subscribe(stripTrailing(command.mailbox))
      return 'OK Subscribe completed.'
    case 'UNSUBSCRIBE':
      await session.unsubscribe(stripTrailing(command.mailbox))
      return 'OK Unsubscribe completed.'
    case 'LIST':
    case 'LSUB':
      return list(connection, session, command)
    case 'STATUS': {
      const data = await session.status(command.mailbox, command.items)
      if (command.items.includes('HIGHESTMODSEQ')) enableCondstore(connection)
      writeStatus(output, command.mailbox, command.items, data, session.appendLimit)
      return 'OK Status completed.'
    }
    case 'GETACL':
    case 'SETACL':
    case 'DELETEACL':
    case 'LISTRIGHTS':
    case 'MYRIGHTS':
      return runAcl(output, session.acl, command)
    default:
  }
  if (selected === undefined) return SELECT_FIRST
  switch (command.name) {
    case 'CHECK':
      return 'OK Check completed.'
    case 'CLOSE':
      try {
        if (!selected.readOnly) await selected.close()
      } finally {
        await connection.deselect()
      }
      return 'OK Close completed.'
    case 'UNSELECT':
      await connection.deselect()
      return 'OK Unselect completed.'
    case 'EXPUNGE':
      return expunge(connection, selected, command.uids)
    case 'FETCH':
      return fetch(connection, selected, command)
    case 'STORE':
      return store(connection, selected, command)
    case 'SEARCH':
      return search(connection, tag, selected, command)
    case 'SORT': {
      if (command.modSeq) enableCondstore(connection)
      const found = await selected.sort(command.criteria, command.key, { uid: command.uid })
      output.text('* SORT')
      for (const id of found) {
        output.gap()
        output.number(id)
      }
      if (command.modSeq && found.length > 0) {
        const { modSeq } = await selected.search(command.key, { uid: command.uid })
        output.text(` (MODSEQ ${modSeq})`)
      }
      output.text('\r\n')
      return 'OK Sort completed.'
    }
    case 'THREAD': {
      if (command.modSeq) enableCondstore(connection)
      const roots = await selected.thread(command.algorithm, command.key, { uid: command.uid })
      output.text('* THREAD')
      if (roots.length > 0) output.gap()
      writeThreads(output, roots)
      output.text('\r\n')
      return 'OK Thread completed.'
    }
    case 'COPY': {
      checkTarget(selected, command.target)
      const { copied } = await selected.copy(command.target, command.mailbox)
      if (copied === undefined) return 'OK Copy completed.'
      return `OK [COPYUID ${copied.uidValidity} ${copied.source.toString()} ${copied.destination.toString()}] Copy completed.`
    }
    case 'MOVE':
      return move(connection, selected, command)
  }
}

function identify(connection: Connection, command: Of<'ID'>): string {
  if (command.fields !== undefined)
    connection.emit({ type: 'client-id', fields: command.fields, user: connection.user })
  const fields = Object.entries(connection.options.serverId ?? { name: 'Mailstead' })
  const text = fields.map(([name, value]) => `${formatQuoted(formatText(name))} ${formatQuoted(formatText(value))}`)
  connection.output.text(`* ID ${text.length === 0 ? 'NIL' : `(${text.join(' ')})`}\r\n`)
  return 'OK Id completed.'
}

function enable(connection: Connection, command: Of<'ENABLE'>): string {
  const enabled: string[] = []
  for (const capability of command.capabilities) {
    if (capability === 'CONDSTORE' && !connection.condstore) {
      enableCondstore(connection)
      enabled.push(capability)
    } else if (capability === 'QRESYNC' && !connection.qresync) {
      // RFC 7162 §3.2.3: it brings CONDSTORE with it.
      enableCondstore(connection)
      connection.qresync = true
      enabled.push(capability)
    }
  }
  connection.output.text(`* ENABLED${enabled.map((name) => ` ${name}`).join('')}\r\n`)
  return 'OK Enable completed.'
}

/** RFC 7162 §3.1: the first command that shows the client knows modseqs makes every FETCH reply carry one. */
function enableCondstore(connection: Connection): void {
  if (connection.condstore) return
  connection.condstore = true
  // RFC 7162 §3.1.2.1 wants the starting point told to those who come late.
  const { selected } = connection
  if (selected !== undefined) connection.output.text(`* OK [HIGHESTMODSEQ ${selected.highestModSeq}] Highest.\r\n`)
}

async function select(
  connection: Connection,
  session: ImapSession,
  command: Of<'SELECT' | 'EXAMINE'>,
): Promise<string> {
  const { output } = connection
  if (command.resync !== undefined && !connection.qresync) return 'BAD ENABLE QRESYNC comes first.'
  if (connection.selected !== undefined) {
    // Even if the new one cannot be opened (RFC 3501 §6.3.1).
    await connection.deselect()
    output.text('* OK [CLOSED] The mailbox before is closed.\r\n')
  }
  if (command.condstore) connection.condstore = true
  const selected = await session.open(command.mailbox, { readOnly: command.name === 'EXAMINE' })
  if (connection.isOver) {
    await selected[Symbol.asyncDispose]()
    return 'NO Too late.'
  }
  connection.selected = selected
  writeSelected(output, selected)
  const { resync } = command
  if (resync !== undefined && resync.uidValidity === selected.uidValidity) {
    try {
      await selected.resync(resync, (uids) => writeVanished(output, uids, true), output)
    } catch (error) {
      // The client sees NO and nothing selected.
      await connection.deselect()
      throw error
    }
  }
  const done = command.name === 'SELECT' ? 'Select completed.' : 'Examine completed.'
  return selected.readOnly ? `OK [READ-ONLY] ${done}` : `OK [READ-WRITE] ${done}`
}

/** RFC 3501 §6.3.3: a delimiter at the end says that there will be children; here every mailbox may have them. */
function stripTrailing(name: string): string {
  return name.length > 1 && name.endsWith('/') ? name.slice(0, -1) : name
}

async function create(session: ImapSession, command: Of<'CREATE'>): Promise<string> {
  const mailbox = stripTrailing(command.mailbox)
  const [specialUse, more] = command.specialUse
  // RFC 6154 §5.2
  if (more !== undefined) return 'NO [USEATTR] A mailbox has one special use at most.'
  await session.create(mailbox, specialUse === undefined ? {} : { specialUse })
  return 'OK Create completed.'
}

async function list(connection: Connection, session: ImapSession, command: Of<'LIST' | 'LSUB'>): Promise<string> {
  const { output } = connection
  if (command.rootOnly) {
    output.text('* LIST (\\Noselect) "/" ""\r\n')
    return 'OK List completed.'
  }
  const { request, returns } = command
  const form = {
    label: command.name,
    extended: command.extended,
    returns,
    selectedSubscribed: request.subscribed,
    recursiveMatch: request.recursiveMatch,
  }
  const { acl } = session
  if (returns.myRights && acl === undefined) return 'BAD There is no such RETURN option.'
  const selectable: string[] = []
  const asksMore = returns.status !== undefined || returns.myRights
  await session.list(request, (entry: ListEntry) => {
    writeListEntry(output, entry, form)
    if (asksMore && entry.exists) selectable.push(entry.name)
  })
  if (returns.myRights && acl !== undefined) {
    for (const name of selectable) {
      await listMyRights(output, acl, name)
      const congested = output.pending()
      if (congested !== undefined) await congested
    }
  }
  if (returns.status !== undefined) {
    if (returns.status.includes('HIGHESTMODSEQ')) enableCondstore(connection)
    for (const name of selectable) {
      try {
        const data = await session.status(name, returns.status)
        writeStatus(output, name, returns.status, data, session.appendLimit)
      } catch (error) {
        // RFC 5819 §2: one that fails (gone meanwhile, no right to it) has no STATUS reply.
        if (!(error instanceof ImapError)) throw error
      }
      const congested = output.pending()
      if (congested !== undefined) await congested
    }
  }
  return command.name === 'LIST' ? 'OK List completed.' : 'OK Lsub completed.'
}

/** RFC 9051 §6.4.8 lets UIDs be unknown; a sequence number beyond the last message is the client's mistake. */
function checkTarget(selected: SelectedMailbox, target: Target): void {
  // QUIRK: 1:* of an empty mailbox, which many send, names nothing; having a star, it is not refused here.
  if (target.kind === 'sequences' && target.set.ranges.last > selected.count)
    throw new ImapSyntaxError('There are not so many messages.')
}

async function fetch(connection: Connection, selected: SelectedMailbox, command: Of<'FETCH'>): Promise<string> {
  checkTarget(selected, command.target)
  const { request } = command
  if (request.vanished && !connection.qresync) return 'BAD ENABLE QRESYNC comes first.'
  if (request.modSeq) enableCondstore(connection)
  // A section that sets \Seen reports a flag change, which carries its modseq.
  const reports = connection.condstore && !selected.readOnly && request.sections.some((section) => !section.peek)
  await selected.fetch(
    command.target,
    reports && !request.modSeq ? { ...request, modSeq: true } : request,
    connection.output,
    (uids) => writeVanished(connection.output, uids, true),
  )
  return 'OK Fetch completed.'
}

async function store(connection: Connection, selected: SelectedMailbox, command: Of<'STORE'>): Promise<string> {
  checkTarget(selected, command.target)
  if (selected.readOnly) return READ_ONLY
  const { request } = command
  if (request.unchangedSince !== undefined) enableCondstore(connection)
  const { modified, expunged } = await selected.store(
    command.target,
    connection.qresync && !request.uid ? { ...request, uid: true } : request,
    connection.output,
    { wantsModSeq: connection.condstore },
  )
  // RFC 7162 §3.1.3 has MODIFIED with NO where messages are gone; RFC 2180 §4.2.1 asks for NO.
  if (expunged === true)
    return `NO [${modified.isEmpty ? 'EXPUNGEISSUED' : `MODIFIED ${modified.toString()}`}] Some messages were expunged.`
  return modified.isEmpty ? 'OK Store completed.' : `OK [MODIFIED ${modified.toString()}] Some had changed.`
}

async function expunge(
  connection: Connection,
  selected: SelectedMailbox,
  uids: Target | undefined,
): Promise<string | undefined> {
  if (selected.readOnly) return READ_ONLY
  const updates = connection.updates({ mayExpunge: true, uid: uids !== undefined })
  await selected.expunge(uids, updates)
  return withModSeq(connection, selected, updates.expungedAny, uids !== undefined, 'Expunge completed.')
}

async function move(connection: Connection, selected: SelectedMailbox, command: Of<'MOVE'>): Promise<string> {
  checkTarget(selected, command.target)
  if (selected.readOnly) return READ_ONLY
  const updates = connection.updates({ mayExpunge: true, uid: command.uid })
  await selected.move(
    command.target,
    command.mailbox,
    ({ copied }) => {
      // RFC 6851 §4.3: before the expunges, so that the client knows where each went.
      if (copied !== undefined)
        connection.output.text(
          `* OK [COPYUID ${copied.uidValidity} ${copied.source.toString()} ${copied.destination.toString()}] Moved.\r\n`,
        )
    },
    updates,
  )
  return withModSeq(connection, selected, updates.expungedAny, command.uid, 'Move completed.')
}

/** RFC 7162 §3.2.7: the modseq after the expunges, once nothing older is left untold. */
async function withModSeq(
  connection: Connection,
  selected: SelectedMailbox,
  expunged: boolean,
  uid: boolean,
  text: string,
): Promise<string> {
  if (!connection.condstore) return `OK ${text}`
  const more = await connection.sync({ mayExpunge: true, uid })
  return expunged || more ? `OK [HIGHESTMODSEQ ${selected.highestModSeq}] ${text}` : `OK ${text}`
}

async function search(
  connection: Connection,
  tag: string,
  selected: SelectedMailbox,
  command: Of<'SEARCH'>,
): Promise<string> {
  const { output } = connection
  const { uid, key, returns } = command
  if (command.modSeq) enableCondstore(connection)
  if (returns === undefined) {
    const { found, modSeq } = await selected.search(key, { uid })
    output.text('* SEARCH')
    writeNumbers(output, found)
    if (command.modSeq && !found.isEmpty) output.text(` (MODSEQ ${modSeq})`)
    output.text('\r\n')
    return 'OK Search completed.'
  }
  let result: SearchResult
  try {
    result = await selected.search(key, { uid })
    if (returns.save) {
      const byUid = uid ? result : await selected.search(key, { uid: true })
      selected.saveResult(savedPart(byUid.found, returns))
    }
  } catch (error) {
    // RFC 5182 §2.1: a search that fails leaves nothing saved.
    if (returns.save) selected.saveResult(UidSet.empty)
    throw error
  }
  if (!(returns.min || returns.max || returns.all || returns.count)) return 'OK Search completed, result saved.'
  const { found } = result
  output.text(`* ESEARCH (TAG ${formatQuoted(tag)})${uid ? ' UID' : ''}`)
  if (!found.isEmpty) {
    if (returns.min) output.text(` MIN ${found.first}`)
    if (returns.max) output.text(` MAX ${found.last}`)
    if (returns.all) {
      output.text(' ALL ')
      output.text(found.toString())
    }
  }
  if (returns.count) output.text(` COUNT ${found.size}`)
  if (command.modSeq && !found.isEmpty) output.text(` MODSEQ ${toldModSeq(result, returns)}`)
  output.text('\r\n')
  return 'OK Search completed.'
}

/** RFC 4731 §3.2: with MIN or MAX and neither ALL nor COUNT, the modseq of the messages that are told; else of all found. */
function toldModSeq({ modSeq, firstModSeq, lastModSeq }: SearchResult, returns: SearchReturn): number {
  if (returns.all || returns.count) return modSeq
  return Math.max(returns.min ? firstModSeq : 0, returns.max ? lastModSeq : 0)
}

/** RFC 5182 §2.4: with MIN or MAX and neither ALL nor COUNT, those alone are saved. */
function savedPart(found: UidSet, returns: SearchReturn): UidSet {
  if (returns.all || returns.count || !(returns.min || returns.max) || found.isEmpty) return found
  const ends: number[] = []
  if (returns.min) ends.push(found.first)
  if (returns.max) ends.push(found.last)
  return UidSet.of(...ends)
}
