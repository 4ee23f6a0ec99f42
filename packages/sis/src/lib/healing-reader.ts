import type { BlobFile } from './blob-read.ts'
import type { BlobStore } from './blob-store.ts'
import type { BlobReader } from './contract.ts'
import { SisError } from './error.ts'

/** Reads a blob; where its file turns out to be damaged, from another file with the same bytes, if there is one. */
export class HealingReader implements BlobReader {
  readonly #store: BlobStore
  readonly #key: Uint8Array
  #file: BlobFile
  #blob: string
  readonly #left: BlobFile[] = []

  constructor(store: BlobStore, key: Uint8Array, file: BlobFile, blob: string) {
    this.#store = store
    this.#key = key
    this.#file = file
    this.#blob = blob
  }

  get size(): number {
    return this.#file.size
  }

  async read(into: Uint8Array, position: number): Promise<number> {
    const file = this.#file
    try {
      return await file.read(into, position)
    } catch (error) {
      if (!(error instanceof SisError && error.code === 'SIS_CORRUPT')) throw error
      this.#store.noteDamage(this.#blob)
      let other: { readonly file: BlobFile; readonly blob: string }
      try {
        other = await this.#store.directory.open(this.#blob, this.#key, this.#blob)
      } catch {
        throw error
      }
      // Others may be reading from the file that was open: it is closed with this reader.
      this.#left.push(this.#file)
      this.#file = other.file
      this.#blob = other.blob
      return this.#file.read(into, position)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const file of [...this.#left, this.#file]) await file[Symbol.asyncDispose]()
  }
}
