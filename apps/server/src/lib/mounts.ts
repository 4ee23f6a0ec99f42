/**
 * Whether storage is there: the list of mounts (@mailstead/mount), and guards of directories of roots.
 *
 *   STATE/mounts …             the list (docs/formats/mounts.md); STATE must not be on what it is about
 *   STATE/roots                which roots were served (known-roots.ts)
 *
 * A server without state directory makes its list anew at each start: then what was away before the start is known by its
 * missing marker alone, and another volume that is marked is taken for what was there.
 */
import { existsSync, readdirSync, type Stats, statSync } from 'node:fs'
import { dirname, resolve, sep } from 'node:path'
import { type Fs, FsError, type RootRole } from '@mailstead/fs'
import { posixFs } from '@mailstead/fs/posix'
import {
  answers,
  type Guard,
  guardedFs,
  mountGuard,
  type MountNotice,
  type MountProbe,
  type MountRegistry,
  openRegistry,
  systemProbe,
} from '@mailstead/mount'
import { type OnServerEvent, ServerError } from '@mailstead/server'
import { fstabMountPoint, readFstab } from './fstab.ts'
import { KnownRoots } from './known-roots.ts'

/** How often all mounts of the list are looked at, in milliseconds. */
const LOOK_EVERY_MS = 10_000

/** Who knows what must be mounted. */
export interface Mounts extends AsyncDisposable {
  /** Undefined: nobody keeps a list. */
  readonly registry: MountRegistry | undefined
  readonly probe: MountProbe
  /** Undefined: nobody keeps them. */
  readonly roots: KnownRoots | undefined
  /** The text of /etc/fstab, as it is now. */
  readonly fstab: () => string
}

/** The root that a directory lies in. */
export interface InRoot {
  readonly path: string
  readonly role: RootRole
  /** 16 bytes. (default: that which is seen first) */
  readonly uuid?: Uint8Array | undefined
}

/** The list that a server keeps, for the command; without `state` only markers are looked at. MOUNT_DAMAGED. */
export async function openMounts(state: string | undefined): Promise<Mounts> {
  await using held = new AsyncDisposableStack()
  const probe = held.use(systemProbe())
  const { registry, roots } = state === undefined ? {} : await openList(held, state, probe, [])
  const all = held.move()
  return { registry, roots, probe, fstab: readFstab, [Symbol.asyncDispose]: () => all.disposeAsync() }
}

/**
 * For a server: everything that is mounted is looked at now, and all the time; what is worth a word is told. `roots` are directories
 * that hold mail. MOUNT_DAMAGED.
 */
export async function startMounts(
  state: string | undefined,
  roots: readonly string[],
  onEvent: OnServerEvent,
): Promise<Mounts & { readonly registry: MountRegistry }> {
  await using held = new AsyncDisposableStack()
  const probe = held.use(systemProbe())
  const absolute = roots.map((root) => resolve(root))
  const { registry, roots: known }: { registry: MountRegistry; roots?: KnownRoots } =
    state === undefined
      ? { registry: held.use(await openRegistry({ probe, roots: absolute })) }
      : await openList(held, state, probe, absolute)
  const tell = (notices: readonly MountNotice[]): void => {
    for (const { kind, path, message } of notices)
      onEvent({ level: kind === 'new' || kind === 'back' ? 'info' : 'warn', kind: 'mount', message, what: kind, path })
  }
  tell(await registry.start())
  let looking: Promise<void> | undefined
  const timer = setInterval(() => {
    looking ??= registry
      .refresh()
      .then(tell, (error: unknown) =>
        onEvent({ level: 'warn', kind: 'mount', message: 'mounts could not be looked at', what: 'failed', error }),
      )
      .finally(() => {
        looking = undefined
      })
  }, LOOK_EVERY_MS).unref()
  held.defer(async () => {
    clearInterval(timer)
    await looking
  })
  const all = held.move()
  return { registry, roots: known, probe, fstab: readFstab, [Symbol.asyncDispose]: () => all.disposeAsync() }
}

async function openList(
  held: AsyncDisposableStack,
  state: string,
  probe: MountProbe,
  roots: readonly string[],
): Promise<{ readonly registry: MountRegistry; readonly roots: KnownRoots }> {
  const fs = held.use(await posixFs(state, { create: true }))
  return { registry: held.use(await openRegistry({ fs, probe, roots })), roots: new KnownRoots(fs, probe) }
}

export interface DirectoryOptions {
  readonly root: InRoot
  /** (default: markers alone) */
  readonly mounts?: Mounts | undefined
  /** Make the directory if it is not there. (default false) */
  readonly create?: boolean
}

/** A directory as a file system that knows when its storage is away: FS_UNAVAILABLE, now and later. */
export async function guardedDirectory(path: string, options: DirectoryOptions): Promise<Fs> {
  await using held = new AsyncDisposableStack()
  const guard = held.use(guardOf(path, options))
  await guard.check('')
  const inner = held.use(await posixFs(path, { create: options.create ?? false }))
  await guard.check('')
  const fs = guardedFs(inner, guard)
  const all = held.move()
  return { ...fs, [Symbol.asyncDispose]: () => all.disposeAsync() }
}

function guardOf(path: string, { root, mounts }: DirectoryOptions): Guard {
  const { uuid, role } = root
  return mountGuard({
    path: resolve(path),
    root: { path: resolve(root.path), role, ...(uuid === undefined ? {} : { uuid }) },
    ...(mounts === undefined ? {} : { probe: mounts.probe }),
    ...(mounts?.registry === undefined ? {} : { registry: mounts.registry }),
  })
}

/** FS_UNAVAILABLE if the list says that something else must be mounted at or above the directory, which need not be there. */
export async function mustBeMounted(path: string, { registry, probe }: Mounts): Promise<void> {
  if (registry === undefined) return
  await using guard = mountGuard({ path: resolve(path), registry, probe })
  await guard.check('')
}

/**
 * SERVER_NO_ROOT if fstab has a mount at or above the directory that is not mounted: its mount point is empty, or not there. FS_UNAVAILABLE
 * if what is on the way does not answer.
 */
export async function mayBeMade(path: string, { probe, fstab }: Mounts): Promise<void> {
  await answers(probe, resolve(path))
  const real = probe.realPath(resolve(path))
  const point = fstabMountPoint(fstab(), real)
  const rows = point === undefined ? undefined : await probe.table()
  if (point === undefined || rows === undefined || rows.some((row) => row.path === point)) return
  if (existsSync(point) && readdirSync(point).length > 0) return
  throw new ServerError(
    'SERVER_NO_ROOT',
    `/etc/fstab says that something is mounted on ${point}, and nothing is. Nothing was changed. Run: mount ${point}`,
  )
}

/** Of a file that may be in a root: then that root must be there, too. */
export function guardOfFile(file: string, root: InRoot, mounts: Mounts & { readonly registry: MountRegistry }): Guard {
  const path = dirname(resolve(file))
  const isInRoot = `${path}${sep}`.startsWith(`${resolve(root.path)}${sep}`)
  return isInRoot
    ? guardOf(path, { root, mounts })
    : mountGuard({ path, registry: mounts.registry, probe: mounts.probe })
}

/** FS_UNAVAILABLE if what the directory is on does not answer: a look at it might never end, and everybody would wait. */
export async function mustAnswer(path: string, mounts: Mounts | undefined): Promise<void> {
  await using own = mounts === undefined ? systemProbe() : undefined
  await answers(mounts?.probe ?? own!, resolve(path))
}

/**
 * For `UserStorage.isCurrent`: whether each of the directories is still the one that it is now, or is away. Disposed with what was opened.
 */
export async function whileSame(
  directories: readonly { readonly path: string; readonly root: InRoot }[],
  mounts: Mounts | undefined,
): Promise<{ readonly isCurrent: () => Promise<boolean> } & AsyncDisposable> {
  const all = await Promise.all(
    directories.map(async ({ path, root }) => ({
      path,
      guard: guardOf(path, { root, mounts }),
      identity: await mustAnswer(path, mounts).then(
        () => identityOf(path),
        () => AWAY,
      ),
    })),
  )
  return {
    async isCurrent() {
      for (const { path, guard, identity } of all) {
        try {
          await guard.check('')
        } catch (error) {
          if (error instanceof FsError) continue
          throw error
        }
        if (identityOf(path) !== identity) return false
      }
      return true
    },
    async [Symbol.asyncDispose]() {
      for (const { guard } of all) await guard[Symbol.asyncDispose]()
    },
  }
}

const AWAY = 'away'

function identityOf(path: string): string {
  let stats: Stats | undefined
  try {
    stats = statSync(path, { throwIfNoEntry: false })
  } catch {
    return AWAY
  }
  return stats === undefined ? AWAY : `${stats.dev}:${stats.ino}`
}
