/** How a store of the pool is opened: whose it is, where it lies, who may do what in it. */
import { openStore } from '@mailstead/store'
import { accessControl } from './access-control.ts'
import type { OnServerEvent, ServerEventLevel } from './events.ts'
import { keptFields } from './kept-fields.ts'
import { publicPrincipal, publicStoreName } from './namespaces.ts'
import type { OpenedStore } from './renewed-store.ts'
import type { ServerOptions } from './server-options.ts'
import { type Telling, tellSharing, type TellSharingOptions } from './sharing-scan.ts'
import { storeAccess } from './store-access.ts'
import type { User } from './users.ts'

export interface PooledStoreOptions {
  /** Largest message, in bytes. */
  readonly messageMax: number
  readonly onEvent: OnServerEvent
  /** Where it is told what others may see of it. */
  readonly tells: Pick<TellSharingOptions, 'sharing' | 'policy'> | undefined
}

/** Whose store a name in the pool is: a user's, or that of a public namespace. */
export function principal({ users, shared }: ServerOptions, name: string): User | undefined {
  for (const space of shared?.namespaces ?? [])
    if (space.kind === 'public' && publicStoreName(space.prefix) === name) return publicPrincipal(space.prefix)
  return users.lookup(name)
}

/** The user's, or a public namespace's. Fails as `storage` and `openStore` do, and leaves nothing open. */
export async function openPooled(
  user: User,
  options: ServerOptions,
  { messageMax, onEvent, tells }: PooledStoreOptions,
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

/** Damage is an error even where something else stood in for what was damaged: next time there is less to stand in. */
function levelOf(kind: string): ServerEventLevel {
  if (kind.endsWith('-damaged')) return 'error'
  return kind === 'root-changed' || kind.endsWith('-failed') || kind === 'snapshot-replaced' || kind === 'unknown-table'
    ? 'warn'
    : 'info'
}
