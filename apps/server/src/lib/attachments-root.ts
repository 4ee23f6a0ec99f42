/**
 * The directory in which attachments are kept once: below the data directory, or a volume of its own.
 *
 *   ATTACHMENTS/mailstead-root          the marker: this directory was made for attachments (docs/formats/root.md)
 *   ATTACHMENTS/users/<name>/           of one user
 *   ATTACHMENTS/tenants/<name>/         of all users of a tenant; `tenants/%`: of those without one
 *   ATTACHMENTS/server/                 of everybody
 *   DATA/mailstead-attachments          the same bytes as the marker, where ATTACHMENTS is DATA/attachments
 *
 * INVARIANTS
 *   1. Nothing is created in a directory without marker: it may be a mount point whose mount is missing.
 *   2. DATA/attachments is made by itself only where there never was one: the copy of its marker says so.
 *   3. A store knows the UUID of the root that its attachments are in (user-attachments.ts): another one is never taken for it.
 */
import { join } from 'node:path'
import { ROOT_FILE } from '@mailstead/fs'
import { guardedDirectory, type Mounts } from './mounts.ts'
import { initRootDirectory } from './roots.ts'

/** Must not change: on disk. */
export const ATTACHMENTS_DIRECTORY = 'attachments'
/** Must not change: on disk. */
export const ATTACHMENTS_MARK = 'mailstead-attachments'

export interface AttachmentsWhere {
  /** The data directory. */
  readonly data: string
  /** Undefined: below the data directory. */
  readonly path: string | undefined
  /** (default: markers alone) */
  readonly mounts?: Mounts | undefined
  /** UUID of the data root, 16 bytes. (default: whichever it is) */
  readonly dataUuid?: Uint8Array | undefined
}

/** Makes DATA/attachments unless there is or was one. FS_UNAVAILABLE if something else is mounted on DATA than should be. */
export async function makeAttachmentsBelow({ data, mounts, dataUuid }: Omit<AttachmentsWhere, 'path'>): Promise<void> {
  await using fs = await guardedDirectory(data, { root: { path: data, role: 'data', uuid: dataUuid }, mounts })
  if ((await fs.stat(ATTACHMENTS_MARK)) !== undefined) return
  const path = join(data, ATTACHMENTS_DIRECTORY)
  if ((await fs.stat(ATTACHMENTS_DIRECTORY)) === undefined) await initRootDirectory(path, 'attachments')
  // Whoever marked it: from now on it is missed where it is not.
  const marker = `${ATTACHMENTS_DIRECTORY}/${ROOT_FILE}`
  if ((await fs.stat(marker)) !== undefined) await fs.writeFile(ATTACHMENTS_MARK, await fs.readFile(marker))
}

/** Where the attachments are. */
export function attachmentsRoot({ data, path }: AttachmentsWhere): string {
  return path ?? join(data, ATTACHMENTS_DIRECTORY)
}
