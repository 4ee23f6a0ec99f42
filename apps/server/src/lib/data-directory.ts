/**
 * The data directory: where the mail of all users is.
 *
 *   DATA/mailstead-root        the marker: this directory was made for Mailstead (docs/formats/root.md)
 *   DATA/users.passwd          the users file, unless the configuration names another
 *   DATA/users/<name>/         one store per user: its log and indexes, and its messages under storage/
 *
 * INVARIANTS
 *   1. Nothing is created in a directory without marker: it may be a mount point whose mount is missing.
 *   2. The marker is looked at again before the first store of a user is created.
 */
import { readdirSync, statSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { type Fs, FsError, initRoot, readRoot, ROOT_FILE } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { posixFs } from '@mailstead/fs/posix'
import { imapCacheFields } from '@mailstead/imap/cache-fields'
import { openStore, type RebuildRecord, rebuildStore, type Store } from '@mailstead/store'
import { ServerError, userDirectory } from '@mailstead/server'
import { type BoxSettings, boxOnDisk, userBox } from './user-box.ts'

export const USERS_FILE = 'users.passwd'
const USERS_DIRECTORY = 'users'

/** Marks a directory, making it if it is not there. `already` if it is marked. */
export async function initDataDirectory(path: string): Promise<'made' | 'already'> {
  await using fs = await posixFs(path, { create: true })
  if ((await readRoot(fs)) !== undefined) return 'already'
  if ((await fs.stat(USERS_DIRECTORY)) !== undefined)
    throw new ServerError(
      'SERVER_NO_ROOT',
      `${path} holds ${USERS_DIRECTORY}/ but no ${ROOT_FILE}: the marker was lost, or this is something else. Nothing was changed.`,
    )
  await initRoot(fs, 'data')
  return 'made'
}

/** The root's UUID. Fails with SERVER_NO_ROOT unless the directory carries the marker of a data directory. */
export async function checkDataDirectory(path: string): Promise<Uint8Array> {
  const absolute = resolve(path)
  try {
    await using fs = await posixFs(absolute)
    const root = await readRoot(fs)
    if (root?.role === 'data') return root.uuid
  } catch (error) {
    if (!(error instanceof FsError) || error.code !== 'FS_UNAVAILABLE') throw error
    throw new ServerError(
      'SERVER_NO_ROOT',
      `the data directory ${absolute} is not there. If it is on a file system of its own, mount it; to make a new one, run: mailstead init ${path}`,
      { cause: error },
    )
  }
  throw new ServerError(
    'SERVER_NO_ROOT',
    `${absolute} holds no ${ROOT_FILE}, so it is not known to be a data directory: perhaps its file system is not mounted. To make it one, run: mailstead init ${path}`,
  )
}

/** The file system of one user's store, made if it is not there; fails as `checkDataDirectory` does. */
export async function userFs(
  data: string,
  user: { readonly name: string; readonly home?: string | undefined },
): Promise<Fs> {
  const path = join(data, userDirectory(user))
  if (statSync(path, { throwIfNoEntry: false }) === undefined) {
    await checkDataDirectory(data)
    return posixFs(path, { create: true })
  }
  return posixFs(path)
}

export interface UserStoreOptions {
  readonly readOnly?: boolean
  readonly create?: boolean
  /** Without them mail in a second tier is unavailable. (default: none) */
  readonly settings?: BoxSettings
}

/** A user's store outside of a server: for the command. A running server may have it open at the same time. */
export async function openUserStore(
  data: string,
  user: { readonly name: string; readonly home?: string | undefined },
  { settings, ...options }: UserStoreOptions = {},
): Promise<{ readonly store: Store } & AsyncDisposable> {
  const rootUuid = await checkDataDirectory(data)
  const fs = options.create === true ? await userFs(data, user) : await posixFs(join(data, userDirectory(user)))
  let store: Store
  try {
    store = await openStore({
      owner: user.name,
      fs,
      box: userBox(user, settings),
      cacheFields: imapCacheFields,
      rootUuid,
      ...options,
    })
  } catch (error) {
    await fs[Symbol.asyncDispose]()
    throw error
  }
  return {
    store,
    async [Symbol.asyncDispose]() {
      await store[Symbol.asyncDispose]()
      await fs[Symbol.asyncDispose]()
    },
  }
}

/**
 * Rebuilds a user's store, which nobody may have open, and gives what it changes (`rebuildStore`). `dryRun`: says what would
 * be done, and writes nothing.
 */
export async function* rebuildUserStore(
  data: string,
  user: { readonly name: string; readonly home?: string | undefined },
  { dryRun = false, settings }: { readonly dryRun?: boolean; readonly settings?: BoxSettings } = {},
): AsyncGenerator<readonly RebuildRecord[], void, undefined> {
  await checkDataDirectory(data)
  await using fs = await posixFs(join(data, userDirectory(user)))
  await using scratch = memoryFs()
  // The index that knows the format may be lost.
  const kept = await boxOnDisk(fs)
  const box = userBox(user, settings)
  yield* rebuildStore({
    fs,
    box: (storeFs) => box(storeFs, kept),
    ...(dryRun ? { dryRunIn: scratch } : {}),
  })
}

/** Names of the directories below `users/`, as they are on disk, and of links to some. Throws if they cannot be read. */
export function storeDirectories(data: string): string[] {
  const directory = join(data, USERS_DIRECTORY)
  if (statSync(directory, { throwIfNoEntry: false }) === undefined) return []
  return readdirSync(directory, { withFileTypes: true })
    .filter(
      (entry) =>
        entry.isDirectory() ||
        (entry.isSymbolicLink() &&
          statSync(join(directory, entry.name), { throwIfNoEntry: false })?.isDirectory() !== false),
    )
    .map(({ name }) => name)
    .sort()
}

/** Holds the kernel lock beside a file that is replaced as a whole. Fails with FS_LOCKED after `waitMs` milliseconds. */
export async function lockBeside(file: string, waitMs: number): Promise<AsyncDisposable> {
  const held = new AsyncDisposableStack()
  try {
    const fs = held.use(await posixFs(dirname(resolve(file))))
    const lock = held.use(await fs.lock(`${basename(file)}.lock`))
    await lock.acquire({ waitMs })
    return held
  } catch (error) {
    await held.disposeAsync()
    throw error
  }
}
