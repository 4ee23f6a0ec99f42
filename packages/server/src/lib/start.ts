/**
 * The server: listeners, sessions and stores put together.
 *
 * INVARIANTS
 *   1. Nothing is answered positively before everything that can be wrong with the options was found: listening comes last.
 *   2. Stopping: no new connections; each client is told BYE (421) after the command in progress; commits in flight finish;
 *      stores are closed when nobody uses them; then, and only then, dispose resolves.
 */
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { hostname as machineName } from 'node:os'
import { createSecureContext, createServer as createTlsServer, type SecureContext, TLSSocket } from 'node:tls'
import type { Duplex } from 'node:stream'
import type { AclLayer, AclList } from '@mailstead/acl'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import type { ImapBackend } from '@mailstead/imap'
import { type ImapEvent, type ImapLimits, type ImapServerOptions, serveImap } from '@mailstead/imap/server'
import { type AltmoveQuery, openStore, type StoreOptions, type StoreRoots } from '@mailstead/store'
import { ServerError } from './error.ts'
import { ignoreEvents, type OnServerEvent, type ServerEventLevel } from './events.ts'
import { accessControl } from './access-control.ts'
import { imapBackend } from './imap-backend.ts'
import { keptFields } from './kept-fields.ts'
import { type LmtpServer, lmtpServer } from './lmtp.ts'
import { type OpenedStore, openRenewed } from './renewed-store.ts'
import { type PurgeBudget, PurgeSchedule } from './purge-schedule.ts'
import { settleMoves } from './move-recovery.ts'
import { Namespaces, publicPrincipal, publicStoreName } from './namespaces.ts'
import { Sharing } from './sharing.ts'
import { knownSharing, SharingScan, type Telling, tellSharing, type TellSharingOptions } from './sharing-scan.ts'
import { storeAccess, storePolicy } from './store-access.ts'
import { StorePool } from './store-pool.ts'
import type { User, Users } from './users.ts'

export interface ListenAt {
  readonly host: string
  /** 0: a free one. */
  readonly port: number
}

/** Where a user's store is. */
export interface UserStorage {
  /** Rooted at the store's own directory. Disposed with the store. */
  readonly fs: Fs
  /** For the index, where that is in another root. Disposed with the store. */
  readonly indexFs?: Fs
  readonly box: StoreOptions['box']
  /** Where attachments are kept once. (default: messages are whole) */
  readonly attachments?: StoreOptions['attachments'] | undefined
  /** The roots that hold it, which the store records at creation and insists on later. */
  readonly roots?: StoreRoots
  /**
   * Whether what these file systems are on is still what is there, or nothing is. False: something else was mounted meanwhile, or the
   * same anew; then the store is opened anew under those who use it. Asked every second, and must not wait for storage that hangs. (default: true)
   */
  readonly isCurrent?: () => boolean | Promise<boolean>
}

/** Mail that is not, or not only, of one user. */
export interface SharedMailOptions {
  /** Where it is found beside the user's own mailboxes. (default: nowhere, and lists only restrict the user himself) */
  readonly namespaces?: readonly (
    | { readonly kind: 'shared'; readonly prefix: string }
    | {
        readonly kind: 'public'
        readonly prefix: string
        /** For mailboxes whose lists say nothing of somebody, if the store has no list for that. (default: nothing) */
        readonly defaults?: AclList | undefined
        /** Called once for each opening of its store. Fails if it must not be used or created now. */
        readonly storage: () => Promise<UserStorage>
      }
  )[]
  /** The registry of who shares with whom is kept here. (default: nowhere, so it is found out again each time the server starts) */
  readonly registry?: Fs
  /** Names of all users who have a store: those that the registry does not know are asked when the server starts. (default: none) */
  readonly owners?: () => Iterable<string> | AsyncIterable<string>
  /** Whether a user has a store, so that whoever only names his mailboxes makes none. (default: all have one) */
  readonly hasStore?: (user: User) => boolean
  /** Rights may be given to everybody. (default false) */
  readonly anyone?: boolean
  /** Mailboxes of users without an entry for somebody ask INBOX's list. (default false) */
  readonly defaultsFromInbox?: boolean
  /**
   * What a global file says of a mailbox, by its full names (that in a user's own store has no prefix), and whose it is. Asked for what it says
   * to the owner with the one name that he knows; for others with that and with theirs. (default: nothing)
   */
  readonly globalFor?: (names: readonly string[], owner: string | undefined) => readonly AclLayer[]
  /** Another whenever the file says something else. */
  readonly globalVersion?: () => number
  /** The same for files that say the same, also after a restart. (default: what changed meanwhile is found when stores are next opened) */
  readonly globalDigest?: () => string
  readonly watchGlobal?: (onChange: () => void) => Disposable
}

export interface ServerOptions {
  readonly users: Users
  /** Access control lists, and mail that is shared by them. (default: neither; each user has all of his own) */
  readonly shared?: SharedMailOptions
  /** Called for users that exist, once for each opening of their store. Fails if it must not be used or created now. */
  readonly storage: (user: User) => Promise<UserStorage>
  /** Listen for IMAP. (default: do not) */
  readonly imap?: ListenAt
  /** Listen for IMAP over TLS; needs `tls`. (default: do not) */
  readonly imaps?: ListenAt
  /** Listen for LMTP. (default: do not) */
  readonly lmtp?: ListenAt
  /** PEM. With it STARTTLS is offered. (default: no TLS) */
  readonly tls?: { readonly cert: Buffer; readonly key: Buffer }
  /** What the server calls itself. (default: the machine's name) */
  readonly hostname?: string
  /** Durability of flag-only changes. (default 'flushed') */
  readonly flags?: 'flushed' | 'lazy'
  /** Largest message, in bytes. (default 64 MiB) */
  readonly messageMax?: number
  /** How long an unused store stays open, in milliseconds. (default 60 000) */
  readonly storeIdleMs?: number
  /** Unused stores kept open. (default 256) */
  readonly storesOpenMax?: number
  /** How long after it was used a store is purged, in the background, in milliseconds; 0: never. (default 6 hours) */
  readonly purgeEveryMs?: number
  /** What one purge of a store may cost; the rest is left for the next. (default 32 MiB per second, nothing else) */
  readonly purgeBudget?: PurgeBudget
  /** Messages of which this holds are moved to the second tier after a purge, within its budget again. (default: none) */
  readonly altmove?: AltmoveQuery
  /** (default 10 000) */
  readonly imapConnectionsMax?: number
  readonly imapLimits?: Partial<ImapLimits>
  /** Take passwords off loopback without TLS. (default false) */
  readonly plaintextLogin?: boolean
  /** (default 100) */
  readonly lmtpConnectionsMax?: number
  /** Recipients of one message. (default 1000) */
  readonly recipientsMax?: number
  /** Silence before an LMTP client is disconnected, in milliseconds. (default 300 000) */
  readonly lmtpIdleMs?: number
  /** Between user and folder in an LMTP recipient; empty: no folders. (default '+') */
  readonly separator?: string
  /** Begin delivered messages with Return-Path. (default false: messages are kept as they come) */
  readonly returnPath?: boolean
  /** What commands in progress get to end when the server stops, in milliseconds. (default 10 000) */
  readonly stopMs?: number
  readonly onEvent?: OnServerEvent
}

export interface MailServer extends AsyncDisposable {
  /** Where it listens; undefined where it does not. */
  readonly imap: ListenAt | undefined
  readonly imaps: ListenAt | undefined
  readonly lmtp: ListenAt | undefined
  /** The open stores, for deliveries that do not come through LMTP. */
  readonly stores: StorePool
}

const MiB = 1024 * 1024
const PURGE_EVERY_MS = 6 * 3_600_000
const PURGE_BYTES_PER_SECOND: number = 32 * MiB

/** Starts listening. SERVER_LISTEN, SERVER_TLS. */
export async function startServer(options: ServerOptions): Promise<MailServer> {
  const onEvent = options.onEvent ?? ignoreEvents
  const messageMax = options.messageMax ?? 64 * MiB
  const purgeEveryMs = options.purgeEveryMs ?? PURGE_EVERY_MS
  if (!(purgeEveryMs >= 0)) throw new TypeError(`purgeEveryMs must not be negative, as ${purgeEveryMs} is`)
  let purges: PurgeSchedule | undefined
  const stores = new StorePool({
    onUse: (name) => purges?.used(name),
    open: async (user) => {
      const open = (): Promise<OpenedStore> =>
        openPooled(options, messageMax, onEvent, user, sharing === undefined ? undefined : { sharing, policy })
      const store = await openRenewed({ owner: user.name, open, onEvent })
      // Those that a crash interrupted: nobody can have begun one here yet. The other store may wait for this one.
      if (options.shared !== undefined)
        void settleMoves(user.name, store, { pool: stores, principal: (name) => principal(options, name), onEvent })
      return store
    },
    onEvent,
    ...(options.storeIdleMs === undefined ? {} : { idleMs: options.storeIdleMs }),
    ...(options.storesOpenMax === undefined ? {} : { openMax: options.storesOpenMax }),
  })
  const tls = options.tls === undefined ? undefined : secureContext(options.tls)
  const stack = new AsyncDisposableStack()
  const { shared } = options
  let sharing: Sharing | undefined
  let scan: SharingScan | undefined
  const policy = storePolicy(shared ?? {})
  const namespaces =
    shared === undefined
      ? undefined
      : new Namespaces({
          list: shared.namespaces ?? [],
          users: options.users,
          pool: stores,
          hasStore: shared.hasStore,
          sharing: knownSharing(() => sharing, { scan: () => scan, access: (name) => storeAccess(shared, name) }),
        })
  const mail = namespaces === undefined ? undefined : { namespaces, anyone: shared?.anyone ?? false }
  const backend = imapBackend(options.users, stores, messageMax, onEvent, mail)
  try {
    if ((shared?.namespaces ?? []).length > 0) {
      const fs = shared?.registry ?? stack.use(memoryFs())
      sharing = stack.use(await Sharing.open(fs, { onEvent }))
    }
    // Disposed after everything that uses stores, and before what they tell.
    stack.use(stores)
    if (sharing !== undefined && shared?.owners !== undefined && shared.namespaces?.some(isShared) === true)
      scan = stack.use(
        new SharingScan({
          owners: shared.owners,
          users: options.users,
          pool: stores,
          sharing,
          place: options.storage,
          policy,
          watch: shared.watchGlobal,
          onEvent,
        }),
      )
    // Waited for after everybody who was told BYE, and before the stores it may be at work in.
    if (purgeEveryMs > 0)
      purges = stack.use(
        new PurgeSchedule({
          users: { ...options.users, lookup: (name) => principal(options, name) },
          pool: stores,
          onEvent,
          everyMs: purgeEveryMs,
          budget: options.purgeBudget ?? { bytesPerSecond: PURGE_BYTES_PER_SECOND },
          altmove: options.altmove,
        }),
      )
    const connections = new ImapConnections(options, backend, onEvent, tls)
    stack.use(connections)
    let imap: ListenAt | undefined
    let imaps: ListenAt | undefined
    let lmtp: ListenAt | undefined
    if (options.imap !== undefined) imap = await connections.listen(options.imap, false)
    if (options.imaps !== undefined) {
      if (options.tls === undefined) throw new ServerError('SERVER_TLS', 'IMAP over TLS needs a certificate')
      imaps = await connections.listen(options.imaps, true)
    }
    if (options.lmtp !== undefined) {
      const server: LmtpServer = lmtpServer({
        users: options.users,
        pool: stores,
        namespaces,
        onEvent,
        hostname: options.hostname ?? machineName(),
        messageMax,
        recipientsMax: options.recipientsMax ?? 1000,
        connectionsMax: options.lmtpConnectionsMax ?? 100,
        idleMs: options.lmtpIdleMs ?? 300_000,
        separator: options.separator ?? '+',
        returnPath: options.returnPath ?? false,
        tls: options.tls,
      })
      stack.use(server)
      lmtp = at(await server.listen(options.lmtp.host, options.lmtp.port))
    }
    let stopping: Promise<void> | undefined
    return {
      imap,
      imaps,
      lmtp,
      stores,
      [Symbol.asyncDispose]: () => {
        purges?.stop()
        return (stopping ??= stack.disposeAsync())
      },
    }
  } catch (error) {
    await stack.disposeAsync()
    throw error
  }
}

/** Whose store a name in the pool is: a user's, or that of a public namespace. */
function principal({ users, shared }: ServerOptions, name: string): User | undefined {
  for (const space of shared?.namespaces ?? [])
    if (space.kind === 'public' && publicStoreName(space.prefix) === name) return publicPrincipal(space.prefix)
  return users.lookup(name)
}

async function openPooled(
  options: ServerOptions,
  messageMax: number,
  onEvent: OnServerEvent,
  user: User,
  tells: Pick<TellSharingOptions, 'sharing' | 'policy'> | undefined,
): Promise<OpenedStore> {
  const { shared } = options
  const space = shared?.namespaces?.find((one) => one.kind === 'public' && publicStoreName(one.prefix) === user.name)
  const isUser = space === undefined
  const {
    fs,
    indexFs,
    box,
    attachments,
    roots,
    isCurrent = () => true,
  } = await (space?.kind === 'public' ? space.storage() : options.storage(user))
  // Whatever fails, no file stays open and no lock held.
  await using held = new AsyncDisposableStack()
  held.defer(() => fs[Symbol.asyncDispose]())
  if (indexFs !== undefined) held.defer(() => indexFs[Symbol.asyncDispose]())
  const access = shared === undefined ? undefined : storeAccess(shared, user.name)
  let telling: Telling | undefined
  held.defer(() => telling?.closed({ fs, indexFs }))
  const store = held.use(
    await openStore({
      owner: user.name,
      ownerIsUser: isUser,
      fs,
      box,
      cacheFields: keptFields,
      create: true,
      messageMax,
      flags: options.flags ?? 'flushed',
      onEvent: ({ kind, message }) =>
        onEvent({ level: levelOf(kind), kind: 'store', message, user: user.name, what: kind }),
      ...(indexFs === undefined ? {} : { indexFs }),
      ...(attachments === undefined ? {} : { attachments }),
      ...(roots === undefined ? {} : { roots }),
      ...(access === undefined ? {} : { acl: accessControl(access) }),
    }),
  )
  if (tells !== undefined && access !== undefined) telling = held.use(tellSharing(store, { ...tells, access }))
  const all = held.move()
  return { store, isCurrent, close: () => all.disposeAsync() }
}

function isShared({ kind }: { readonly kind: string }): boolean {
  return kind === 'shared'
}

/** Damage is an error even where something else stood in for what was damaged: next time there is less to stand in. */
function levelOf(kind: string): ServerEventLevel {
  if (kind.endsWith('-damaged')) return 'error'
  return kind === 'root-changed' || kind.endsWith('-failed') || kind === 'snapshot-replaced' || kind === 'unknown-table'
    ? 'warn'
    : 'info'
}

class ImapConnections implements AsyncDisposable {
  readonly #options: ServerOptions
  readonly #onEvent: OnServerEvent
  readonly #servers: Server[] = []
  readonly #sockets = new Set<Socket>()
  readonly #closing: Promise<void>[] = []
  readonly #stop = new AbortController()
  readonly #shared: Omit<ImapServerOptions, 'secure' | 'loopback' | 'remoteAddress'>
  readonly #max: number
  #open = 0
  #idle: (() => void) | undefined

  constructor(options: ServerOptions, backend: ImapBackend, onEvent: OnServerEvent, tls: SecureContext | undefined) {
    this.#options = options
    this.#onEvent = onEvent
    this.#max = options.imapConnectionsMax ?? 10_000
    this.#shared = {
      backend,
      limits: { ...options.imapLimits },
      greeting: 'Mailstead ready.',
      signal: this.#stop.signal,
      onError: (error) =>
        onEvent({ level: 'error', kind: 'bug', message: 'an IMAP command failed unexpectedly', error }),
      onEvent: (event) => this.#tell(event),
      ...(tls === undefined ? {} : { startTls: (socket: Duplex) => startTls(socket, tls) }),
    }
  }

  async listen(where: ListenAt, secure: boolean): Promise<ListenAt> {
    const { tls } = this.#options
    const server = secure
      ? createTlsServer({ cert: tls!.cert, key: tls!.key, handshakeTimeout: 30_000 }, (socket) =>
          this.#serve(socket, true),
        )
      : createServer({ noDelay: true, allowHalfOpen: true }, (socket) => this.#serve(socket, false))
    server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket)
      socket.once('close', () => this.#sockets.delete(socket))
    })
    if (secure) server.on('tlsClientError', () => undefined)
    this.#servers.push(server)
    const listening = await listenOn(server, where, secure ? 'IMAPS' : 'IMAP')
    server.on('error', (error) => this.#onEvent({ level: 'error', kind: 'listen', message: error.message, error }))
    return listening
  }

  #serve(socket: Socket, secure: boolean): void {
    const remoteAddress = socket.remoteAddress ?? ''
    if (this.#open >= this.#max) {
      socket.on('error', () => undefined)
      socket.end('* BYE [UNAVAILABLE] Too many connections.\r\n')
      this.#onEvent({
        level: 'warn',
        kind: 'too-many-connections',
        message: 'too many IMAP connections',
        remoteAddress,
      })
      return
    }
    this.#open++
    if (secure) socket.setNoDelay(true)
    const loopback = (this.#options.plaintextLogin ?? false) || isLoopback(remoteAddress)
    const connection = serveImap(socket, { ...this.#shared, secure, loopback, remoteAddress })
    void connection.closed.then(() => {
      this.#open--
      if (this.#open === 0) this.#idle?.()
    })
  }

  #tell(event: ImapEvent): void {
    switch (event.type) {
      case 'login':
        this.#onEvent({ level: 'info', kind: 'login', message: 'logged in', ...event })
        return
      case 'login-failed':
        this.#onEvent({ level: 'warn', kind: 'login-failed', message: 'login failed', ...event })
        return
      case 'close':
        this.#onEvent({
          level: 'debug',
          kind: 'closed',
          message: 'connection closed',
          remoteAddress: event.remoteAddress,
          reason: event.reason,
          ...(event.user === undefined ? {} : { user: event.user }),
        })
        return
      case 'tls':
      case 'client-id':
      case 'bad-command':
        this.#onEvent({ level: 'debug', kind: event.type, message: event.type, type: event.type })
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#servers) this.#closing.push(closed(server))
    this.#stop.abort()
    // A client that takes none of its replies would hold up the rest for minutes.
    const deadline = setTimeout(() => {
      for (const socket of this.#sockets) socket.destroy()
    }, this.#options.stopMs ?? 10_000)
    if (this.#open > 0) await new Promise<void>((resolve) => (this.#idle = resolve))
    clearTimeout(deadline)
    // Sessions are over, and what they wrote is on its way; a client that does not hang up is not waited for.
    const patience = setTimeout(() => {
      for (const socket of this.#sockets) socket.destroy()
    }, HANG_UP_MS)
    await Promise.all(this.#closing)
    clearTimeout(patience)
  }
}

/** What a client that was told BYE gets to hang up, when the server stops, in milliseconds. */
const HANG_UP_MS = 500

function startTls(socket: Duplex, secureContext: SecureContext): Promise<Duplex> {
  const { promise, resolve, reject } = Promise.withResolvers<Duplex>()
  const secured = new TLSSocket(socket as Socket, { isServer: true, secureContext })
  secured.once('error', reject)
  secured.once('close', () => reject(new Error('closed during the handshake')))
  secured.once('secure', () => {
    secured.off('error', reject)
    resolve(secured)
  })
  return promise
}

function secureContext(tls: { readonly cert: Buffer; readonly key: Buffer }): SecureContext {
  try {
    return createSecureContext(tls)
  } catch (error) {
    const message = `the certificate and its key cannot be used: ${(error as Error).message}`
    throw new ServerError('SERVER_TLS', message, { cause: error })
  }
}

async function listenOn(server: Server, { host, port }: ListenAt, name: string): Promise<ListenAt> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  server.once('error', reject)
  server.listen({ host, port, backlog: 1024 }, resolve)
  try {
    await promise
  } catch (error) {
    const message = `${name} cannot listen on ${host}:${port}: ${(error as Error).message}`
    throw new ServerError('SERVER_LISTEN', message, { cause: error })
  }
  server.off('error', reject)
  return at(server.address() as AddressInfo)
}

function closed(server: Server): Promise<void> {
  return new Promise((resolve) => server.close(() => resolve()))
}

function at({ address, port }: AddressInfo): ListenAt {
  return { host: address, port }
}

function isLoopback(address: string): boolean {
  return address === '::1' || /^(?:::ffff:)?127\./.test(address)
}
