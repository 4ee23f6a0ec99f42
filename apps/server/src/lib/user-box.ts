/**
 * How the messages of a user are kept, by what the configuration says: many to a file or one, compressed or not, and in which
 * tiers. A store that is there keeps the format that it was made with.
 *
 *   ALTERNATE/mailstead-root                     the marker: this directory was made for a second tier (docs/formats/root.md)
 *   ALTERNATE/users/<name>/storage/              the second tier of one user's messages
 *
 * INVARIANT   Nothing is created in a directory without marker: it may be a mount point whose mount is missing.
 */
import { type Fs, FsError, initRoot, readRoot, ROOT_FILE } from '@mailstead/fs'
import { posixFs } from '@mailstead/fs/posix'
import { mdbox } from '@mailstead/mdbox'
import { sdbox } from '@mailstead/mdbox/sdbox'
import { ServerError, userDirectory } from '@mailstead/server'
import type { StoreOptions } from '@mailstead/store'
import type { BoxName, Config } from './config.ts'

/** Where a store keeps its messages. Must not change: on disk. */
export const STORAGE = 'storage'

/** What of the configuration decides how messages are kept. */
export type BoxSettings = Pick<Config, 'alternate'> & { readonly store: Pick<Config['store'], 'box' | 'compression'> }

export function userBox(
  user: { readonly name: string; readonly home?: string | undefined },
  settings: BoxSettings | undefined,
): StoreOptions['box'] {
  const compression = settings?.store.compression
  const path = settings?.alternate?.path
  const how = compression === undefined ? {} : { compression }
  const alt =
    path === undefined ? {} : { alt: { fs: () => alternateFs(path), path: `${userDirectory(user)}/${STORAGE}` } }
  return (fs, recorded = settings?.store.box ?? 'mdbox') => ({
    ...(recorded === 'sdbox' ? sdbox(fs, STORAGE, { ...how, ...alt }) : mdbox(fs, STORAGE, { ...how, ...alt })),
    // Messages in either format are a store that lost its index.
    hasMessages: async () => (await boxOnDisk(fs)) !== undefined,
  })
}

/** In which format there are messages, whatever the index says. */
export async function boxOnDisk(fs: Fs): Promise<BoxName | undefined> {
  if ((await mdbox(fs, STORAGE).hasMessages?.()) === true) return 'mdbox'
  return (await sdbox(fs, STORAGE).hasMessages?.()) === true ? 'sdbox' : undefined
}

/** The file system of the second tier. FS_UNAVAILABLE unless the marker is there. */
async function alternateFs(path: string): Promise<Fs> {
  const fs = await posixFs(path)
  try {
    if ((await readRoot(fs))?.role === 'alternate') return fs
  } catch (error) {
    await fs[Symbol.asyncDispose]()
    throw error
  }
  await fs[Symbol.asyncDispose]()
  throw new FsError(
    'FS_UNAVAILABLE',
    `${path} holds no ${ROOT_FILE} of a second tier: perhaps its file system is not mounted. To make it one, run: mailstead init --alternate ${path}`,
  )
}

/** Marks a directory, making it if it is not there. `already` if it is marked. */
export async function initAlternateDirectory(path: string): Promise<'made' | 'already'> {
  await using fs = await posixFs(path, { create: true })
  const root = await readRoot(fs)
  if (root?.role === 'alternate') return 'already'
  if (root !== undefined)
    throw new ServerError('SERVER_NO_ROOT', `${path} is marked as something else (${root.role}). Nothing was changed.`)
  if ((await fs.stat('users')) !== undefined)
    throw new ServerError(
      'SERVER_NO_ROOT',
      `${path} holds users/ but no ${ROOT_FILE}: the marker was lost, or this is something else. Nothing was changed.`,
    )
  await initRoot(fs, 'alternate')
  return 'made'
}
