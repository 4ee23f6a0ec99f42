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
    const key = join(root.shown, name)
    if (this.#closed) throw new TypeError('the store is closed')
    let entry = this.#entries.get(key)
    if (entry === undefined) {
      entry = { opened: this.#open(root, name), users: 0 }
    } else this.#entries.delete(key)
    // The newest is the last to go.
    this.#entries.set(key, entry)
    entry.users++
    try {
      return await use(await entry.opened)
    } finally {
      entry.users--
      await this.#trim()
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
