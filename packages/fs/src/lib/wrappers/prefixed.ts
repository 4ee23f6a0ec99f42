/** One directory of a file system, as a file system: for a tenant, a user, a part of a store. */
import type { Fs } from '../contract.ts'
import { FsError } from '../error.ts'
import { checkPath } from '../path.ts'
import { aroundFs } from './around.ts'

/**
 * `inner` below `directory`. Nothing outside can be named: paths are checked before they are joined. The directory need not
 * exist: it is empty until the first write makes it, and as the root it can be neither removed nor renamed. Paths in errors
 * are as the caller knows them; the length limit of paths includes the directory. Disposing it disposes `inner`.
 */
export function prefixed(inner: Fs, directory: string): Fs {
  checkPath(directory)
  const prefix = `${directory}/`

  const local = (error: unknown): unknown => {
    if (!(error instanceof FsError) || error.path === undefined) return error
    const { code, message, path } = error
    if (path !== directory && !path.startsWith(prefix)) return error
    return new FsError(code, message, { path: path.slice(prefix.length), cause: error, retryable: error.retryable })
  }
  const translated = <T>(run: () => T): T => {
    try {
      return run()
    } catch (error) {
      throw local(error)
    }
  }

  const fs = aroundFs(inner, {
    name: `${inner.name}/${directory}`,
    supports: inner.supports,
    at(path, root) {
      checkPath(path, { root })
      return path === '' ? directory : prefix + path
    },
    async run(_operation, start) {
      try {
        return await start()
      } catch (error) {
        throw local(error)
      }
    },
    readSync: (file, into, position) => translated(() => file.readSync!(into, position)),
    appendSync: (file, parts) => translated(() => file.appendSync!(parts)),
  })
  return {
    ...fs,
    async stat(path, options) {
      const stat = await fs.stat(path, options)
      return stat === undefined && path === '' ? { kind: 'directory', size: 0, modifiedMs: 0, tag: '' } : stat
    },
    async syncDirectory(path, options) {
      try {
        await fs.syncDirectory(path, options)
      } catch (error) {
        // A root that nobody has made holds nothing to flush.
        if (path !== '' || !(error instanceof FsError) || error.code !== 'FS_NOT_FOUND') throw error
      }
    },
  }
}
