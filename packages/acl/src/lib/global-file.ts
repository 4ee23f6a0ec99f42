/**
 * The global file as it changes: read at the start, and again whenever it is another one.
 *
 * Another one has another tag (inode, size and time of change), or was so new when it was read that a later change could have the same. A file
 * that is gone or cannot be read any more is an outage, not an empty file: what was read last goes on to apply, and `problem` says so.
 */
import { type Fs, FsError, type FsStat } from '@mailstead/fs'
import { readLimited } from './acl-file.ts'
import { GlobalAcl } from './global-acl.ts'

/** A file that was changed so recently, in milliseconds, is read again: clocks of file systems are coarse. */
const TOO_NEW_MS = 2000

export interface GlobalAclFileOptions {
  /** The clock, in milliseconds since the epoch. (default `Date.now`) */
  readonly now?: () => number
}

export interface GlobalAclFile {
  /** What the file says; another object after each change. */
  readonly current: GlobalAcl
  /** Why the file could not be read the last time, while an earlier one applies. */
  readonly problem: FsError | undefined
  /** Looks at the file: one stat if nothing changed. Never fails for what the file is or says. */
  refresh(): Promise<'unchanged' | 'changed' | 'kept'>
}

/** Opens the global file. Fails as the file system does: one that is not there at the start is a mistake of the configuration. */
export async function openGlobalAcl(fs: Fs, path: string, options: GlobalAclFileOptions = {}): Promise<GlobalAclFile> {
  const { now = Date.now } = options
  const name = path.slice(path.lastIndexOf('/') + 1)
  let bytes = Buffer.alloc(0)
  let current: GlobalAcl | undefined
  let identity = ''
  let problem: FsError | undefined

  async function read(): Promise<'unchanged' | 'changed'> {
    const stat = await fs.stat(path)
    if (stat === undefined || stat.kind !== 'file') throw new FsError('FS_NOT_FOUND', `no ${path}`, { path })
    const seen = identityOf(stat)
    if (seen === identity) return 'unchanged'
    const next = Buffer.from(await readLimited(fs, path))
    // Read while somebody writes it: what was seen may be the file before, so it is looked at again.
    const tooNew = Math.abs(now() - stat.modifiedMs) < TOO_NEW_MS
    identity = tooNew ? '' : seen
    if (current !== undefined && next.equals(bytes)) return 'unchanged'
    bytes = next
    current = new GlobalAcl(bytes, name)
    return 'changed'
  }

  await read()
  let turn: Promise<unknown> = Promise.resolve()
  return {
    get current() {
      return current!
    },
    get problem() {
      return problem
    },
    async refresh() {
      const result = turn.then(async () => {
        try {
          const outcome = await read()
          problem = undefined
          return outcome
        } catch (error) {
          if (!(error instanceof FsError)) throw error
          problem = error
          identity = ''
          return 'kept'
        }
      })
      turn = result.catch(() => {})
      return result
    },
  }
}

function identityOf({ tag, size, modifiedMs }: FsStat): string {
  return tag === '' ? `${size}.${modifiedMs}` : tag
}
