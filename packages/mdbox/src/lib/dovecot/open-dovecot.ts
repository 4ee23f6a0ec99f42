/**
 * Which kind of Dovecot store a directory holds, and its reader.
 *
 * A home directory holds `mdbox`, `sdbox` or `Maildir`; or the directory is one of them: mdbox has a `storage` beside its
 * `mailboxes`, sdbox has `mailboxes` alone, a Maildir has `cur` and `new`. Alternate storage and attachments are where the
 * caller says, or beside the store.
 */
import { BoxError } from '@mailstead/box'
import type { Fs } from '@mailstead/fs'
import type { DovecotStore, OpenDovecotOptions } from './contract.ts'
import { openMaildir } from './maildir.ts'
import { openDbox } from './open-dbox.ts'
import { join } from './root.ts'

type Kind = DovecotStore['kind']

const HOME_NAMES: readonly Kind[] = ['mdbox', 'sdbox', 'maildir']

/**
 * Opens a store of Dovecot, read-only. BOX_NOT_FOUND if there is none at `path`; a TypeError if a home directory holds several
 * (name one of them). Everything else that is wrong with it is a fault, not an error.
 */
export async function openDovecot(fs: Fs, path: string, options: OpenDovecotOptions = {}): Promise<DovecotStore> {
  const own = await kindOf(fs, path)
  if (own !== undefined) return open(own, fs, path, path, options)
  const found: { readonly kind: Kind; readonly at: string }[] = []
  for (const kind of HOME_NAMES) {
    const at = join(path, kind === 'maildir' ? 'Maildir' : kind)
    if (await isDirectory(fs, at)) found.push({ kind, at })
  }
  const [first, second] = found
  if (first === undefined)
    throw new BoxError('BOX_NOT_FOUND', `${shown(fs, path)} is no Dovecot store, and holds no mdbox, sdbox or Maildir`)
  if (second !== undefined)
    throw new TypeError(`${shown(fs, path)} holds several stores: name one of ${found.map(({ at }) => at).join(', ')}`)
  return open(first.kind, fs, first.at, path, options)
}

function open(kind: Kind, fs: Fs, path: string, opened: string, options: OpenDovecotOptions): Promise<DovecotStore> {
  if (kind === 'maildir') {
    const below = opened === '' ? path : path.slice(opened.length + 1)
    return openMaildir({ fs, path, shown: path === opened ? '' : below }, options)
  }
  return openDbox(kind, fs, path, opened, options)
}

async function kindOf(fs: Fs, path: string): Promise<Kind | undefined> {
  if (await isDirectory(fs, join(path, 'storage'))) return 'mdbox'
  if (await isDirectory(fs, join(path, 'mailboxes'))) return 'sdbox'
  if ((await isDirectory(fs, join(path, 'cur'))) && (await isDirectory(fs, join(path, 'new')))) return 'maildir'
  return undefined
}

async function isDirectory(fs: Fs, path: string): Promise<boolean> {
  return (await fs.stat(path))?.kind === 'directory'
}

function shown(fs: Fs, path: string): string {
  return join(fs.name, path)
}
