/**
 * LMTP (RFC 2033): mail comes in.
 *
 * The protocol is the `smtp-server` library's; what is here is who the recipients are, where their mail goes and what each of
 * them is answered. The message is kept exactly as it came through the protocol (dot-stuffing undone): no header is added
 * unless `returnPath` asks for one.
 *
 * INVARIANTS
 *   1. 250 for a recipient is sent only after the message is durable in that recipient's store.
 *   2. Recipients of one user are one frame of that store: all of them or none.
 *   3. One user's trouble is no other's: each gets an answer of its own, in the order of the RCPT commands (RFC 2033 §4.2).
 *   4. Memory: a message up to `gatherBytes` is collected, a longer one is streamed; never more per connection.
 */
import type { AddressInfo } from 'node:net'
import { type MailboxInfo, RIGHT_POST, type SaveTarget, type StoreSession } from '@mailstead/store'
import type { SMTPServerDataStream, SMTPServerOptions, SMTPServerSession } from 'smtp-server'
import { type Recipient, recipientOf } from './address.ts'
import { broadcast } from './broadcast.ts'
import { ServerError } from './error.ts'
import type { OnServerEvent } from './events.ts'
import { liveUser } from './imap-backend.ts'
import type { Namespaces, Place } from './namespaces.ts'
import { PromptServer, reply, SHUTTING_DOWN } from './prompt-server.ts'
import { isDamage, storeCodeOf } from './store-errors.ts'
import type { StorePool } from './store-pool.ts'
import type { User, Users } from './users.ts'

export interface LmtpOptions {
  readonly users: Users
  readonly pool: StorePool
  /** What folders may be in beside the user's own store. (default: nothing) */
  readonly namespaces?: Namespaces | undefined
  readonly onEvent: OnServerEvent
  /** Name in the greeting. */
  readonly hostname: string
  /** Largest message, in bytes: 552 beyond. */
  readonly messageMax: number
  /** Recipients of one message: 452 beyond. */
  readonly recipientsMax: number
  readonly connectionsMax: number
  /** Silence before a client is disconnected, in milliseconds. */
  readonly idleMs: number
  /** Between the user's name and the folder; empty: addresses have no folder. */
  readonly separator: string
  /** Begin each message with the envelope sender, as `Return-Path:`. */
  readonly returnPath: boolean
  readonly tls: { readonly cert: Buffer; readonly key: Buffer } | undefined
  /** Messages up to this many bytes are collected before they are handed to the store, longer ones streamed. (default 256 KiB) */
  readonly gatherBytes?: number
}

export interface LmtpServer extends AsyncDisposable {
  listen(host: string, port: number): Promise<AddressInfo>
  readonly connections: number
}

interface Accepted {
  readonly user: User
  readonly detail: string | undefined
  readonly address: string
}
type Reply = string | ReplyError

/** What goes into one store in one frame. */
interface Delivery {
  readonly user: User
  /** Of the store, if it is not the user's own. */
  readonly place: Place | undefined
  readonly members: readonly Accepted[]
}

const INBOX = 'INBOX'
/** What LHLO offers (SIZE, 8BITMIME, SMTPUTF8, DSN), and AUTH, which relays repeat whether or not it is offered. */
const MAIL_PARAMETERS: ReadonlySet<string> = new Set(['SIZE', 'BODY', 'SMTPUTF8', 'RET', 'ENVID', 'AUTH'])
const RCPT_PARAMETERS: ReadonlySet<string> = new Set(['NOTIFY', 'ORCPT'])
const LF = 10

export function lmtpServer(options: LmtpOptions): LmtpServer {
  const { users, onEvent } = options
  // The recipients of the message under way. smtp-server folds equal addresses into one; RFC 2033 wants a reply for each.
  const accepted = new WeakMap<SMTPServerSession, Accepted[]>()
  const delivering = new WeakSet<SMTPServerSession>()

  const settings: SMTPServerOptions = {
    lmtp: true,
    name: options.hostname,
    size: options.messageMax,
    disabledCommands: options.tls === undefined ? ['AUTH', 'STARTTLS'] : ['AUTH'],
    hideENHANCEDSTATUSCODES: false,
    disableReverseLookup: true,
    authOptional: true,
    logger: false,
    maxClients: options.connectionsMax,
    socketTimeout: options.idleMs,
    closeTimeout: 5_000,
    ...(options.tls === undefined ? {} : { cert: options.tls.cert, key: options.tls.key }),
    onSecure(socket, session, callback) {
      server.secured(session, socket)
      callback()
    },
    onMailFrom(address, session, callback) {
      if (unknownParameter(address.args, MAIL_PARAMETERS)) {
        callback(replyError(555, '5.5.4', 'Parameter is not known'))
        return
      }
      accepted.set(session, [])
      callback()
    },
    onRcptTo(address, session, callback) {
      if (unknownParameter(address.args, RCPT_PARAMETERS)) {
        callback(replyError(555, '5.5.4', 'Parameter is not known'))
        return
      }
      const find = (): Recipient | undefined => recipientOf(address.address, users, options.separator)
      const answer = (recipient: Recipient | undefined): void => {
        const list = accepted.get(session)
        if (recipient === undefined || list === undefined)
          callback(replyError(550, '5.1.1', `No such user: ${printable(address.address)}`))
        else if (list.length >= options.recipientsMax) callback(replyError(452, '4.5.3', 'Too many recipients'))
        else {
          list.push({ ...recipient, address: address.address })
          callback()
        }
      }
      const known = find()
      if (known !== undefined || users.renew === undefined) {
        answer(known)
        return
      }
      const later = (): void => callback(replyError(451, '4.3.0', 'Who is known cannot be told now; try again later'))
      users.renew().then((certain) => (certain ? answer(find()) : later()), later)
    },
    onData(stream, session, callback) {
      const list = accepted.get(session) ?? []
      accepted.set(session, [])
      const answer = callback as (error: Error | null, replies?: Reply[]) => void
      delivering.add(session)
      deliver(options, stream, session, list).then(
        (replies) => {
          delivering.delete(session)
          answer(null, replies)
        },
        (error: unknown) => {
          delivering.delete(session)
          onEvent({ level: 'error', kind: 'bug', message: 'delivery failed unexpectedly', error })
          answer(replyError(451, '4.3.0', 'Internal error'))
        },
      )
    },
  }
  const server = new PromptServer(settings)
  // A client that goes away is no news, and an `error` nobody listens to would end the process.
  server.on('error', (error: Error) => {
    onEvent({ level: 'debug', kind: 'lmtp-connection', message: error.message, error })
  })
  return {
    get connections(): number {
      return server.connections.size
    },
    async listen(host, port) {
      const { promise, resolve, reject } = Promise.withResolvers<void>()
      const onError = (error: Error): void => reject(error)
      server.once('error', onError)
      server.listen(port, host, () => resolve())
      try {
        await promise
      } catch (error) {
        const message = `LMTP cannot listen on ${host}:${port}: ${(error as Error).message}`
        throw new ServerError('SERVER_LISTEN', message, { cause: error })
      } finally {
        server.off('error', onError)
      }
      return server.server.address() as AddressInfo
    },
    async [Symbol.asyncDispose]() {
      const { promise, resolve } = Promise.withResolvers<void>()
      server.close(() => resolve())
      // Those in the middle of a message get its reply; the others are told at once.
      for (const connection of server.connections) {
        if (delivering.has(connection.session)) continue
        connection.send(421, SHUTTING_DOWN)
        connection.close()
      }
      await promise
    },
  }
}

async function deliver(
  options: LmtpOptions,
  stream: SMTPServerDataStream,
  session: SMTPServerSession,
  list: readonly Accepted[],
): Promise<Reply[]> {
  const prefix = options.returnPath ? returnPathOf(session) : undefined
  const groups = await deliveriesOf(options, list)
  const outcomes = new Map<Accepted, Reply>()
  try {
    const whole = await gather(stream, prefix, options.gatherBytes ?? 256 * 1024)
    if (whole instanceof Uint8Array) {
      await Promise.all(groups.map((group) => deliverTo(options, group, whole, stream, session, outcomes)))
    } else if (groups.length === 1) {
      await deliverTo(options, groups[0]!, whole, stream, session, outcomes)
    } else {
      const sources = broadcast(whole, groups.length)
      await Promise.all(groups.map((group, n) => deliverTo(options, group, sources[n]!, stream, session, outcomes)))
    }
  } finally {
    for (const { place } of groups) place?.[Symbol.dispose]()
    // Whatever was not read (every store failed) has to go by, or the reply could never be sent.
    if (!stream.readableEnded && !stream.destroyed) stream.resume()
  }
  return list.map((one) => outcomes.get(one) ?? replyError(451, '4.3.0', 'Internal error'))
}

/** Recipients by user, and of one user by store: one save each, whatever the number of folders. */
async function deliveriesOf(options: LmtpOptions, list: readonly Accepted[]): Promise<Delivery[]> {
  const found = new Map<string, { user: User; place: Place | undefined; members: Accepted[] }>()
  for (const one of list) {
    const place = await placeOf(options, one)
    const key = `${one.user.name}/${place?.prefix ?? ''}`
    const same = found.get(key)
    if (same === undefined) found.set(key, { user: one.user, place, members: [one] })
    else {
      place?.[Symbol.dispose]()
      same.members.push(one)
    }
  }
  return [...found.values()]
}

/** Where a folder of another store is, if the user may post to it; undefined: the mail is for the user's own. */
async function placeOf({ namespaces, users, onEvent }: LmtpOptions, one: Accepted): Promise<Place | undefined> {
  const { user, detail = '' } = one
  const name = namespaces?.spelled(detail)
  if (namespaces === undefined || name === undefined) return undefined
  try {
    const place = await namespaces.place(liveUser(user, users), name)
    if (place === undefined) return undefined
    try {
      await place.store.refresh()
      const folder = findFolder(place.store, name.slice(place.prefix.length))
      if (folder !== undefined && (folder.rights & RIGHT_POST) !== 0) return place
    } catch (error) {
      place[Symbol.dispose]()
      throw error
    }
    place[Symbol.dispose]()
  } catch (error) {
    // The mail is not held up by somebody else's store.
    onEvent({ level: 'warn', kind: 'delivery', message: `${name} cannot be delivered to`, user: user.name, error })
  }
  return undefined
}

async function deliverTo(
  options: LmtpOptions,
  { user, place, members: group }: Delivery,
  source: Uint8Array | AsyncIterable<Uint8Array>,
  stream: SMTPServerDataStream,
  session: SMTPServerSession,
  outcomes: Map<Accepted, Reply>,
): Promise<void> {
  try {
    if (stream.sizeExceeded) throw replyError(552, '5.3.4', 'Message is too large')
    using lease = place === undefined ? await options.pool.acquire(user) : undefined
    const mailboxes = place?.store ?? lease!.store.as(user)
    const prefix = place?.prefix ?? ''
    const folders = group.map(({ detail = '' }) =>
      place === undefined ? folderOf(mailboxes, detail) : findFolder(mailboxes, detail.slice(prefix.length))!.name,
    )
    // One target per folder.
    const targets: SaveTarget[] = [...new Set(folders)].map((mailbox) => ({ mailbox }))
    await using batch = mailboxes.save({ post: true })
    await batch.add(source, targets)
    // smtp-server answers 552 by itself, so nothing of such a message may stay.
    if (stream.sizeExceeded) throw replyError(552, '5.3.4', 'Message is too large')
    const saved = await batch.commit()
    for (const [n, one] of group.entries()) {
      const { mailbox, uid } = saved[targets.findIndex((target) => target.mailbox === folders[n])]!
      outcomes.set(one, reply('2.1.5', `Saved ${uid} in ${printable(prefix + mailbox)}`))
    }
    for (const { mailbox, uid } of saved)
      options.onEvent({
        level: 'debug',
        kind: 'delivered',
        message: 'delivered',
        user: user.name,
        remoteAddress: session.remoteAddress,
        mailbox,
        uid,
        bytes: stream.byteLength,
      })
  } catch (error) {
    const failure = replyFor(error)
    for (const one of group) outcomes.set(one, failure)
    options.onEvent({
      level: failure.responseCode === 552 ? 'info' : 'error',
      kind: 'delivery-failed',
      message: failure.text,
      user: user.name,
      remoteAddress: session.remoteAddress,
      error,
    })
  }
}

/** A folder that does not exist, or that the user closed to deliveries, means INBOX: waiting would not help. */
function folderOf(mailboxes: StoreSession, detail: string): string {
  if (detail === '' || detail.toUpperCase() === INBOX) return INBOX
  const folder = findFolder(mailboxes, detail)
  return folder === undefined || (folder.rights & RIGHT_POST) === 0 ? INBOX : folder.name
}

function findFolder(mailboxes: StoreSession, detail: string): MailboxInfo | undefined {
  const exact = mailboxes.mailbox(detail)
  if (exact !== undefined) return exact
  // Local parts reach us in lower case more often than not.
  const folded = detail.toLowerCase()
  return mailboxes.mailboxes().find(({ name }) => name.toLowerCase() === folded)
}

/** The message as one piece if it is short, else what was read of it and then the rest. Rejects when the client goes away. */
function gather(
  stream: SMTPServerDataStream,
  prefix: Uint8Array | undefined,
  gatherBytes: number,
): Promise<Uint8Array | AsyncIterable<Uint8Array>> {
  const { promise, resolve, reject } = Promise.withResolvers<Uint8Array | AsyncIterable<Uint8Array>>()
  const chunks: Uint8Array[] = prefix === undefined ? [] : [prefix]
  let bytes = 0
  const onData = (chunk: Buffer): void => {
    chunks.push(chunk)
    bytes += chunk.length
    if (bytes <= gatherBytes) return
    done()
    stream.pause()
    resolve(resumed(chunks, stream))
  }
  const onEnd = (): void => {
    done()
    resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks))
  }
  const onGone = (error?: Error): void => {
    done()
    reject(error ?? new Error('the client went away in the middle of a message'))
  }
  function done(): void {
    stream.off('data', onData)
    stream.off('end', onEnd)
    stream.off('error', onGone)
    stream.off('close', onGone)
  }
  stream.on('data', onData)
  stream.on('end', onEnd)
  stream.on('error', onGone)
  stream.on('close', onGone)
  return promise
}

async function* resumed(chunks: readonly Uint8Array[], stream: SMTPServerDataStream): AsyncGenerator<Uint8Array> {
  yield* chunks
  // Whoever stops early leaves the rest to be read past: see `deliver`.
  for await (const chunk of stream.iterator({ destroyOnReturn: false })) yield chunk as Buffer
}

function returnPathOf(session: SMTPServerSession): Uint8Array {
  const { mailFrom } = session.envelope
  return Buffer.from(`Return-Path: <${mailFrom === false ? '' : mailFrom.address}>\r${String.fromCharCode(LF)}`)
}

/** A reply that is none of success, as the library wants it. */
class ReplyError extends Error {
  readonly responseCode: number
  readonly text: string
  constructor(responseCode: number, enhanced: string, text: string) {
    super(reply(enhanced, text))
    this.responseCode = responseCode
    this.text = text
  }
}

function replyError(responseCode: number, enhanced: string, text: string): ReplyError {
  return new ReplyError(responseCode, enhanced, text)
}

/** What a failure is called on the wire: 4xx wherever a later try may succeed. */
function replyFor(error: unknown): ReplyError {
  if (error instanceof ReplyError) return error
  // Waiting does not help against damage, so its code is another than that of an outage. The sender keeps the mail in both.
  if (isDamage(error)) return replyError(451, '4.3.5', 'The mail store is damaged')
  const code = storeCodeOf(error)
  if (code === 'STORE_LIMIT') return replyError(552, '5.3.4', 'Message is too large')
  if (code === 'STORE_UNAVAILABLE')
    return noSpace(error)
      ? replyError(452, '4.3.1', 'Out of space')
      : replyError(451, '4.3.0', 'Storage is unavailable')
  return replyError(451, '4.3.0', 'Temporary failure')
}

function noSpace(error: unknown): boolean {
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause)
    if ((cause as { code?: unknown }).code === 'FS_NO_SPACE') return true
  return false
}

/** RFC 5321 §4.1.1.11: a parameter that is not known is refused, not passed over. */
function unknownParameter(args: unknown, known: ReadonlySet<string>): boolean {
  return typeof args === 'object' && args !== null && Object.keys(args).some((name) => !known.has(name))
}

function printable(text: string): string {
  return text.replace(/[^\x20-\x7e]/g, '?')
}
