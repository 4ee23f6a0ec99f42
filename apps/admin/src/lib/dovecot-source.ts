/** Where a Dovecot store and what belongs to it lie on this machine. */
import { readlinkSync, statSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { posixFs } from '@mailstead/fs/posix'
import { type DovecotStore, openDovecot, type OpenDovecotOptions } from '@mailstead/mdbox/dovecot'
import { Exit } from './exit.ts'

const SCHEME = 'dovecot:'
/** Dovecot keeps a link of this name in a dbox with alternate storage. */
const ALT_LINK = 'dbox-alt-root'
const BELOW_HOME = ['', 'mdbox', 'sdbox']

export interface DovecotSource {
  /** A home directory, or an mdbox, sdbox or Maildir. */
  readonly home: string
  readonly alt?: string | undefined
  readonly attachments?: string | undefined
  readonly index?: string | undefined
  readonly separator?: string | undefined
}

/** The directory in `dovecot:DIR`. Exit 2 for anything else. */
export function homeOf(source: string): string {
  const path = source.startsWith(SCHEME) ? source.slice(SCHEME.length) : ''
  if (path === '') throw new Exit(2, `${source} is no source: say dovecot:DIR, where DIR holds mdbox, sdbox or Maildir`)
  return resolve(path)
}

/** Opens it, read-only. Exit 2 if one of the directories is not there: it may not be mounted. */
export async function openSource(source: DovecotSource): Promise<DovecotStore> {
  await using opened = new AsyncDisposableStack()
  const rootAt = async (path: string, what: string): Promise<NonNullable<OpenDovecotOptions['alt']>> => {
    const absolute = resolve(path)
    if (!isDirectory(absolute))
      throw new Exit(2, `the ${what} ${absolute} is not there: perhaps its file system is not mounted`)
    return { fs: opened.use(await posixFs(absolute)), path: '' }
  }
  const { fs } = await rootAt(source.home, 'directory')
  const { index, separator } = source
  const attachments = source.attachments ?? findBeside(source.home, 'attachments')
  const alt = source.alt ?? findAlt(source.home)
  const store = await openDovecot(fs, '', {
    ...(alt === undefined ? {} : { alt: await rootAt(alt, 'alternate storage') }),
    ...(attachments === undefined ? {} : { attachments: await rootAt(attachments, 'directory of attachments') }),
    ...(index === undefined ? {} : { index: await rootAt(index, 'directory of indexes') }),
    ...(separator === undefined ? {} : { separator }),
  }).catch((error: unknown) => {
    if (error instanceof TypeError || (error as { code?: unknown }).code === 'BOX_NOT_FOUND')
      throw new Exit(2, (error as Error).message)
    throw error
  })
  const roots = opened.move()
  return {
    kind: store.kind,
    mailboxes: store.mailboxes,
    subscriptions: store.subscriptions,
    defaults: store.defaults,
    faults: store.faults,
    async [Symbol.asyncDispose]() {
      await store[Symbol.asyncDispose]()
      await roots[Symbol.asyncDispose]()
    },
  }
}

/**
 * Alternate storage: where the link in the store leads, or beside the store (a store that was moved has an old link). Exit 2 if
 * the link leads nowhere and nothing is beside it: its mail would be missing.
 */
function findAlt(home: string): string | undefined {
  const beside = findBeside(home, 'alt')
  for (const below of BELOW_HOME) {
    const link = join(home, below, ALT_LINK)
    let target: string
    try {
      target = resolve(dirname(link), readlinkSync(link))
    } catch {
      continue
    }
    return isDirectory(target) || beside === undefined ? target : beside
  }
  return beside
}

/** In the home directory, or, where a store itself was named, beside that. */
function findBeside(home: string, name: string): string | undefined {
  const isStore = isDirectory(join(home, 'mailboxes'))
  const path = join(isStore ? dirname(home) : home, name)
  return isDirectory(path) ? path : undefined
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true
}
