/**
 * The data directory: where the mail of all users is.
 *
 *   DATA/mailstead-root        the marker: this directory was made for Mailstead (docs/formats/root.md)
 *   DATA/users.passwd          the users file, unless the configuration names another
 *   DATA/users/<name>/         one store per user: its log and indexes, and its messages under storage/
 *   DATA/attachments/          attachments that are kept once, unless the configuration names another place (attachments-root.ts)
 *   INDEX/users/<name>/        the log and indexes, where the configuration names a root for them
 *
 * INVARIANTS
 *   1. Nothing is created in a directory without marker: it may be a mount point whose mount is missing.
 *   2. The markers are looked at again whenever a store is opened.
 */
import { readdirSync, statSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { type Fs, FsError } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { posixFs } from '@mailstead/fs/posix'
import { prefixed } from '@mailstead/fs/wrappers'
import { imapCacheFields } from '@mailstead/imap/cache-fields'
import {
  INDEX_PATH,
  openStore,
  type RebuildOptions,
  type RebuildRecord,
  rebuildStore,
  type Store,
  type StoreOptions,
  type StoreRoots,
} from '@mailstead/store'
import { userDirectory } from '@mailstead/server'
import { attachmentsRoot, makeAttachmentsBelow } from './attachments-root.ts'
import { emptyConfig } from './config.ts'
import { guardedDirectory, type InRoot, type Mounts, mustBeMounted, openMounts, whileSame } from './mounts.ts'
import { checkRootDirectory, initRootDirectory, REMOVED, USERS_DIRECTORY } from './roots.ts'
import { userAttachments } from './user-attachments.ts'
import { alternateRoot, type BoxSettings, boxOnDisk, userBox } from './user-box.ts'

export const USERS_FILE = 'users.passwd'

/** Marks a directory, making it if it is not there. `already` if it is marked. */
export async function initDataDirectory(path: string, mounts?: Mounts): Promise<'made' | 'already'> {
  const done = await initRootDirectory(path, 'data', mounts)
  await makeAttachmentsBelow({ data: path })
  return done
}

/** The root's UUID. Fails with SERVER_NO_ROOT unless the directory carries the marker of a data directory. */
export function checkDataDirectory(path: string, mounts?: Mounts): Promise<Uint8Array> {
  return checkRootDirectory(path, 'data', mounts)
}

interface StoredUser {
  readonly name: string
  readonly home?: string | undefined
}

/** What a store is opened with. Disposing it is the caller's, unless it hands it on. */
export interface OpenedStorage {
  readonly fs: Fs
  readonly indexFs?: Fs
  readonly box: StoreOptions['box']
  readonly attachments: NonNullable<StoreOptions['attachments']>
  readonly roots: StoreRoots
  readonly isCurrent: () => Promise<boolean>
}

/**
 * The file systems of one user's store; with `create` made if they are not there. SERVER_NO_ROOT unless the data root and, where
 * one is configured, the index root are there; FS_UNAVAILABLE if one has the store and the other should have it, or something else
 * is mounted than `mounts` knows.
 */
export async function userStorage(
  data: string,
  user: StoredUser,
  {
    settings,
    create = false,
    mounts,
  }: {
    readonly settings?: BoxSettings | undefined
    readonly create?: boolean
    readonly mounts?: Mounts | undefined
  } = {},
): Promise<OpenedStorage> {
  const home = userDirectory(user)
  const path = join(data, home)
  const index = settings?.index?.path
  if (mounts !== undefined)
    for (const each of index === undefined ? [data] : [data, index]) await mustBeMounted(each, mounts)
  const kept = settings?.attachments ?? emptyConfig.attachments
  const alternate = await alternateRoot(settings, mounts)
  const roots: StoreRoots = {
    data: await checkRootDirectory(data, 'data', mounts),
    ...(index === undefined ? {} : { index: await checkRootDirectory(index, 'index', mounts) }),
    ...(alternate === undefined ? {} : { alternate }),
  }
  const hasIndex = index !== undefined && isThere(join(index, home))
  // It is made before its index is: only somebody else's root has the one without the other.
  if (hasIndex && !isThere(path))
    throw new FsError('FS_UNAVAILABLE', `${path} is not there, and its index in ${index} is: something else is mounted`)
  const inData: InRoot = { path: data, role: 'data', uuid: roots.data }
  const inIndex: InRoot | undefined =
    index === undefined ? undefined : { path: index, role: 'index', uuid: roots.index }
  await using held = new AsyncDisposableStack()
  const fs = held.use(await guardedDirectory(path, { root: inData, mounts, create }))
  const opened = [{ path, root: inData }]
  let indexFs: Fs | undefined
  if (inIndex !== undefined) {
    const where = hasIndex ? join(inIndex.path, home) : inIndex.path
    const directory = held.use(await guardedDirectory(where, { root: inIndex, mounts }))
    // The store makes it once it knows that this is its root.
    indexFs = hasIndex ? directory : prefixed(directory, home)
    opened.push({ path: where, root: inIndex })
  }
  if (settings?.alternate !== undefined)
    opened.push({ path: settings.alternate.path, root: { path: settings.alternate.path, role: 'alternate' } })
  const blobs = attachmentsRoot({ data, path: kept.path })
  opened.push({ path: blobs, root: { path: blobs, role: 'attachments' } })
  const same = held.use(await whileSame(opened, mounts))
  held.move()
  return {
    // What is asked of it ends with it.
    fs: {
      ...fs,
      async [Symbol.asyncDispose]() {
        await fs[Symbol.asyncDispose]()
        await same[Symbol.asyncDispose]()
      },
    },
    ...(indexFs === undefined ? {} : { indexFs }),
    box: userBox(user, settings, mounts),
    attachments: userAttachments(user, kept, { data, path: kept.path, mounts, dataUuid: roots.data }),
    roots,
    isCurrent: same.isCurrent,
  }
}

/** Whether there is anything of a user's index, wherever that is. What cannot be looked at counts as there. */
export function hasUserIndex(data: string, user: StoredUser, settings?: BoxSettings): boolean {
  const index = settings?.index?.path
  return [data, ...(index === undefined ? [] : [index])].some((root) =>
    isThere(join(root, userDirectory(user), INDEX_PATH)),
  )
}

function isThere(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false }) !== undefined
  } catch {
    return true
  }
}

export interface UserStoreOptions {
  readonly readOnly?: boolean
  readonly create?: boolean
  /** Without them mail in a second tier is unavailable, and attachments are those below the data directory. (default: none) */
  readonly settings?: BoxSettings
}

/** A user's store outside of a server: for the command. A running server may have it open at the same time. */
export async function openUserStore(
  data: string,
  user: StoredUser,
  { settings, ...options }: UserStoreOptions = {},
): Promise<{ readonly store: Store } & AsyncDisposable> {
  await using held = new AsyncDisposableStack()
  const mounts = held.use(await openMounts(settings?.state))
  const storage = held.use(
    disposing(await userStorage(data, user, { settings, create: options.create ?? false, mounts })),
  )
  const store = held.use(await openStore({ owner: user.name, cacheFields: imapCacheFields, ...storage, ...options }))
  const all = held.move()
  return { store, [Symbol.asyncDispose]: () => all.disposeAsync() }
}

function disposing(storage: OpenedStorage): OpenedStorage & AsyncDisposable {
  return {
    ...storage,
    async [Symbol.asyncDispose]() {
      await storage.indexFs?.[Symbol.asyncDispose]()
      await storage.fs[Symbol.asyncDispose]()
    },
  }
}

/**
 * Rebuilds a user's store, which nobody may have open, and gives what it changes (`rebuildStore`). `dryRun`: says what would
 * be done, and writes nothing.
 */
export async function* rebuildUserStore(
  data: string,
  user: StoredUser,
  {
    dryRun = false,
    settings,
    ...lists
  }: {
    readonly dryRun?: boolean
    readonly settings?: BoxSettings
  } & Pick<RebuildOptions, 'namesDiffer' | 'isOwners'> = {},
): AsyncGenerator<readonly RebuildRecord[], void, undefined> {
  await using mounts = await openMounts(settings?.state)
  await using storage = disposing(await userStorage(data, user, { settings, mounts }))
  await using scratch = memoryFs()
  // The index that knows the format may be lost.
  const kept = await boxOnDisk(storage.fs)
  yield* rebuildStore({
    ...storage,
    box: (fs, _recorded, roots) => storage.box(fs, kept, roots),
    ...(dryRun ? { dryRunIn: scratch } : {}),
    ...lists,
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
    .filter((name) => !name.startsWith(REMOVED))
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
