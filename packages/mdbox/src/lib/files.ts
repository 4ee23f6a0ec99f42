/**
 * Open message files, a bounded number of them, least recently used first out.
 *
 * INVARIANTS
 *   1. A file in use (`users` above 0) is never closed; when it leaves the cache it closes with its last user.
 *   2. At most `limit` idle files stay open. Files in use may exceed it: their users decide how many those are.
 */
import type { FsFile } from '@mailstead/fs'
import { type FileLine, HEADER_BYTES, LINE_MAX, readFileLine } from './format.ts'

export class OpenFile {
  readonly id: number
  readonly file: FsFile
  /** Size of record headers in this file. A damaged first line says nothing: then as everybody writes them. */
  readonly headerBytes: number
  /** Bytes of the first line; -1 if it is damaged. */
  readonly lineBytes: number
  users = 0
  cached = true

  constructor(id: number, file: FsFile, line: FileLine | undefined) {
    this.id = id
    this.file = file
    this.headerBytes = line?.headerBytes ?? HEADER_BYTES
    this.lineBytes = line?.length ?? -1
  }

  /** Gives up one use. */
  release(): void {
    this.users--
    if (this.users === 0 && !this.cached) close(this.file)
  }
}

export class FileCache {
  readonly #openFile: (id: number) => Promise<FsFile>
  readonly #limit: number
  readonly #files = new Map<number, OpenFile>()
  readonly #opening = new Map<number, Promise<OpenFile>>()
  #newest: OpenFile | undefined

  constructor(open: (id: number) => Promise<FsFile>, limit: number) {
    this.#openFile = open
    this.#limit = limit
  }

  /** With one use more; undefined if it is not open. */
  get(id: number): OpenFile | undefined {
    const found = this.#newest?.id === id ? this.#newest : this.#files.get(id)
    if (found === undefined) return undefined
    if (found !== this.#newest) {
      this.#files.delete(id)
      this.#files.set(id, found)
      this.#newest = found
    }
    found.users++
    return found
  }

  /** With one use more. Fails as opening it does. */
  async open(id: number): Promise<OpenFile> {
    for (;;) {
      const known = this.get(id)
      if (known !== undefined) return known
      let opening = this.#opening.get(id)
      if (opening === undefined) {
        opening = this.#open(id).finally(() => this.#opening.delete(id))
        this.#opening.set(id, opening)
      }
      const found = await opening
      // It may have left the cache, and closed, before we came to run.
      if (!found.cached && found.users === 0) continue
      found.users++
      return found
    }
  }

  /** Forgets a file: it was removed, or is suspect. */
  drop(id: number): void {
    const found = this.#files.get(id)
    if (found === undefined) return
    this.#files.delete(id)
    if (this.#newest === found) this.#newest = undefined
    found.cached = false
    if (found.users === 0) close(found.file)
  }

  dropAll(): void {
    for (const id of this.#files.keys()) this.drop(id)
  }

  async #open(id: number): Promise<OpenFile> {
    const opened = await openFile(id, await this.#openFile(id))
    this.#files.set(id, opened)
    this.#newest = opened
    for (const old of this.#files.values()) {
      if (this.#files.size <= this.#limit) break
      if (old !== opened) this.drop(old.id)
    }
    return opened
  }
}

/** Reads the first line; closes the file if that fails. */
export async function openFile(id: number, file: FsFile): Promise<OpenFile> {
  const bytes = new Uint8Array(LINE_MAX)
  try {
    const count = file.readSync === undefined ? await file.read(bytes, 0) : file.readSync(bytes, 0)
    return new OpenFile(id, file, readFileLine(bytes.subarray(0, count)))
  } catch (error) {
    close(file)
    throw error
  }
}

/** Nothing was written through it, so there is nothing to fail that anybody could act on. */
export function close(file: FsFile): void {
  Promise.resolve(file[Symbol.asyncDispose]()).catch(() => {})
}
