/**
 * What is mounted and not listed: each is added, and is worth a word only if it holds mail.
 *
 * A mount holds mail if a root is on it or it is below a root, or if a root marker is in it. What is not for mail, by its
 * type or its path, is `ignore`, unless a root is on it.
 */
import { join } from 'node:path'
import { ROOT_FILE } from '@mailstead/fs'
import type { Mount } from './contract.ts'
import { isOtherPath, isOtherType, isWithin, mayHang } from './kinds.ts'
import { MOUNT_PATH_MAX_BYTES, MOUNTS_MAX } from './list-format.ts'
import { MountTable } from './mount-table.ts'
import type { MountProbe, MountRow } from './probe.ts'
import { reach } from './reach.ts'

/** The list as it is to be at a start: with what is new, without what is not for mail and gone. */
export async function discover(
  probe: MountProbe,
  listed: ReadonlyMap<string, Mount>,
  roots: readonly string[],
): Promise<Map<string, Mount>> {
  const rows = await probe.table()
  if (rows === undefined) return new Map(listed)
  const table = new MountTable(rows)
  const real = await Promise.all(roots.map((root) => realOr(probe, root, table)))
  // Below a root there may be anything; and what `autofs` stands for is a row of its own once it is mounted.
  const holdsRoot = (row: MountRow): boolean =>
    real.some((root) =>
      isOtherType(row.type)
        ? row.type !== 'autofs' && table.covering(root) === row
        : table.covering(root) === row || isWithin(row.path, root),
    )

  const mounts = new Map<string, Mount>()
  for (const mount of listed.values()) {
    const row = table.at(mount.path)
    if (mount.origin === 'found' && row === undefined && !mount.mail) continue
    const mail = mount.mail || (row !== undefined && holdsRoot(row))
    const wanted = mount.origin === 'found' && mount.state === 'ignore' && mail
    mounts.set(mount.path, { ...mount, mail, state: wanted ? 'online' : mount.state })
  }
  const others: Mount[] = []
  for (const row of rows) {
    const { path } = row
    // What cannot be unmounted needs no guard.
    if (path === '/') continue
    if (table.at(path) !== row || listed.has(path) || Buffer.byteLength(path) > MOUNT_PATH_MAX_BYTES) continue
    const root = holdsRoot(row)
    const mount: Mount = { path, origin: 'found', state: 'ignore', mail: false, volume: undefined }
    if ((isOtherType(row.type) || isOtherPath(path)) && !root) {
      others.push(mount)
      continue
    }
    const { directory, marked } = await lookInto(probe, row)
    // A single file may be a mount, as containers have it.
    if (!directory) continue
    if (root || marked) mounts.set(path, { ...mount, state: 'online', mail: true })
    else others.push({ ...mount, state: 'online' })
  }
  for (const other of others) if (mounts.size < MOUNTS_MAX) mounts.set(other.path, other)
  return mounts
}

async function lookInto(
  probe: MountProbe,
  { path, type }: MountRow,
): Promise<{ readonly directory: boolean; readonly marked: boolean }> {
  try {
    if (mayHang(type)) await probe.alive(path)
    return {
      directory: probe.look(path)?.directory === true,
      marked: probe.look(join(path, ROOT_FILE)) !== undefined,
    }
  } catch {
    // It does not answer, or we may not look: what it holds is not known.
    return { directory: true, marked: false }
  }
}

/** What does not answer holds the root all the same: its path, as far as it can be told without looking there. */
async function realOr(probe: MountProbe, path: string, table: MountTable): Promise<string> {
  try {
    return await reach(probe, path)
  } catch {
    try {
      return probe.realPath(path, (at) => mayHang(table.covering(at)?.type ?? ''))
    } catch {
      return path
    }
  }
}
