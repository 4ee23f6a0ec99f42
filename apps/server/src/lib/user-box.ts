/**
 * How the messages of a user are kept, by what the configuration says: many to a file or one, compressed or not, and in which
 * tiers. A store that is there keeps the format that it was made with.
 *
 *   ALTERNATE/mailstead-root                     the marker: this directory was made for a second tier (docs/formats/root.md)
 *   ALTERNATE/users/<name>/storage/              the second tier of one user's messages
 *
 * INVARIANT   Nothing is created in a directory without marker: it may be a mount point whose mount is missing.
 */
import type { Fs } from '@mailstead/fs'
import { mdbox } from '@mailstead/mdbox'
import { sdbox } from '@mailstead/mdbox/sdbox'
import { userDirectory } from '@mailstead/server'
import type { StoreOptions } from '@mailstead/store'
import type { BoxName, Config } from './config.ts'
import type { Mounts } from './mounts.ts'
import { rootFs, rootUuid } from './roots.ts'

/** Where a store keeps its messages. Must not change: on disk. */
export const STORAGE = 'storage'

/** What of the configuration decides where and how messages are kept. */
export type BoxSettings = Pick<Config, 'alternate'> &
  Partial<Pick<Config, 'index' | 'attachments' | 'state'>> & {
    readonly store: Pick<Config['store'], 'box' | 'compression'>
  }

export function userBox(
  user: { readonly name: string; readonly home?: string | undefined },
  settings: BoxSettings | undefined,
  mounts: Mounts | undefined,
): StoreOptions['box'] {
  const compression = settings?.store.compression
  const path = settings?.alternate?.path
  const how = compression === undefined ? {} : { compression }
  return (fs, recorded = settings?.store.box ?? 'mdbox', roots = {}) => {
    const alt =
      path === undefined
        ? {}
        : {
            alt: {
              fs: () => rootFs(path, 'alternate', roots.alternate, mounts),
              path: `${userDirectory(user)}/${STORAGE}`,
            },
          }
    return {
      ...(recorded === 'sdbox' ? sdbox(fs, STORAGE, { ...how, ...alt }) : mdbox(fs, STORAGE, { ...how, ...alt })),
      // Messages in either format are a store that lost its index.
      hasMessages: async () => (await boxOnDisk(fs)) !== undefined,
    }
  }
}

/** In which format there are messages, whatever the index says. */
export async function boxOnDisk(fs: Fs): Promise<BoxName | undefined> {
  if ((await mdbox(fs, STORAGE).hasMessages?.()) === true) return 'mdbox'
  return (await sdbox(fs, STORAGE).hasMessages?.()) === true ? 'sdbox' : undefined
}

/** The UUID of the second tier's root; undefined if there is none, or it is away. */
export async function alternateRoot(
  settings: BoxSettings | undefined,
  mounts: Mounts | undefined,
): Promise<Uint8Array | undefined> {
  const path = settings?.alternate?.path
  if (path === undefined) return undefined
  try {
    return await rootUuid(path, 'alternate', mounts)
  } catch {
    // Whoever needs it says why it cannot be used.
    return undefined
  }
}
