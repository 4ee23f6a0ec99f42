/**
 * A file system in a bucket of any S3-compatible store.
 *
 * A file is an object, a directory what keys have in common before a slash: it exists while something is in it. A name
 * can be a file and a directory at once; S3 does not mind. What is opened for reading is one version of an object: once that is
 * replaced, reads fail with FS_CONFLICT instead of mixing two.
 *
 *   s3-options   what can be set                 s3-objects   requests that read, list, remove
 *   s3-calls     timeouts and repetition         s3-write     requests that write, and uncertainty
 *   s3-failure   what a failure means            s3-version   tags and histories
 */
import { checkCondition, checkMode } from './arguments.ts'
import type { Fs, FsCallOptions, FsFile, FsReadOptions, FsSupports } from './contract.ts'
import { FsError } from './error.ts'
import { checkMetadata } from './metadata.ts'
import { checkPath } from './path.ts'
import { S3Objects } from './s3-objects.ts'
import { type S3FsOptions, withS3Defaults } from './s3-options.ts'
import type { S3Head } from './s3-version.ts'
import { S3Writer } from './s3-write.ts'

export type { S3FsOptions } from './s3-options.ts'

const supports: FsSupports = Object.freeze({
  append: false,
  overwrite: false,
  rename: false,
  link: false,
  lock: false,
  durable: true,
  directories: false,
  consistentList: true,
  conditional: true,
  syncRead: false,
  watch: false,
  metadata: true,
})

/**
 * Opens nothing and asks nothing: the first operation shows whether the bucket is there (FS_UNAVAILABLE). The credentials must
 * be allowed to list the bucket: without that, S3 answers "forbidden" where it means "absent".
 */
export function s3Fs(options: S3FsOptions): Fs {
  const settings = withS3Defaults(options)
  const { bucket, prefix, client, ownsClient } = settings
  const name = `s3:${bucket}${prefix === '' ? '' : `/${prefix}`}`
  const objects = new S3Objects(settings)
  const writer = new S3Writer(objects)
  const files = new Set<AsyncDisposable>()
  const work = new Work()
  let closed = false

  const enter = (path: string, call?: FsCallOptions, allowRoot = false): void => {
    if (closed) throw new TypeError(`${name} is closed`)
    call?.signal?.throwIfAborted()
    checkPath(path, { root: allowRoot })
    objects.keyOf(path)
  }
  const unsupported = (what: string, path: string): FsError =>
    new FsError('FS_UNSUPPORTED', `${name} does not support ${what}`, { path })
  const notFound = (path: string): FsError => new FsError('FS_NOT_FOUND', `${path} does not exist`, { path })

  /** The object at `path`; FS_NOT_FOUND, once it is known that the bucket is there. */
  async function mustFind(path: string, call: FsCallOptions = {}): Promise<S3Head> {
    const head = await objects.find(path, call)
    if (head !== undefined) return head
    throw notFound(path)
  }

  async function remove(path: string, call: FsCallOptions = {}): Promise<void> {
    const there = await objects.stat(path, call)
    if (there === undefined) throw notFound(path)
    if (there.kind === 'directory') throw new FsError('FS_NOT_EMPTY', `${path} has entries`, { path })
    await objects.remove(path, call)
  }

  return {
    name,
    supports,
    async stat(path, call) {
      enter(path, call, true)
      return work.add(objects.stat(path, call))
    },
    async open(path, mode, call) {
      enter(path, call)
      checkMode(mode)
      if (mode !== 'read') throw unsupported(mode, path)
      const head = await work.add(mustFind(path, call))
      if (closed) throw new TypeError(`${name} is closed`)
      const file: FsFile = openVersion(objects, path, head, () => files.delete(file))
      files.add(file)
      return file
    },
    async readFile(path, readOptions: FsReadOptions = {}) {
      enter(path, readOptions)
      const { start = 0, end = Number.POSITIVE_INFINITY } = readOptions
      if (!(Number.isSafeInteger(start) && start >= 0 && end >= start))
        throw new RangeError(`no range ${start} … ${end}`)
      if (start === end) return work.add(mustFind(path, readOptions).then(() => new Uint8Array(0)))
      const whole = start === 0 && end === Number.POSITIVE_INFINITY
      return work.add(objects.read(path, whole ? undefined : { start, end }, readOptions))
    },
    async writeFile(path, source, writeOptions = {}) {
      enter(path, writeOptions)
      checkCondition(writeOptions)
      const metadata = checkMetadata(writeOptions.metadata ?? {}, path)
      return work.add(writer.write(path, source, metadata, writeOptions))
    },
    async *list(directory, call) {
      enter(directory, call, true)
      const pages = objects.list(directory, call)
      for (;;) {
        const page = await work.add(pages.next())
        if (page.done) return
        yield page.value
        enter(directory, call, true)
      }
    },
    async makeDirectory(path, call) {
      enter(path, call, true)
    },
    async rename(from, to, call) {
      enter(from, call)
      enter(to)
      throw unsupported('rename', from)
    },
    async link(from, to, call) {
      enter(from, call)
      enter(to)
      throw unsupported('link', from)
    },
    async remove(path, call) {
      enter(path, call)
      await work.add(remove(path, call))
    },
    async syncDirectory(path, call) {
      enter(path, call, true)
    },
    async lock(path, call) {
      enter(path, call)
      throw unsupported('lock', path)
    },
    async [Symbol.asyncDispose]() {
      closed = true
      for (const file of files) await file[Symbol.asyncDispose]()
      await work.done()
      await writer.done()
      if (ownsClient) client.destroy()
    },
  }
}

function openVersion(objects: S3Objects, path: string, head: S3Head, onClose: () => void): FsFile {
  const work = new Work()
  const { size } = head.stat
  let open = true
  const check = (): void => {
    if (!open) throw new TypeError(`${path} is closed`)
  }
  const refuse = async (what: string): Promise<never> => {
    check()
    throw new FsError('FS_UNSUPPORTED', `S3 does not support ${what}`, { path })
  }
  return {
    path,
    async stat() {
      check()
      return head.stat
    },
    async read(into, position, call) {
      check()
      call?.signal?.throwIfAborted()
      if (!(position >= 0 && position <= Number.MAX_SAFE_INTEGER)) throw new RangeError(`no position ${position}`)
      const count = Math.max(0, Math.min(into.length, size - position))
      if (count > 0) await work.add(objects.readVersion(path, head, into.subarray(0, count), position, call))
      return count
    },
    append: () => refuse('append'),
    write: () => refuse('overwrite'),
    truncate: () => refuse('overwrite'),
    async sync() {
      check()
    },
    async [Symbol.asyncDispose]() {
      open = false
      onClose()
      await work.done()
    },
  }
}

/** What is under way, for whoever closes and must wait for it. */
class Work {
  readonly #under = new Set<Promise<unknown>>()

  async add<T>(promise: Promise<T>): Promise<T> {
    this.#under.add(promise)
    try {
      return await promise
    } finally {
      this.#under.delete(promise)
    }
  }

  async done(): Promise<void> {
    await Promise.allSettled(this.#under)
  }
}
