/**
 * The root of a posix driver and the directories below it: that nothing leaves the root, that the root is still the one
 * that was opened, and that directories are durable before anything in them is promised to be.
 *
 * INVARIANTS
 *   1. A directory is used only after its real path was seen within the root, once per directory. Symbolic links inside
 *      the root may lead elsewhere inside it. Somebody who may write into the root can still swap a directory for a link
 *      later; who can do that can also read the mail.
 *   2. Before an absence is reported, and before anything is given a name, the root is compared with the one that was
 *      opened: an unmounted root is FS_UNAVAILABLE, never FS_NOT_FOUND, and nothing is created under its mount point, which
 *      may have directories of the same names.
 *   3. Something is created in a directory only once each directory on the way was flushed into its parent, by this
 *      process: another process may have made it a moment ago.
 */
import { FsError } from './error.ts'
import { errnoOf, fsErrorOf } from './errno.ts'
import { again, call, type PosixNodeFs } from './node-fs.ts'
import { parentOf } from './path.ts'

/** Directories remembered as checked and durable. Beyond, everything is forgotten and checked anew. */
const REMEMBERED_DIRECTORIES = 65_536
/** How often a directory may vanish while something is created in it before it is reported. */
const VANISHED_TRIES = 5

export class Tree {
  /** Absolute and real. */
  readonly root: string
  readonly #prefix: string
  readonly #fs: PosixNodeFs
  readonly #directoryMode: number
  readonly #device: number
  readonly #inode: number
  /** Directories seen within the root. */
  readonly #confined = new Set<string>()
  /** Directories flushed into their parents, all the way. */
  readonly #settled = new Set<string>()
  readonly #settling = new Map<string, Promise<void>>()

  constructor(fs: PosixNodeFs, root: string, directoryMode: number) {
    const stats = again(() => fs.statSync(root))
    this.#fs = fs
    this.root = root
    this.#prefix = root.endsWith('/') ? root : `${root}/`
    this.#directoryMode = directoryMode
    this.#device = stats.dev
    this.#inode = stats.ino
  }

  absolute(path: string): string {
    return path === '' ? this.root : this.#prefix + path
  }

  /** What `absolute` was made from. */
  relative(absolute: string): string {
    return absolute.slice(this.#prefix.length)
  }

  /** FS_UNAVAILABLE unless the root is there and is the one that was opened. */
  checkRoot(): void {
    let stats: ReturnType<PosixNodeFs['statSync']>
    try {
      stats = again(() => this.#fs.statSync(this.root, { throwIfNoEntry: false }))
    } catch (error) {
      throw new FsError('FS_UNAVAILABLE', `the root ${this.root} cannot be reached`, { cause: error })
    }
    if (stats === undefined) throw new FsError('FS_UNAVAILABLE', `the root ${this.root} is not there`)
    if (stats.dev !== this.#device || stats.ino !== this.#inode)
      throw new FsError('FS_UNAVAILABLE', `the root ${this.root} is not the directory that was opened`)
  }

  /** False if there is no such directory; FS_DENIED if it lies outside the root. */
  confine(directory: string): boolean {
    if (directory === '' || this.#confined.has(directory)) return true
    let real: string
    try {
      // What is not there is asked for over and over where it is optional, and an error takes long to be made.
      if (again(() => this.#fs.statSync(this.absolute(directory), { throwIfNoEntry: false })) === undefined) {
        this.confine(parentOf(directory))
        return false
      }
      real = again(() => this.#fs.realpathSync.native(this.absolute(directory)))
    } catch (error) {
      const errno = errnoOf(error)
      if (errno === 'ENOENT' || errno === 'ENOTDIR') {
        // What is absent outside of the root is not told apart from what is there.
        this.confine(parentOf(directory))
        return false
      }
      throw fsErrorOf(error, directory, 'existing')
    }
    if (real !== this.root && !real.startsWith(this.#prefix))
      throw new FsError('FS_DENIED', `${directory} leads out of the root, to ${real}`, { path: directory })
    const stats = again(() => this.#fs.statSync(real, { throwIfNoEntry: false }))
    if (stats?.isDirectory() !== true) return false
    remember(this.#confined, directory)
    return true
  }

  /** To be called before anything is given a name in the directory; resolves at once where there is nothing to wait for. */
  ready(directory: string): Promise<void> | undefined {
    if (directory !== '' && !this.#settled.has(directory)) return this.settle(directory)
    this.checkRoot()
    return undefined
  }

  /** Makes sure that the directory is there, within the root, and durable with its parents. */
  async settle(directory: string): Promise<void> {
    if (directory === '') return this.checkRoot()
    if (this.#settled.has(directory)) return
    let settling = this.#settling.get(directory)
    if (settling === undefined) {
      settling = this.#settle(directory).finally(() => this.#settling.delete(directory))
      this.#settling.set(directory, settling)
    }
    await settling
  }

  async #settle(directory: string): Promise<void> {
    const parent = parentOf(directory)
    for (let tries = 1; ; tries++) {
      await this.settle(parent)
      this.checkRoot()
      if (!this.confine(directory)) {
        try {
          await call((done) => this.#fs.mkdir(this.absolute(directory), { mode: this.#directoryMode }, done))
        } catch (error) {
          const errno = errnoOf(error)
          if (errno === 'ENOENT' && tries < VANISHED_TRIES) {
            // The parent was removed since it was settled.
            this.forget()
            continue
          }
          if (errno !== 'EEXIST') throw this.failure(error, directory, 'new')
        }
        // A file, or a symbolic link that leads nowhere.
        if (!this.confine(directory))
          throw new FsError('FS_EXISTS', `${directory} is no directory`, { path: directory })
      }
      await this.flush(parent)
      remember(this.#settled, directory)
      return
    }
  }

  /** Runs `create` in a settled directory; again if the directory was removed meanwhile. */
  async within<T>(directory: string, create: () => T): Promise<T> {
    for (let tries = 1; ; tries++) {
      await this.ready(directory)
      try {
        return create()
      } catch (error) {
        if (errnoOf(error) !== 'ENOENT' || tries === VANISHED_TRIES) throw error
        this.forget()
      }
    }
  }

  /** Flushes the entries of a directory. */
  async flush(directory: string): Promise<void> {
    const { constants } = this.#fs
    const fd = again(() => this.#fs.openSync(this.absolute(directory), constants.O_RDONLY | constants.O_DIRECTORY))
    try {
      await call((done) => this.#fs.fsync(fd, done))
    } finally {
      this.#fs.closeSync(fd)
    }
  }

  /** After a directory was removed or moved, nothing known about paths holds. */
  forget(): void {
    this.#confined.clear()
    this.#settled.clear()
  }

  /** What to throw for a failure at `path`: an absence only if the root is there. */
  failure(error: unknown, path: string, wanted: 'existing' | 'new' | 'empty' = 'existing'): unknown {
    const errno = errnoOf(error)
    if (errno === 'ENOENT' || errno === 'ENOTDIR') {
      try {
        this.checkRoot()
      } catch (unavailable) {
        return unavailable
      }
    }
    return fsErrorOf(error, path, wanted)
  }

  /** FS_NOT_FOUND, if the root is there. */
  absent(path: string): FsError {
    this.checkRoot()
    return new FsError('FS_NOT_FOUND', `${path === '' ? 'the root' : path} does not exist`, { path })
  }
}

function remember(set: Set<string>, directory: string): void {
  if (set.size >= REMEMBERED_DIRECTORIES) set.clear()
  set.add(directory)
}
