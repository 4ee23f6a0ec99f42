/** A file system that nobody can change through here. */
import { checkMode } from '../arguments.ts'
import type { Fs, FsCallOptions } from '../contract.ts'
import { FsError } from '../error.ts'
import { checkPath } from '../path.ts'
import { delegateFile, delegateFs } from './delegate.ts'

/**
 * `inner`, for reading: everything that would change it is FS_READ_ONLY (locks too: taking one may create its file), except
 * to make a directory that is there. `supports` loses `append`, `overwrite`, `rename`, `link` and `lock`; it keeps
 * `conditional`, which says that tags are told, and `metadata`. Changes made elsewhere are seen and watched.
 * Disposing it disposes `inner`.
 */
export function readOnly(inner: Fs): Fs {
  const name = `readOnly(${inner.name})`
  let closed = false

  const refuse = async (paths: readonly string[], options?: FsCallOptions): Promise<never> => {
    if (closed) throw new TypeError(`${name} is closed`)
    options?.signal?.throwIfAborted()
    for (const path of paths) checkPath(path)
    throw new FsError('FS_READ_ONLY', `${name} cannot be changed`, paths[0] === undefined ? {} : { path: paths[0] })
  }

  return delegateFs(inner, {
    name,
    supports: { ...inner.supports, append: false, overwrite: false, rename: false, link: false, lock: false },
    async open(path, mode, options) {
      options?.signal?.throwIfAborted()
      checkMode(mode)
      if (mode !== 'read') return refuse([path])
      return delegateFile(await inner.open(path, mode, options), { appendSync: undefined })
    },
    async writeFile(path, _data, options) {
      return refuse([path], options)
    },
    async makeDirectory(path, options) {
      options?.signal?.throwIfAborted()
      if (!inner.supports.directories || (await inner.stat(path, options))?.kind === 'directory') return
      await refuse([path])
    },
    rename: (from, to, options) => refuse([from, to], options),
    link: (from, to, options) => refuse([from, to], options),
    remove: (path, options) => refuse([path], options),
    lock: (path, options) => refuse([path], options),
    async [Symbol.asyncDispose]() {
      closed = true
      await inner[Symbol.asyncDispose]()
    },
  })
}
