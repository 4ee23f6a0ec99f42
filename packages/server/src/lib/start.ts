/**
 * The server: listeners, sessions and stores put together.
 *
 * INVARIANTS
 *   1. Nothing is answered positively before everything that can be wrong with the options was found: listening comes last.
 *   2. Stopping: no new connections; each client is told BYE (421) after the command in progress; commits in flight finish;
 *      stores are closed when nobody uses them; then, and only then, dispose resolves.
 */
import { hostname as machineName } from 'node:os'
import type { AclLayer } from '@mailstead/acl'
import { memoryFs } from '@mailstead/fs/memory'
import { ServerError } from './error.ts'
import { ignoreEvents } from './events.ts'
import { imapBackend } from './imap-backend.ts'
import { ImapConnections } from './imap-connections.ts'
import { at, secureContext } from './listen.ts'
import { type LmtpServer, lmtpServer } from './lmtp.ts'
import { settleMoves } from './move-recovery.ts'
import { Namespaces } from './namespaces.ts'
import { openPooled, principal } from './pooled-store.ts'
import { PurgeSchedule } from './purge-schedule.ts'
import { type OpenedStore, openRenewed } from './renewed-store.ts'
import type { ListenAt, ServerOptions } from './server-options.ts'
import { Sharing } from './sharing.ts'
import { knownSharing, SharingScan } from './sharing-scan.ts'
import { storeAccess, storePolicy } from './store-access.ts'
import { StorePool } from './store-pool.ts'

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
        openPooled(user, options, {
          messageMax,
          onEvent,
          tells: sharing === undefined ? undefined : { sharing, policy },
        })
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
  const mail =
    shared === undefined || namespaces === undefined
      ? undefined
      : {
          namespaces,
          anyone: shared.anyone ?? false,
          // All that counts for anybody: for the owner it may be less.
          globalFor: (store: string, name: string): readonly AclLayer[] =>
            storeAccess(shared, store).globalFor?.(name, false) ?? [],
        }
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
          users: { lookup: (name) => principal(options, name) },
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

function isShared({ kind }: { readonly kind: string }): boolean {
  return kind === 'shared'
}
