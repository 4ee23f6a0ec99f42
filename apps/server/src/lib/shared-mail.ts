/**
 * What the configuration says of access control and namespaces, as the server is given it.
 *
 *   DATA/public/<name>/        the store of a public namespace, unless the configuration names another place below the data directory
 *   DATA/sharing/              the registry of who shares what with whom (docs/formats/sharing.md)
 */
import { lstatSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import type { AclLayer } from '@mailstead/acl'
import { type GlobalAclFile, openGlobalAcl } from '@mailstead/acl/file'
import { type Fs, ROOT_FILE } from '@mailstead/fs'
import { posixFs } from '@mailstead/fs/posix'
import {
  type AccessControlOptions,
  fullNames,
  type OnServerEvent,
  publicStoreName,
  type SharedMailOptions,
  userDirectory,
} from '@mailstead/server'
import type { Config, NamespaceConfig } from './config.ts'
import { userStorage } from './data-directory.ts'
import { guardedDirectory, type Mounts } from './mounts.ts'
import { checkRootDirectory } from './roots.ts'

/** How often the global file is looked at, in milliseconds. */
const GLOBAL_EVERY_MS = 1000

type PublicNamespace = Extract<NamespaceConfig, { readonly kind: 'public' }>

/** Whose store that of a public namespace is, as directories and the command know it. */
export function publicUser({ prefix, home }: PublicNamespace): { readonly name: string; readonly home: string } {
  return { name: publicStoreName(prefix), home }
}

/** The configuration as it is for the store of a public namespace. */
export function publicConfig(config: Config, { box, compression }: PublicNamespace): Config {
  const { store } = config
  return { ...config, store: { ...store, box: box ?? store.box, compression: compression ?? store.compression } }
}

/** The file system of the registry. */
export async function registryFs(data: string, mounts?: Mounts): Promise<Fs> {
  const root = { path: data, role: 'data', uuid: await checkRootDirectory(data, 'data', mounts) } as const
  return guardedDirectory(data, { root, mounts })
}

/** The global file, or undefined where none is configured. Fails if it is not there. Dispose its file system after it. */
export async function globalAcl(
  config: Config,
): Promise<{ readonly file: GlobalAclFile; readonly fs: Fs } | undefined> {
  const path = config.acl?.global
  if (path === undefined) return undefined
  const fs = await posixFs(dirname(path))
  try {
    return { file: await openGlobalAcl(fs, basename(path)), fs }
  } catch (error) {
    await fs[Symbol.asyncDispose]()
    throw error
  }
}

/** Access control of one store as the server has it: of a user, or of a public namespace. */
export function accessOptions(
  config: Config,
  of: { readonly owner: string } | PublicNamespace,
  global?: GlobalAclFile,
): AccessControlOptions {
  const isUser = 'owner' in of
  return {
    owner: isUser ? of.owner : undefined,
    defaults: isUser ? undefined : of.defaults,
    defaultsFromInbox: isUser && config.acl?.defaultsFromInbox === true,
    globalFor:
      global === undefined
        ? undefined
        : (name, toOwner): readonly AclLayer[] =>
            global.current.layersFor(...fullNames(config.namespaces, of, { name, toOwner })),
  }
}

interface StoredUser {
  readonly name: string
  readonly home: string | undefined
}

export interface SharedMail extends AsyncDisposable {
  readonly options: SharedMailOptions | undefined
}

/** What `startServer` is told; disposed after the server. */
export async function sharedMail(
  data: string,
  config: Config,
  {
    users,
    mounts,
    onEvent,
  }: { readonly users: () => Iterable<StoredUser>; readonly mounts: Mounts; readonly onEvent: OnServerEvent },
): Promise<SharedMail> {
  const { acl, namespaces } = config
  await using held = new AsyncDisposableStack()
  if (acl === undefined) return { options: undefined, [Symbol.asyncDispose]: () => Promise.resolve() }
  const global = await globalAcl(config)
  const watchers = new Set<() => void>()
  let version = 0
  if (global !== undefined) {
    held.use(global.fs)
    const { file } = global
    const tell = (): void => {
      for (const { line, problem } of file.current.findings)
        onEvent({ level: 'warn', kind: 'acl-line', message: `${acl.global}:${line}: ${problem}`, line })
    }
    tell()
    let told = false
    const look = async (): Promise<void> => {
      if ((await file.refresh()) === 'changed') {
        version++
        tell()
        for (const watcher of Array.from(watchers)) watcher()
      }
      if (file.problem !== undefined && !told)
        onEvent({ level: 'error', kind: 'acl-file', message: `${acl.global} cannot be read; the last content counts` })
      told = file.problem !== undefined
    }
    let looking: Promise<void> = Promise.resolve()
    const timer = setInterval(() => {
      looking = looking.then(look)
    }, GLOBAL_EVERY_MS).unref()
    held.defer(async () => {
      clearInterval(timer)
      await looking
    })
  }
  const registry = namespaces.length > 0 ? held.use(await registryFs(data, mounts)) : undefined
  const hasStore = (user: StoredUser): boolean => {
    try {
      // A link to what is not mounted is there.
      const isThere = (path: string): boolean => lstatSync(join(data, path), { throwIfNoEntry: false }) !== undefined
      // Where the root is not mounted nothing is known, and opening says so.
      return isThere(userDirectory(user)) || !isThere(ROOT_FILE)
    } catch {
      // Whoever opens it says why it cannot be.
      return true
    }
  }
  const options: SharedMailOptions = {
    hasStore,
    anyone: acl.anyone,
    defaultsFromInbox: acl.defaultsFromInbox,
    namespaces: namespaces.map((space) =>
      space.kind === 'shared'
        ? space
        : {
            kind: 'public',
            prefix: space.prefix,
            defaults: space.defaults,
            storage: () =>
              userStorage(data, publicUser(space), { settings: publicConfig(config, space), create: true, mounts }),
          },
    ),
    owners: function* () {
      for (const user of users()) if (hasStore(user)) yield user.name
    },
    ...(registry === undefined ? {} : { registry }),
    ...(global === undefined
      ? {}
      : {
          globalFor: (names) => global.file.current.layersFor(...names),
          globalVersion: () => version,
          globalDigest: () => global.file.current.digest,
          watchGlobal: (onChange) => {
            watchers.add(onChange)
            return { [Symbol.dispose]: () => void watchers.delete(onChange) }
          },
        }),
  }
  const all = held.move()
  return { options, [Symbol.asyncDispose]: () => all.disposeAsync() }
}
