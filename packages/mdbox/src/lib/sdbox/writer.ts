/**
 * Messages on their way to disk: each in a file of its own, `unnamed/<id>`, until its row has a UID.
 *
 * INVARIANTS
 *   1. What `settle` resolved for is durable: bytes (sync of each file), and names (one flush of the directory for
 *   all who
 *      ask at the same time).
 *   2. A file that could not be written, or flushed, is removed, and its message was not kept.
 *
 * A crash leaves files that no row names. They are never read. Whoever has the slot next sees to them (leftovers.ts);
 * one of which nobody can say why it is there stays: with a lost or older index it may be the only copy. `check`
 * notes it.
 */
import { type Fs, FsError, type FsFile } from '@mailstead/fs'
import { close } from '../files.ts'
import { HEADER_BYTES, writeFileLine } from '../format.ts'
import type { DirectorySync } from './directory-sync.ts'
import { ID_BYTES, UNNAMED } from './names.ts'
import type { SdboxSettings } from './options.ts'
import { hex } from './row.ts'

export class Writer {
  readonly #fs: Fs
  readonly #directory: string
  readonly #syncs: DirectorySync
  readonly #options: SdboxSettings
  /** Takes a slot if there is none yet. */
  readonly #slot: () => Promise<number>
  /** Messages written here of which it is not known yet whether a row names them. True: their batch is over. */
  readonly made: Map<string, boolean> = new Map()

  constructor(fs: Fs, directory: string, syncs: DirectorySync, options: SdboxSettings, slot: () => Promise<number>) {
    this.#fs = fs
    this.#directory = directory
    this.#syncs = syncs
    this.#options = options
    this.#slot = slot
  }

  /** A file that is nobody else's, with a name that no other message has. */
  async create(): Promise<WrittenFile> {
    const slot = await this.#slot()
    const bytes = new Uint8Array(ID_BYTES)
    for (;;) {
      this.#options.random(bytes)
      bytes[0] = slot
      const id = hex(bytes)
      const path = `${this.#directory}/${UNNAMED}/${id}`
      try {
        const file = await this.#fs.open(path, 'create')
        this.made.set(id, false)
        return new WrittenFile(this.#fs, this.made, id, file, writeFileLine(this.#options.now()))
      } catch (error) {
        if (!(error instanceof FsError && error.code === 'FS_EXISTS')) throw error
      }
    }
  }

  /** Makes the names of files durable whose bytes are. */
  async settle(): Promise<void> {
    await this.#syncs.sync(`${this.#directory}/${UNNAMED}`)
  }
}

/** One message being written. */
export class WrittenFile {
  readonly id: string
  readonly #fs: Fs
  readonly #made: Map<string, boolean>
  readonly #file: FsFile
  readonly #line: Uint8Array
  #open = true

  constructor(fs: Fs, made: Map<string, boolean>, id: string, file: FsFile, line: Uint8Array) {
    this.#fs = fs
    this.#made = made
    this.id = id
    this.#file = file
    this.#line = line
  }

  /** The whole message; durable when resolved, but for its name. */
  async write(frame: Uint8Array, body: readonly Uint8Array[]): Promise<void> {
    await this.#file.append([this.#line, frame.subarray(0, HEADER_BYTES), ...body, frame.subarray(HEADER_BYTES)])
    await this.#sync()
  }

  /**
   * For a message whose size is not known yet: a header of zeros, so that a crash leaves what nobody takes for a
   * message.
   */
  async begin(): Promise<void> {
    await this.#file.append([this.#line, new Uint8Array(HEADER_BYTES)])
  }
  async append(parts: readonly Uint8Array[]): Promise<void> {
    await this.#file.append(parts)
  }
  async finish(frame: Uint8Array): Promise<void> {
    await this.#file.append([frame.subarray(HEADER_BYTES)])
    await this.#file.write(frame.subarray(0, HEADER_BYTES), this.#line.length)
    await this.#sync()
  }

  async #sync(): Promise<void> {
    await this.#file.sync()
    this.#close()
  }

  #close(): void {
    if (!this.#open) return
    this.#open = false
    close(this.#file)
  }

  /** Nobody was told of it: it goes. What cannot be removed is left for a purge. */
  async abort(): Promise<void> {
    this.#close()
    try {
      await this.#fs.remove(this.#file.path)
      this.#made.delete(this.id)
    } catch {
      this.#made.set(this.id, true)
    }
  }
}

/** As BOX_WRITE_FAILED; what is a BoxError already, stays. */
export { writeFailed } from '../append.ts'
