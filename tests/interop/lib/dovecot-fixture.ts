/**
 * Stores that a real Dovecot wrote, with what it says of them, and a file system over files in memory that can be damaged.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Fs, type FsEntry, FsError, type FsFile, type FsStat } from '@mailstead/fs'
import type { Lack } from '../../support/depth.ts'

const FIXTURES = fileURLToPath(new URL('../../../../shared/fixtures', import.meta.url))

export interface TrueMessage {
  readonly uid: number
  readonly guid: string
  readonly flags: readonly string[]
  readonly keywords: readonly string[]
  readonly modseq: number
  readonly refcount: string | null
  readonly 'date.received': number
  readonly 'date.saved': number
  readonly 'pop3.uidl': string
  readonly 'pop3.order': string
  readonly 'size.physical': number
  readonly 'size.virtual': number
  readonly sha256: string
  readonly 'sha256.lf': string
}

export interface TrueMailbox {
  readonly guid: string
  readonly uidvalidity: number
  readonly uidnext: number
  readonly highestmodseq: number
  readonly mail: readonly TrueMessage[]
}

export interface Truth {
  readonly list: readonly string[]
  readonly lsub: readonly string[]
  readonly mailboxes: Readonly<Record<string, TrueMailbox>>
}

export type Files = ReadonlyMap<string, Uint8Array>

export interface Fixture {
  readonly name: string
  readonly truth: Truth
  /** By path below the user's home directory. */
  readonly files: Files
}

export function fixtureLack(): Lack | undefined {
  return existsSync(FIXTURES) ? undefined : { reason: `no ${FIXTURES}` }
}

export function loadFixture(name: string): Fixture {
  const directory = mkdtempSync(join(tmpdir(), 'mailstead-dovecot-'))
  try {
    execFileSync('tar', ['xzf', join(FIXTURES, `${name}.tar.gz`), '-C', directory])
    const [home] = readdirSync(directory)
    const files = new Map<string, Uint8Array>()
    const walk = (path: string): void => {
      for (const entry of readdirSync(join(directory, home!, path), { withFileTypes: true })) {
        const inner = path === '' ? entry.name : `${path}/${entry.name}`
        if (entry.isDirectory()) walk(inner)
        else if (entry.isFile()) files.set(inner, readFileSync(join(directory, home!, inner)))
      }
    }
    walk('')
    return { name, truth: JSON.parse(readFileSync(join(FIXTURES, `${name}.json`), 'utf8')) as Truth, files }
  } finally {
    rmSync(directory, { recursive: true })
  }
}

/** The GUID of a message as 32 hex digits: of text that is none, the end of its SHA-1. */
export function guidHex(text: string): string {
  return /^[0-9a-f]{32}$/.test(text) ? text : createHash('sha1').update(text).digest('hex').slice(8)
}

/**
 * Reads from files in memory; nothing can be written. Directories are those that files are in, and those of `names`: files that
 * were lost. What is `broken` cannot be read: not opened, or (an odd number of letters) opened and then not read.
 */
export function filesFs(files: Files, names: Iterable<string> = [], broken: ReadonlySet<string> = new Set()): Fs {
  const directories = new Map<string, Map<string, FsEntry['kind']>>([['', new Map()]])
  for (const path of [...files.keys(), ...names]) {
    const parts = path.split('/')
    for (let depth = 0; depth < parts.length; depth++) {
      const at = parts.slice(0, depth).join('/')
      let entries = directories.get(at)
      if (entries === undefined) directories.set(at, (entries = new Map()))
      if (depth < parts.length - 1) entries.set(parts[depth]!, 'directory')
      else if (files.has(path)) entries.set(parts[depth]!, 'file')
    }
  }
  const missing = (path: string): FsError => new FsError('FS_NOT_FOUND', `no ${path}`, { path })
  const failed = (path: string): FsError => new FsError('FS_IO', `${path} cannot be read`, { path })
  const refuse = (): never => {
    throw new FsError('FS_READ_ONLY', 'this file system is only read from')
  }
  const statOf = (path: string): FsStat | undefined => {
    const bytes = files.get(path)
    if (bytes !== undefined) return { kind: 'file', size: bytes.length, modifiedMs: 0, tag: '' }
    return directories.has(path) ? { kind: 'directory', size: 0, modifiedMs: 0, tag: '' } : undefined
  }
  const openFile = (path: string): FsFile => {
    const bytes = files.get(path)
    if (bytes === undefined) throw missing(path)
    if (broken.has(path) && path.length % 2 === 0) throw failed(path)
    const readSync = (into: Uint8Array, position: number): number => {
      if (broken.has(path)) throw failed(path)
      const piece = bytes.subarray(position, position + into.length)
      into.set(piece)
      return piece.length
    }
    return {
      path,
      stat: async () => statOf(path)!,
      read: async (into, position) => readSync(into, position),
      readSync,
      append: refuse,
      write: refuse,
      truncate: refuse,
      sync: refuse,
      [Symbol.asyncDispose]: async () => {},
    }
  }
  return {
    name: 'files',
    supports: {
      append: false,
      overwrite: false,
      rename: false,
      link: false,
      lock: false,
      durable: false,
      directories: true,
      consistentList: true,
      conditional: false,
      syncRead: true,
      watch: false,
      metadata: false,
    },
    stat: async (path) => statOf(path),
    open: async (path) => openFile(path),
    readFile: async (path) => {
      const bytes = files.get(path)
      if (bytes === undefined) throw missing(path)
      if (broken.has(path)) throw failed(path)
      return bytes
    },
    async *list(path) {
      const entries = directories.get(path)
      if (entries !== undefined) yield Array.from(entries, ([name, kind]) => ({ name, kind }))
    },
    writeFile: refuse,
    makeDirectory: refuse,
    rename: refuse,
    link: refuse,
    remove: refuse,
    syncDirectory: refuse,
    lock: refuse,
    [Symbol.asyncDispose]: async () => {},
  }
}
