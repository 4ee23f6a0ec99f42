/**
 * Open message files, a bounded number of them besides those in use.
 */
import type { Faults } from './fault.ts'
import { type FileHead, readFileHead } from './dbox-record.ts'
import { join, type NamedRoot, type OpenedFile, openIfThere } from './root.ts'

const IDLE_MAX = 16

export interface PooledFile extends OpenedFile {
  /** The first line; undefined if it is damaged. */
  readonly head: FileHead | undefined
}

interface Entry {
  readonly opened: Promise<PooledFile | undefined>
  users: number
}

export class FilePool implements AsyncDisposable {
  readonly #faults: Faults
  readonly #entries = new Map<string, Entry>()
  #closed = false

  constructor(faults: Faults) {
    this.#faults = faults
  }

  /** Runs `use` with the file, or with undefined if there is none. */
  async with<T>(root: NamedRoot, name: string, use: (file: PooledFile | undefined) => Promise<T>): Promise<T> {
    const lent = await this.lend(root, name)
    try {
      return await use(lent.file)
    } finally {
      await lent.release()
    }
  }

  /** The file, or undefined if there is none, until it is released. */
  async lend(
    root: NamedRoot,
    name: string,
  ): Promise<{ readonly file: PooledFile | undefined; release(): Promise<void> }> {
    const key = join(root.shown, name)
    if (this.#closed) throw new TypeError('the store is closed')
    const entry = this.#entries.get(key) ?? { opened: this.#open(root, name), users: 0 }
    // The newest is the last to go.
    this.#entries.delete(key)
    this.#entries.set(key, entry)
    entry.users++
    const release = async (): Promise<void> => {
      entry.users--
      await this.#trim()
    }
    try {
      const file = await entry.opened
      // What is not there may be there the next time.
      if (file === undefined) this.#entries.delete(key)
      return { file, release }
    } catch (error) {
      this.#entries.delete(key)
      throw error
    }
  }

  async #open(root: NamedRoot, name: string): Promise<PooledFile | undefined> {
    const file = await openIfThere(root, name, this.#faults)
    if (file === undefined) return undefined
    const head = await readFileHead(file).catch(() => undefined)
    if (head === undefined)
      this.#faults.add('file-damaged', 'the first line is not that of a message file', { file: file.shown, offset: 0 })
    return { ...file, head }
  }

  async #trim(): Promise<void> {
    if (this.#entries.size <= IDLE_MAX && !this.#closed) return
    for (const [key, entry] of this.#entries) {
      if (this.#entries.size <= IDLE_MAX && !this.#closed) return
      if (entry.users > 0) continue
      this.#entries.delete(key)
      await (await entry.opened)?.file[Symbol.asyncDispose]()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    await this.#trim()
  }
}
