/**
 * Removing what is kept of a user for good.
 *
 * ORDER    1. Every root that may hold something of him must be there: nothing is removed in part because a volume is away.
 *          2. His mailboxes go, each in one frame, so that whoever has one open is told; then what his messages hold of attachments
 *             that he shares with others is given back.
 *          3. Once nobody has the store open (a server lets go of it `store.idle_seconds` after its last use), and it is still empty, its
 *             directory gets another name in one step: from here on there is no such store.
 *          4. That directory, and what is his in the other roots.
 *
 * INVARIANTS
 *   1. Whenever it is cut short, the store is there and whole, with fewer mailboxes, or `.removed-<name>` is there in its place until
 *      everything else is gone; called again, it goes on.
 *   2. What came between 2 and 3 is removed as mail that was there, never under somebody who still has the store open.
 */
import { closeSync, fsyncSync, lstatSync, openSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { FsError } from '@mailstead/fs'
import { posixFs } from '@mailstead/fs/posix'
import { badHome, ServerError, userDirectory } from '@mailstead/server'
import { INDEX_PATH, type Store, StoreError } from '@mailstead/store'
import { ATTACHMENTS_DIRECTORY, ATTACHMENTS_MARK, attachmentsRoot } from './attachments-root.ts'
import { type Config, emptyConfig } from './config.ts'
import { checkDataDirectory, hasUserIndex, openUserStore } from './data-directory.ts'
import { mustBeMounted, openMounts } from './mounts.ts'
import { checkRootDirectory, REMOVED, USERS_DIRECTORY } from './roots.ts'
import { attachmentsPath } from './user-attachments.ts'
import { boxOnDisk, STORAGE } from './user-box.ts'

/** Sweeps of attachments that nobody uses any more: the first notes them, the second frees, the third takes away what that left. */
const SWEEPS = 3
const POLL_MS = 200
const INBOX = 'INBOX'

export interface RemoveStoreOptions {
  readonly settings?: Config
  /** How long whoever has the store open is waited for, in milliseconds. (default 120 000) */
  readonly waitMs?: number
  /** Called once if somebody has the store open. */
  readonly onWait?: () => void
  /** Called before each step, for tests. */
  readonly onStep?: (step: 'empty' | 'rename' | 'remove') => void
}

interface StoredUser {
  readonly name: string
  readonly home?: string | undefined
}

/** Below the data directory, and nobody's: stores of others, or what is no store. */
const OTHERS = [USERS_DIRECTORY, 'public']
const NO_STORES = ['sharing', ATTACHMENTS_DIRECTORY]

/** Whether one of two directories is the other, or inside. */
export function overlap(a: string, b: string): boolean {
  return a === b || a.startsWith(`${b}/`) || b.startsWith(`${a}/`)
}

/** One of these is in every directory of a store. */
const OF_STORES = [INDEX_PATH, 'index-root', 'ledger', STORAGE]

/** Why what would be removed as this user's store is none, or more than that; undefined: it may be removed. */
export function notAStore(data: string, user: StoredUser, { namespaces }: Config): string | undefined {
  const home = userDirectory(user)
  if (badHome(home)) return `${JSON.stringify(home)} is no path below the data directory`
  if (OTHERS.includes(home) || NO_STORES.some((one) => overlap(home, one))) return `${home} is no store of a user`
  for (const space of namespaces)
    if (space.kind === 'public' && overlap(home, space.home)) return `${space.home} is the store of ${space.prefix}`
  const directory = join(data, home)
  const isDirectory = lstatSync(directory, { throwIfNoEntry: false })?.isDirectory() === true
  const names = isDirectory ? readdirSync(directory) : []
  if (names.length > 0 && !names.some((name) => OF_STORES.includes(name)))
    return `${home} holds ${names[0]!}, and no store`
  return undefined
}

/**
 * `absent`: there was nothing. FS_UNSUPPORTED for what is not the store of one user (`notAStore`). FS_UNAVAILABLE or SERVER_NO_ROOT while
 * one of the roots is away, and FS_LOCKED if the store was open all the time: then nothing is removed, or some of his mailboxes are.
 */
export async function removeUserStore(
  data: string,
  user: StoredUser,
  options: RemoveStoreOptions = {},
): Promise<'removed' | 'absent'> {
  const settings = options.settings ?? emptyConfig
  const home = userDirectory(user)
  const wrong = notAStore(data, user, settings)
  if (wrong !== undefined) throw new FsError('FS_UNSUPPORTED', wrong)
  await mustHaveRoots(data, settings)
  const directory = join(data, home)
  if (exists(directory)) await removeStore(data, user, settings, options)
  else if (!exists(removedName(directory))) {
    const index = settings.index === undefined ? undefined : join(settings.index.path, home)
    if (index === undefined || !exists(index)) return 'absent'
    throw new FsError(
      'FS_UNAVAILABLE',
      `${directory} is not there, and its index ${index} is: something else is mounted`,
    )
  }
  options.onStep?.('remove')
  // That of the messages last: as long as it is there, it says that the others are to go.
  for (const each of [...othersOf(data, user, settings), directory]) {
    if (!exists(dirname(each))) continue
    if (each !== directory && exists(each)) rename(each, removedName(each))
    rmSync(removedName(each), { recursive: true, force: true })
    syncDirectory(dirname(each))
  }
  return 'removed'
}

/** FS_UNAVAILABLE or SERVER_NO_ROOT unless all roots are there that the configuration names. */
export async function mustHaveRoots(data: string, { index, alternate, attachments, state }: Config): Promise<void> {
  await using mounts = await openMounts(state)
  for (const path of [data, index?.path, alternate?.path, attachments.path])
    if (path !== undefined) await mustBeMounted(path, mounts)
  await checkDataDirectory(data, mounts)
  if (index !== undefined) await checkRootDirectory(index.path, 'index', mounts)
  if (alternate !== undefined) await checkRootDirectory(alternate.path, 'alternate', mounts)
  // Below the data directory there may be none yet.
  if (attachments.path !== undefined || exists(join(data, ATTACHMENTS_MARK)))
    await checkRootDirectory(attachmentsRoot({ data, path: attachments.path }), 'attachments', mounts)
}

/** What is his alone in other roots. */
function othersOf(data: string, user: StoredUser, { index, alternate, attachments }: Config): readonly string[] {
  const home = userDirectory(user)
  const blobs = attachmentsPath(user, { ...attachments, domain: 'store' })
  return [
    ...(index === undefined ? [] : [join(index.path, home)]),
    ...(alternate === undefined ? [] : [join(alternate.path, home)]),
    join(attachmentsRoot({ data, path: attachments.path }), blobs),
  ]
}

async function removeStore(
  data: string,
  user: StoredUser,
  settings: Config,
  { waitMs = 120_000, onWait, onStep }: RemoveStoreOptions,
): Promise<void> {
  const directory = join(data, userDirectory(user))
  if (lstatSync(directory).isSymbolicLink())
    throw new FsError('FS_UNSUPPORTED', `${directory} is a link: remove what it leads to, and then the link, yourself`)
  await mustKnowTiers(directory, settings)
  const until = performance.now() + waitMs
  let waited = false
  for (;;) {
    onStep?.('empty')
    await empty(data, user, settings)
    await using lock = await alone(data, user, settings)
    if (lock === undefined) {
      if (performance.now() > until)
        throw new FsError(
          'FS_LOCKED',
          `the store of ${user.name} is open: end his sessions, or stop the server, and remove him again`,
        )
      if (!waited) onWait?.()
      waited = true
      await sleep(POLL_MS)
      continue
    }
    if (!(await isEmpty(data, user, settings))) continue
    onStep?.('rename')
    rename(directory, removedName(directory))
    return
  }
}

/** Mail in a second tier that the configuration does not name would stay there for whoever gets the name next. */
async function mustKnowTiers(directory: string, { alternate }: Config): Promise<void> {
  if (alternate !== undefined) return
  await using fs = await posixFs(directory)
  if ((await fs.stat(`${STORAGE}/second-tier`)) !== undefined)
    throw new ServerError(
      'SERVER_NO_ROOT',
      `${directory} has mail in a second tier, and the configuration names none: say --config FILE`,
    )
}

/** All mailboxes of the store go, and what it holds of attachments that others have too. */
async function empty(data: string, user: StoredUser, settings: Config): Promise<void> {
  await inStore(data, user, settings, false, async (store) => {
    const session = store.as({ name: user.name, unrestricted: true })
    const importing = session.importer()
    for (const { guid } of importing.unfinished()) await importing.discard(guid)
    for (const { name } of session.mailboxes().toReversed()) if (name !== INBOX) await session.remove(name)
    if ((session.mailbox(INBOX)?.count ?? 0) > 0) {
      // An INBOX stays: its messages go by another name.
      await session.rename(INBOX, 'Removed')
      await session.remove('Removed')
    }
    for (const name of [INBOX, '']) if (session.acl(name) !== undefined) await session.changeAcl(name, () => undefined)
    if (!store.hasAttachments) return
    const { unavailable } = await store.purge()
    if (unavailable !== undefined) throw unavailable
    for (let n = 0; n < SWEEPS; n++) await store.sweepAttachments({ graceMs: 0 })
  })
}

async function isEmpty(data: string, user: StoredUser, settings: Config): Promise<boolean> {
  return (
    (await inStore(data, user, settings, true, (store) =>
      Promise.resolve(
        store
          .as({ name: user.name, unrestricted: true })
          .mailboxes()
          .every(({ name, count }) => name === INBOX && count === 0),
      ),
    )) ?? true
  )
}

/** Undefined where there is no store in the directory yet. */
async function inStore<T>(
  data: string,
  user: StoredUser,
  settings: Config,
  readOnly: boolean,
  body: (store: Store) => Promise<T>,
): Promise<T | undefined> {
  try {
    await using opened = await openUserStore(data, user, { settings, readOnly })
    return await body(opened.store)
  } catch (error) {
    if (!(error instanceof StoreError && error.code === 'STORE_NOT_FOUND')) throw error
    await using fs = await posixFs(join(data, userDirectory(user)))
    // Messages without an index are mail.
    if (hasUserIndex(data, user, settings) || (await boxOnDisk(fs)) !== undefined) throw error
    return undefined
  }
}

/** The lock that everybody who has the store open holds a part of, undefined if somebody does. */
async function alone(data: string, user: StoredUser, settings: Config): Promise<AsyncDisposable | undefined> {
  await using held = new AsyncDisposableStack()
  const home = userDirectory(user)
  for (const root of [data, settings.index?.path]) {
    if (root === undefined || !exists(join(root, home, INDEX_PATH))) continue
    const fs = held.use(await posixFs(join(root, home)))
    const lock = held.use(await fs.lock(`${INDEX_PATH}/open`))
    if (!lock.tryAcquire('exclusive')) return undefined
  }
  return held.move()
}

/** No user has such a directory: names of users have no dot in front. */
function removedName(path: string): string {
  return join(dirname(path), `${REMOVED}${basename(path)}`)
}

function rename(from: string, to: string): void {
  rmSync(to, { recursive: true, force: true })
  renameSync(from, to)
  syncDirectory(dirname(from))
}

function syncDirectory(path: string): void {
  const directory = openSync(path, 'r')
  try {
    fsyncSync(directory)
  } finally {
    closeSync(directory)
  }
}

function exists(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined
}
