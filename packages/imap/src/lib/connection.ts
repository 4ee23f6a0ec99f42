/**
 * One client: reads commands, runs them one after another, writes replies.
 *
 * INVARIANTS
 *   1. Commands run in the order they came, one at a time; while one runs, at most one chunk more is read.
 *   2. An idle connection holds no buffer, no timer, no promise and no suspended function: this object, its reader and
 *      output, the socket, and what the session keeps.
 *   3. Nothing is thrown out of here. What a session throws becomes a reply; what is nobody's fault but ours goes to
 *      `onError` too.
 *   4. Plaintext received before STARTTLS took effect is forgotten.
 */
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { UidSet } from '@mailstead/uidset'
import type { Authentication } from './authenticate.ts'
import { capabilities } from './capabilities.ts'
import type { CloseReason, ImapConnection, ImapEvent, ImapServerOptions } from './engine-options.ts'
import { ImapError } from './error.ts'
import { execute } from './execute.ts'
import { expungeRule } from './expunge-rule.ts'
import { formatText } from './format.ts'
import { type ImapLimits, withLimits } from './limits.ts'
import { ConnectionGone, Output, unheard } from './output.ts'
import { parseCommand } from './parse-command.ts'
import { CommandReader, type ReaderEvent, type ReaderLimits } from './reader.ts'
import { Updates } from './replies.ts'
import { runAppend } from './run-append.ts'
import type { ImapSession, SelectedMailbox } from './session.ts'
import { offAbort, onAbort, startSweeping, stopSweeping } from './sweep.ts'
import { ImapSyntaxError } from './syntax-error.ts'

/** What a client that was told BYE gets before the connection is cut, in milliseconds. */
const LINGER_MS = 5000
/** Silence after which the kernel asks whether the client is still there, in milliseconds. */
const KEEP_ALIVE_MS = 120_000

const kConnection = Symbol('connection')
interface Attached extends Duplex {
  [kConnection]?: Connection | undefined
}

function onData(this: Attached, chunk: Buffer): void {
  this[kConnection]?.received(chunk)
}
function onEnd(this: Attached): void {
  this[kConnection]?.ended()
}
function onClose(this: Attached): void {
  this[kConnection]?.lost()
}
function onSocketError(this: Attached): void {
  // 'close' follows.
}

export class Connection implements ImapConnection {
  readonly options: ImapServerOptions
  readonly limits: ImapLimits
  readonly reader: CommandReader
  readonly output: Output
  session: ImapSession | undefined = undefined
  selected: SelectedMailbox | undefined = undefined
  condstore = false
  qresync = false
  secure: boolean
  loginFailures = 0
  authentication: Authentication | undefined = undefined
  /** Tag of the IDLE in progress. */
  idleTag: string | undefined = undefined

  #socket: Attached
  #watch: Disposable | undefined = undefined
  #changed = false
  #busy = false
  #over = false
  #ended = false
  /** Nothing runs and nothing more will. */
  #closed = false
  #disposed = false
  #reason: CloseReason = 'gone'
  #bad = 0
  /** The client knows that the mailbox cannot be looked at. */
  #warned = false
  #since: number
  #progress = 0
  #startedAt: number
  #waiter: PromiseWithResolvers<void> | undefined = undefined
  #done: PromiseWithResolvers<void> | undefined = undefined
  #shutdown: (() => void) | undefined = undefined

  constructor(socket: Duplex, options: ImapServerOptions) {
    this.options = options
    this.limits = withLimits(options.limits)
    this.secure = options.secure
    this.reader = new CommandReader(preAuthLimits(this.limits))
    this.output = new Output(socket)
    this.#socket = socket
    this.#startedAt = this.now()
    this.#since = this.#startedAt
    this.#attach(socket)
    startSweeping(this)
    this.output.text(
      `* OK [CAPABILITY ${capabilities(this)}] ${formatText(options.greeting ?? 'Mailstead ready.')}\r\n`,
    )
    this.output.flush()
    if (options.signal !== undefined) {
      this.#shutdown = () => this.shutdown()
      onAbort(options.signal, this.#shutdown)
      if (options.signal.aborted) this.shutdown()
    }
  }

  // What embedders see

  get user(): string | undefined {
    return this.session?.user
  }

  get closed(): Promise<void> {
    if (this.#disposed) return Promise.resolve()
    this.#done ??= Promise.withResolvers<void>()
    return this.#done.promise
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.shutdown()
    await this.closed
  }

  /** BYE, after the command in progress. */
  shutdown(): void {
    if (this.#over) return
    this.#reason = 'shutdown'
    if (this.#busy && this.#waiter === undefined) {
      this.#ended = true
      return
    }
    this.bye('Server is shutting down.', 'shutdown')
    this.#settle()
  }

  // What commands use

  get remoteAddress(): string {
    return this.options.remoteAddress ?? (this.#socket as Partial<Socket>).remoteAddress ?? ''
  }

  get mayLogin(): boolean {
    return this.secure || this.options.loopback
  }

  now(): number {
    return this.options.now === undefined ? Date.now() : this.options.now()
  }

  emit(event: ImapEvent): void {
    try {
      this.options.onEvent?.(event)
    } catch (error) {
      this.report(error)
    }
  }

  report(error: unknown): void {
    try {
      this.options.onError?.(error)
    } catch {
      // A broken listener is not a reason to break connections.
    }
  }

  tagged(tag: string, reply: string): void {
    this.output.text(`${tag} ${reply}\r\n`)
  }

  /** Says BYE and ends the connection. */
  bye(text: string, reason: CloseReason): void {
    if (this.#over) return
    if (!this.output.gone) this.output.text(`* BYE ${text}\r\n`)
    this.finish(reason)
  }

  /** Ends the connection when everything written is sent. */
  finish(reason: CloseReason): void {
    if (this.#over) return
    this.#over = true
    this.#reason = reason
    this.#since = this.now()
    this.reader.reset()
    this.output.flush()
    if (!this.output.gone) this.#socket.end()
    this.output.fail()
    // What the client still says is read and dropped, so that it sees our last words.
    this.#socket.resume()
    const waiter = this.#waiter
    this.#waiter = undefined
    waiter?.reject(new ConnectionGone('the connection is over'))
  }

  get isOver(): boolean {
    return this.#over
  }

  loggedIn(session: ImapSession): void {
    this.session = session
    this.reader.setLimits(this.limits)
  }

  /** For a command that reads its input piece by piece: resolves when there is more. Rejects when the client is gone. */
  moreInput(): Promise<void> {
    if (this.#over || this.#ended || this.output.gone) return Promise.reject(new ConnectionGone('the client is gone'))
    this.output.flush()
    this.#waiter = Promise.withResolvers<void>()
    this.#socket.resume()
    return unheard(this.#waiter.promise)
  }

  async deselect(): Promise<void> {
    const { selected } = this
    this.selected = undefined
    this.#unwatch()
    if (selected !== undefined) await selected[Symbol.asyncDispose]()
  }

  /** Tells the client what changed. Returns whether messages went. */
  async sync(options: { readonly mayExpunge: boolean; readonly uid: boolean }): Promise<boolean> {
    const { selected } = this
    if (selected === undefined || this.#over) return false
    const updates = this.updates(options)
    await selected.sync({ expunges: options.mayExpunge }, updates)
    if (options.mayExpunge) this.#warned = false
    return updates.expungedAny
  }

  updates(options: { readonly mayExpunge: boolean; readonly uid: boolean }): Updates {
    return new Updates(this.output, {
      mayExpunge: options.mayExpunge,
      vanished: this.qresync,
      uid: options.uid || this.qresync,
      modSeq: this.condstore,
    })
  }

  /** What a failure is told as. */
  failure(error: unknown): string {
    if (error instanceof ImapSyntaxError)
      return error.code === undefined ? `BAD ${error.message}` : `NO [${error.code}] ${error.message}`
    if (error instanceof ImapError)
      return error.code === undefined
        ? `NO ${formatText(error.message)}`
        : `NO [${error.code}] ${formatText(error.message)}`
    this.report(error)
    return 'NO [SERVERBUG] Internal error.'
  }

  startIdle(tag: string): void {
    this.idleTag = tag
    this.reader.expectLine()
    this.#changed = true
    this.#watch = this.selected?.watch(() => this.#onChange())
    this.output.text('+ idling\r\n')
  }

  async startTls(tag: string): Promise<void> {
    const { startTls } = this.options
    if (startTls === undefined || this.secure) {
      this.tagged(tag, 'BAD TLS is not to be had here.')
      return
    }
    const plain = this.#socket
    // Anything that came with STARTTLS came from somebody who may not be the client.
    this.reader.reset()
    this.tagged(tag, 'OK Begin TLS now.')
    this.output.flush()
    this.#detach(plain)
    while (plain.read() !== null);
    try {
      const secured = await startTls(plain)
      this.#socket = secured
      this.output.useSocket(secured)
      this.#attach(secured)
      this.secure = true
      this.emit({ type: 'tls', remoteAddress: this.remoteAddress })
    } catch {
      plain.destroy()
      this.#reason = 'tls'
      this.lost()
    }
  }

  // The socket

  #attach(socket: Attached): void {
    socket[kConnection] = this
    if (socket instanceof Socket) {
      // A reply is written whole, so waiting for more to send gains nothing.
      socket.setNoDelay(true)
      socket.setKeepAlive(true, KEEP_ALIVE_MS)
    }
    socket.on('data', onData)
    socket.on('end', onEnd)
    socket.on('close', onClose)
    socket.on('error', onSocketError)
    if (socket.destroyed) this.lost()
  }

  #detach(socket: Attached): void {
    socket[kConnection] = undefined
    socket.off('data', onData)
    socket.off('end', onEnd)
    socket.off('close', onClose)
    socket.pause()
  }

  received(chunk: Buffer): void {
    if (this.#over) return
    this.#since = this.now()
    this.reader.push(chunk)
    const waiter = this.#waiter
    if (waiter !== undefined) {
      this.#waiter = undefined
      waiter.resolve()
    } else if (this.#busy) this.#socket.pause()
    else void this.#run()
  }

  /** The client will send nothing more. What it sent is still answered, if it listens. */
  ended(): void {
    if (!this.#socket.allowHalfOpen) this.output.fail()
    this.#ended = true
    const waiter = this.#waiter
    this.#waiter = undefined
    waiter?.reject(new ConnectionGone('the client is gone'))
    if (!this.#busy) {
      this.finish(this.#reason)
      this.#settle()
    }
  }

  lost(): void {
    this.output.fail()
    this.#ended = true
    this.#over = true
    this.reader.reset()
    const waiter = this.#waiter
    this.#waiter = undefined
    waiter?.reject(new ConnectionGone('the client is gone'))
    this.#settle()
  }

  sweep(): void {
    const now = this.now()
    const quiet = now - this.#since
    if (this.#over) {
      if (quiet > LINGER_MS) this.#socket.destroy()
      return
    }
    if (this.session === undefined && now - this.#startedAt > this.limits.preAuthTimeoutMs) {
      this.bye('Nobody logged in.', 'no-login')
      this.#settle()
      return
    }
    const unsent = this.output.unsentBytes > 0
    const atWork = this.#busy && this.#waiter === undefined
    if (unsent ? this.output.progress !== this.#progress : atWork) {
      // The client takes what it gets, or a command is at work.
      this.#progress = this.output.progress
      this.#since = now
      return
    }
    const between = !this.#busy && !unsent && this.reader.isIdle
    if (quiet <= (between ? this.limits.idleTimeoutMs : this.limits.stallTimeoutMs)) return
    if (between) {
      this.bye('Nothing happened for too long.', 'idle')
    } else {
      this.#reason = 'stalled'
      if (!unsent) this.bye('The command never ended.', 'stalled')
      else this.#socket.destroy()
    }
    this.#settle()
  }

  // The loop

  #onChange(): void {
    if (this.#changed) return
    this.#changed = true
    // However many changes a turn of the event loop brings, they are told together.
    setImmediate(() => {
      if (!this.#busy && !this.#over) void this.#run()
    })
  }

  async #run(): Promise<void> {
    this.#busy = true
    try {
      while (!this.#over) {
        if (this.#changed && this.idleTag !== undefined) {
          this.#changed = false
          try {
            await this.sync({ mayExpunge: true, uid: false })
          } catch (error) {
            if (!this.#keepsTrack(error)) this.#lostTrack(error)
            else this.#warn(error)
          }
          if (this.#over) break
          const congested = this.output.pending()
          if (congested !== undefined) await congested
          continue
        }
        const event = this.reader.next()
        if (event === 'more') break
        const handled = this.#handle(event)
        if (handled !== undefined) await handled
        const congested = this.output.pending()
        if (congested !== undefined) await congested
        if (this.#ended && this.#reason === 'shutdown') this.bye('Server is shutting down.', 'shutdown')
      }
    } catch (error) {
      if (!(error instanceof ConnectionGone)) {
        this.report(error)
        this.bye('Internal error.', 'internal-error')
      }
    }
    this.#busy = false
    this.output.flush()
    if (this.#ended && this.#reason === 'shutdown') this.bye('Server is shutting down.', 'shutdown')
    else if (this.#ended) this.finish(this.#reason)
    if (this.#over) this.#settle()
    else this.#socket.resume()
  }

  #handle(event: ReaderEvent): Promise<void> | undefined {
    switch (event) {
      case 'continue':
        this.output.text('+ OK\r\n')
        return undefined
      case 'command':
        return this.#command()
      case 'append':
        return runAppend(this)
      case 'line':
        return this.#line()
      case 'refused': {
        const tag = this.authentication?.tag ?? this.idleTag ?? this.reader.refusedTag ?? '*'
        if (this.authentication !== undefined) this.authentication = undefined
        if (this.idleTag !== undefined) this.#endIdle()
        this.bad(tag, this.reader.refusal)
        return undefined
      }
      case 'fatal':
        this.bye('The literal is too large.', 'limit')
        return undefined
      case 'append-end':
      case 'skipped':
      case 'more':
        throw new Error(`${event} outside APPEND`)
    }
  }

  /** BAD, and BYE after too many. */
  bad(tag: string, why: string): void {
    this.tagged(tag, `BAD ${formatText(why)}`)
    this.#bad++
    this.emit({ type: 'bad-command', user: this.user, remoteAddress: this.remoteAddress })
    const limit = this.session === undefined ? this.limits.preAuthBadCommands : this.limits.badCommands
    if (this.#bad >= limit) this.bye('Too many bad commands.', 'bad-commands')
  }

  async #command(): Promise<void> {
    let parsed: ReturnType<typeof parseCommand>
    try {
      parsed = parseCommand(this.reader.command, this.limits)
    } catch (error) {
      if (!(error instanceof ImapSyntaxError)) throw error
      const { tag, code, message } = error
      if (code !== undefined && tag !== undefined && this.session !== undefined) {
        if (error.losesSaved) this.selected?.saveResult(UidSet.empty)
        this.tagged(tag, `NO [${code}] ${message}`)
      } else this.bad(tag ?? '*', message)
      return
    }
    const { tag, command } = parsed
    let reply: string | undefined
    try {
      reply = await execute(this, tag, command)
    } catch (error) {
      if (error instanceof ConnectionGone) throw error
      reply = this.failure(error)
      if (!this.output.repair()) {
        // Half a reply cannot be taken back.
        this.finish('internal-error')
        this.#socket.destroy()
        return
      }
    }
    if (reply === undefined) return
    if (reply.startsWith('BAD ')) {
      this.bad(tag, reply.slice(4))
      return
    }
    this.#bad = 0
    const rule = expungeRule(command.name, 'uid' in command ? command.uid : false)
    const looksOnly = command.name === 'NOOP' || command.name === 'CHECK'
    await this.complete(tag, reply, { rule, uid: 'uid' in command ? command.uid : false, looksOnly })
  }

  /** Tells what changed, as the rule allows, and then how the command ended. */
  async complete(
    tag: string,
    reply: string,
    options: {
      readonly rule: ReturnType<typeof expungeRule>
      readonly uid: boolean
      /** NOOP, CHECK: to be told what changed is all the client wants. */
      readonly looksOnly?: boolean
    },
  ): Promise<void> {
    let last = reply
    if (options.rule !== 'none' && this.selected !== undefined) {
      try {
        const went = await this.sync({ mayExpunge: options.rule === 'allowed', uid: options.uid })
        // RFC 7162 §3.2.10: the client may go on from here next time.
        if (went && this.qresync && last.startsWith('OK ') && !last.startsWith('OK ['))
          last = `OK [HIGHESTMODSEQ ${this.selected.highestModSeq}] ${last.slice(3)}`
      } catch (error) {
        if (!this.#keepsTrack(error)) {
          this.tagged(tag, last)
          this.#lostTrack(error)
          return
        }
        // What the command did is done. Where it was only to look, say that nobody can.
        if (options.looksOnly === true) last = this.failure(error)
        else this.#warn(error)
      }
    }
    this.tagged(tag, last)
  }

  /** The store is away or damaged: what the client was told is true, and what changed is told another time. */
  #keepsTrack(error: unknown): boolean {
    return (
      error instanceof ImapError &&
      (error.code === 'UNAVAILABLE' || error.code === 'CORRUPTION' || error.code === 'SERVERBUG') &&
      this.output.repair()
    )
  }

  /** An outage passes; of damage the client is told by an untagged NO (RFC 3501 §7.1.2), once while it lasts. */
  #warn(error: unknown): void {
    if (this.#warned || (error instanceof ImapError && error.code === 'UNAVAILABLE')) return
    this.#warned = true
    this.output.text(`* ${this.failure(error)}\r\n`)
  }

  /** The client's view can no longer be brought up to date: it has to start afresh. */
  #lostTrack(error: unknown): void {
    if (error instanceof ConnectionGone) throw error
    if (!(error instanceof ImapError)) this.report(error)
    this.bye('The mailbox cannot be synchronized any more.', 'internal-error')
  }

  async #line(): Promise<void> {
    if (this.authentication !== undefined) {
      await this.authentication.answer(this, this.reader.command)
      return
    }
    const tag = this.idleTag
    if (tag === undefined) throw new Error('a line that nobody asked for')
    const done = this.reader.command.toString('latin1').trim().toUpperCase() === 'DONE'
    this.#endIdle()
    if (!done) this.bad(tag, 'DONE is expected.')
    else await this.complete(tag, 'OK Idle completed.', { rule: 'allowed', uid: false })
  }

  #endIdle(): void {
    this.idleTag = undefined
    this.#unwatch()
  }

  #unwatch(): void {
    const watch = this.#watch
    this.#watch = undefined
    this.#changed = false
    watch?.[Symbol.dispose]()
  }

  /** When the connection is over and nothing runs: lets everything go, once. */
  #settle(): void {
    if (!this.#over || this.#busy || this.#closed) return
    this.#closed = true
    if (this.#shutdown !== undefined) offAbort(this.options.signal!, this.#shutdown)
    void this.#dispose()
  }

  async #dispose(): Promise<void> {
    const { session } = this
    try {
      await this.deselect()
    } catch (error) {
      this.report(error)
    }
    try {
      if (session !== undefined) await session[Symbol.asyncDispose]()
    } catch (error) {
      this.report(error)
    }
    this.emit({ type: 'close', user: session?.user, reason: this.#reason, remoteAddress: this.remoteAddress })
    if (this.#socket.destroyed) stopSweeping(this)
    else {
      // It is cut if the client does not close.
      this.#socket.once('close', () => stopSweeping(this))
    }
    this.#disposed = true
    this.#done?.resolve()
  }
}

const preAuth = new WeakMap<ImapLimits, ReaderLimits>()

function preAuthLimits(limits: ImapLimits): ReaderLimits {
  let all = preAuth.get(limits)
  if (all === undefined) {
    all = {
      lineBytes: limits.preAuthLineBytes,
      literalBytes: limits.preAuthLiteralBytes,
      commandBytes: limits.preAuthLineBytes + 4 * limits.preAuthLiteralBytes,
      swallowBytes: 16 * limits.preAuthLiteralBytes,
    }
    preAuth.set(limits, all)
  }
  return all
}

/** Serves IMAP on a stream until it ends. */
export function serveImap(socket: Duplex, options: ImapServerOptions): ImapConnection {
  return new Connection(socket, options)
}
