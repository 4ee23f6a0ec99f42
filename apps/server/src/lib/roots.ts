/**
 * Root directories: what was marked for Mailstead, and for what.
 *
 *   ROOT/mailstead-root        the marker (docs/formats/root.md)
 *   ROOT/users/<name>/         what is of one user
 *   ROOT/users/.removed-<name>/  what was, and is being removed
 *
 * INVARIANT   Nothing is created in a directory without marker: it may be a mount point whose mount is missing.
 */
import { resolve } from 'node:path'
import { type Fs, FsError, initRoot, readRoot, ROOT_FILE, type RootRole } from '@mailstead/fs'
import { posixFs } from '@mailstead/fs/posix'
import { ServerError } from '@mailstead/server'
import { guardedDirectory, mayBeMade, type Mounts, mustAnswer } from './mounts.ts'

export const USERS_DIRECTORY = 'users'
/** In front of the name of a directory that is being removed. */
export const REMOVED = '.removed-'

const names: Readonly<Record<RootRole, string>> = {
  data: 'data directory',
  index: 'directory for indexes',
  alternate: 'second tier',
  attachments: 'directory for attachments',
}

/** `mailstead init …` for this root. */
function initLine(path: string, role: RootRole): string {
  return `mailstead init ${role === 'data' ? '' : `--${role} `}${path}`
}

/**
 * Marks a directory, making it if it is not there. `already` if it is marked. SERVER_NO_ROOT if it is something else, or was marked
 * before as `mounts` knows, or its file system is not mounted as fstab tells.
 */
export async function initRootDirectory(path: string, role: RootRole, mounts?: Mounts): Promise<'made' | 'already'> {
  const known = await mounts?.roots?.find(path, role)
  if (known !== undefined) {
    await checkRootDirectory(path, role, mounts)
    return 'already'
  }
  if (mounts !== undefined) await mayBeMade(path, mounts)
  await using fs = await posixFs(path, { create: true })
  const root = await readRoot(fs)
  if (root?.role === role) return 'already'
  if (root !== undefined)
    throw new ServerError('SERVER_NO_ROOT', `${path} is marked as something else (${root.role}). Nothing was changed.`)
  for (const name of role === 'attachments' ? [USERS_DIRECTORY, 'tenants', 'server'] : [USERS_DIRECTORY])
    if ((await fs.stat(name)) !== undefined)
      throw new ServerError(
        'SERVER_NO_ROOT',
        `${path} holds ${name}/ but no ${ROOT_FILE}: the marker was lost, or this is something else. Nothing was changed.`,
      )
  await initRoot(fs, role)
  return 'made'
}

/** The root's UUID. Fails with SERVER_NO_ROOT unless the directory carries the marker of this role. */
export async function checkRootDirectory(path: string, role: RootRole, mounts?: Mounts): Promise<Uint8Array> {
  const absolute = resolve(path)
  await mustAnswer(absolute, mounts)
  try {
    await using fs = await posixFs(absolute)
    const root = await readRoot(fs)
    if (root?.role === role) {
      await mounts?.roots?.check(absolute, role, root.uuid)
      return root.uuid
    }
  } catch (error) {
    if (!(error instanceof FsError) || error.code !== 'FS_UNAVAILABLE') throw error
    throw new ServerError('SERVER_NO_ROOT', gone(absolute, role), { cause: error })
  }
  throw new ServerError(
    'SERVER_NO_ROOT',
    `${absolute} holds no ${ROOT_FILE} of a ${names[role]}: perhaps its file system is not mounted. To make it one, run: ${initLine(path, role)}`,
  )
}

/**
 * The file system of a root that a store can do without for a while. FS_UNAVAILABLE unless it carries the marker, and is the one
 * that the store records, if it records one.
 */
export async function rootFs(
  path: string,
  role: RootRole,
  recorded: Uint8Array | undefined,
  mounts: Mounts | undefined,
): Promise<Fs> {
  const uuid = await rootUuid(path, role, mounts)
  if (uuid === undefined)
    throw new FsError(
      'FS_UNAVAILABLE',
      `${path} holds no ${ROOT_FILE} of a ${names[role]}: perhaps its file system is not mounted. To make it one, run: ${initLine(path, role)}`,
    )
  if (recorded !== undefined && Buffer.compare(uuid, recorded) !== 0)
    throw new FsError(
      'FS_UNAVAILABLE',
      `${path} is the ${names[role]} ${hex(uuid)}, and this store's is ${hex(recorded)}: something else is mounted there`,
    )
  return guardedDirectory(path, { root: { path, role, uuid }, mounts })
}

/** The UUID of what is there, if it carries the marker. FS_UNAVAILABLE if it cannot be reached. */
export async function rootUuid(
  path: string,
  role: RootRole,
  mounts: Mounts | undefined,
): Promise<Uint8Array | undefined> {
  await mustAnswer(path, mounts)
  try {
    await using fs = await posixFs(path)
    const root = await readRoot(fs)
    return root?.role === role ? root.uuid : undefined
  } catch (error) {
    throw isGone(error) ? new FsError('FS_UNAVAILABLE', gone(path, role), { cause: error }) : error
  }
}

function isGone(error: unknown): boolean {
  return error instanceof FsError && (error.cause as { readonly code?: unknown } | undefined)?.code === 'ENOENT'
}

function gone(path: string, role: RootRole): string {
  return `the ${names[role]} ${path} is not there. If it is on a file system of its own, mount it; to make a new one, run: ${initLine(path, role)}`
}

function hex(uuid: Uint8Array): string {
  return Buffer.from(uuid).toString('hex')
}
