/**
 * APPEND and MULTIAPPEND (RFC 3501 §6.3.11, RFC 3502, RFC 7888, RFC 7889).
 *
 * Message bytes go from the socket to the session's batch: a small message in one piece, a large one as it comes. A
 * message that is not wanted is refused before it is sent where the client waits for leave, otherwise its bytes are
 * read and dropped. Nothing is kept unless all messages arrived whole.
 */
import type { AppendPart } from './command.ts'
import type { Connection } from './connection.ts'
import { ImapError } from './error.ts'
import { ConnectionGone } from './output.ts'
import { parseAppendHead, parseAppendPart } from './parse-command.ts'
import { tagOf } from './reader.ts'
import type { AppendBatch } from './session.ts'

/** Messages up to this size are handed over as one buffer. */
export const APPEND_BUFFER_BYTES: number = 256 * 1024

interface Progress {
  tag: string
  batch: AppendBatch | undefined
  messages: number
}

/** Runs the APPEND whose first literal was announced, to its tagged reply. */
export async function runAppend(connection: Connection): Promise<void> {
  const progress: Progress = { tag: tagOf(connection.reader.command) ?? '*', batch: undefined, messages: 0 }
  let reply: string
  try {
    reply = await readMessages(connection, progress)
  } catch (error) {
    if (error instanceof ConnectionGone) {
      await dispose(connection, progress)
      throw error
    }
    reply = connection.failure(error)
    await dispose(connection, progress)
    if (!(await endCommand(connection))) {
      connection.bye('The literal is too large.', 'limit')
      return
    }
  }
  await dispose(connection, progress)
  if (reply.startsWith('BAD ')) connection.bad(progress.tag, reply.slice(4))
  else await connection.complete(progress.tag, reply, { rule: 'allowed', uid: false })
}

async function dispose(connection: Connection, progress: Progress): Promise<void> {
  const { batch } = progress
  progress.batch = undefined
  try {
    await batch?.[Symbol.asyncDispose]()
  } catch (error) {
    connection.report(error)
  }
}

async function readMessages(connection: Connection, progress: Progress): Promise<string> {
  const { reader, limits } = connection
  const head = parseAppendHead(reader.command, limits)
  const { session } = connection
  if (session === undefined) return refuse(connection, 'BAD Log in first.')
  let part: AppendPart = head
  for (;;) {
    if (reader.literalSize > session.appendLimit)
      throw new ImapError('TOOBIG', `The message is larger than ${session.appendLimit} bytes.`)
    // RFC 3502 §6.3.11: an empty message takes the command back.
    if (reader.literalSize === 0) throw new ImapError(undefined, 'An empty message is not kept.')
    if (++progress.messages > limits.appendMessages) throw new ImapError('LIMIT', 'There are too many messages.')
    progress.batch ??= await session.append(head.mailbox)
    await addMessage(connection, progress.batch, part)
    const event = await nextEvent(connection)
    if (event === 'append') {
      part = parseAppendPart(reader.command, limits)
      continue
    }
    if (event === 'refused') return `BAD ${reader.refusal}`
    if (event === 'fatal') {
      connection.bye('The literal is too large.', 'limit')
      throw new ConnectionGone('the command was cut off')
    }
    if (event !== 'append-end') throw new Error(`${event} inside APPEND`)
    if (reader.command.some((byte) => byte !== 0x20)) return 'BAD There is more than the command takes.'
    const saved = await progress.batch.commit()
    if (saved === undefined) return 'OK Append completed.'
    return `OK [APPENDUID ${saved.uidValidity} ${saved.uids.toString()}] Append completed.`
  }
}

async function addMessage(connection: Connection, batch: AppendBatch, part: AppendPart): Promise<void> {
  const { reader } = connection
  const size = reader.literalSize
  if (reader.literalSync) connection.output.text('+ OK\r\n')
  reader.accept()
  const message = { flags: part.flags, keywords: part.keywords, dateMs: part.dateMs, size }
  if (size > APPEND_BUFFER_BYTES) {
    await batch.add(message, pieces(connection))
    // A session that did not read to the end does not want the rest.
    while (reader.literalLeft > 0) if (reader.data() === undefined) await connection.moreInput()
    return
  }
  let whole: Buffer | undefined
  let used = 0
  while (reader.literalLeft > 0) {
    const piece = reader.data()
    if (piece === undefined) {
      await connection.moreInput()
      continue
    }
    if (used === 0 && piece.length === size) {
      whole = piece
      break
    }
    whole ??= Buffer.allocUnsafeSlow(size)
    piece.copy(whole, used)
    used += piece.length
  }
  await batch.add(message, whole!)
}

async function* pieces(connection: Connection): AsyncGenerator<Uint8Array> {
  const { reader } = connection
  while (reader.literalLeft > 0) {
    const piece = reader.data()
    if (piece === undefined) await connection.moreInput()
    else yield piece
  }
}

async function nextEvent(connection: Connection): Promise<ReturnType<typeof connection.reader.next>> {
  for (;;) {
    const event = connection.reader.next()
    if (event !== 'more') return event
    await connection.moreInput()
  }
}

async function refuse(connection: Connection, reply: string): Promise<string> {
  if (!(await endCommand(connection))) connection.bye('The literal is too large.', 'limit')
  return reply
}

/** Gets to the end of a command that failed somewhere. False if there is too much of it. */
async function endCommand(connection: Connection): Promise<boolean> {
  const { reader } = connection
  switch (reader.state) {
    case 'over':
      return true
    case 'decide':
      if (reader.literalSync) {
        // It is not sent without leave.
        reader.abandon()
        return true
      }
      if (
        reader.literalSize >
        (connection.session === undefined ? connection.limits.preAuthLiteralBytes : connection.limits.swallowBytes)
      )
        return false
      break
    case 'inside':
  }
  reader.skip()
  const event = await nextEvent(connection)
  return event !== 'fatal'
}
