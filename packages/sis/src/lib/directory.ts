/**
 * A directory of blobs: who may use a file, and when it may be removed. Names are in names.ts.
 *
 * A file of a blob is never changed, and its name never given again: the instance in it is new for every file. So the
 * removal of a file can only be wrong about *that* file, and is decided in two steps.
 *
 * 1. A STORE GIVES UP A HOLD. Every file that a store uses is held in its name: by the file itself where the directory is the
 *    store's own, else by a hold file beside it. A hold is made before the frame that names it, and given up by a sweep of the same
 *    store alone, once no row of its table names it and none can any more (references.ts, EPOCHS).
 *
 * 2. A FILE THAT NOBODY HOLDS IS REMOVED (shared directories only; the stores have no lock and no table in common).
 *
 *        who wants to use a file              who wants to remove it
 *        H: creates its hold                  D: creates the mark `.dead`
 *        D? looks for the mark                H? lists the holds
 *        there: gives up its hold, and        any: leaves the file, marked
 *        writes a file of its own             none: removes the file, then the mark
 *        not there, and the file is:
 *        it may be used
 *
 *    Whichever of H and D comes second, its maker sees the other: both looks come after both own steps. So there is no order in
 *    which one uses what the other removes. The mark is never taken back while the file is there: a remover that stopped between its look
 *    and its removal, however long, harms nobody, since from the mark on the file gets no new users. A marked file with holds
 *    goes on being read, and is removed when the last of them is given up. It needs no lock, no clock, and of the driver only
 *    that `list` and `stat` show what was created before (`consistentList`).
 *
 * A crash leaves holds without rows (step 1 finds them), files without holds and marks without files (step 2).
 */
import { type Fs, FsError } from '@mailstead/fs'
import { BlobFile } from './blob-read.ts'
import { BLOB_KEY_BYTES } from './contract.ts'
import type { Domain } from './domain.ts'
import { SisError } from './error.ts'
import { DEAD, isPrefix, type ParsedName, parseName, TMP } from './names.ts'

/** What may be left out of the protocol, for tests that show that it is needed. */
export type PlantedFault =
  | 'the mark is not looked for'
  | 'the mark comes after the look'
  | 'the mark is taken back'
  | 'the hold is not flushed'
  | 'any epoch is swept'
  | 'the epoch is not expected'
  | 'the file goes before the frame'

export interface DirectoryOptions {
  readonly fs: Fs
  readonly path: string
  /** Several stores keep blobs here. */
  readonly shared: boolean
  /** 32 hex digits. */
  readonly store: string
  readonly planted?: PlantedFault | undefined
}

/** What is in one of the directories about one file. */
export interface Found {
  /** Name of the file. */
  readonly blob: string
  present: boolean
  dead: boolean
  readonly holds: { readonly store: string; readonly hold: string }[]
}

export class BlobDirectory {
  readonly fs: Fs
  readonly path: string
  readonly shared: boolean
  readonly #store: string
  readonly #planted: PlantedFault | undefined

  constructor({ fs, path, shared, store, planted }: DirectoryOptions) {
    this.fs = fs
    this.path = path
    this.shared = shared
    this.#store = store
    this.#planted = planted
  }

  pathOf(name: string): string {
    return `${this.path}/${name.slice(0, 2)}/${name}`
  }

  /** The prefixes in which there is something. */
  async prefixes(): Promise<string[]> {
    return prefixesIn(this.fs, this.path)
  }

  /** Everything in one of the prefixes, by file. */
  async list(prefix: string, key = ''): Promise<Map<string, Found>> {
    const found = new Map<string, Found>()
    for await (const page of this.fs.list(`${this.path}/${prefix}`))
      for (const { name, kind } of page) {
        const parsed = kind === 'file' && name.startsWith(key) ? parseName(name) : undefined
        if (parsed !== undefined) note(found, parsed)
      }
    return found
  }

  /** Makes this store a user of the file, which need not be there yet. Durable when resolved. */
  async hold(blob: string, hold: string): Promise<void> {
    const path = this.#holdPath(blob, hold)
    if (!this.fs.supports.append) {
      await this.fs.writeFile(path, new Uint8Array(0))
      return
    }
    await using _file = await this.fs.open(path, 'append')
    if (this.#planted !== 'the hold is not flushed') await this.#flush(blob)
  }

  /** No row of this store names the hold any more, and none will. */
  async release(blob: string, hold: string): Promise<void> {
    await this.#remove(this.#holdPath(blob, hold))
  }

  /** Whether a file that this store holds may be used: it is there, and nobody has begun to remove it. */
  async mayUse(blob: string): Promise<boolean> {
    if (this.#planted !== 'the mark is not looked for' && (await this.fs.stat(this.pathOf(blob) + DEAD)) !== undefined)
      return false
    return (await this.fs.stat(this.pathOf(blob))) !== undefined
  }

  /** Removes a file that nobody seems to hold, unless somebody does: `left`. Also finishes what a crash left of that. */
  async removeUnheld(blob: string): Promise<'removed' | 'left'> {
    const path = this.pathOf(blob)
    const planted = this.#planted
    const mark = async (): Promise<void> => {
      await this.fs.writeFile(path + DEAD, new Uint8Array(0))
    }
    if (planted !== 'the mark comes after the look') await mark()
    const now = (await this.list(blob.slice(0, 2), blob)).get(blob)
    if (now !== undefined && now.holds.length > 0) {
      if (planted === 'the mark is taken back') await this.#remove(path + DEAD)
      return 'left'
    }
    if (planted === 'the mark comes after the look') await mark()
    await this.#remove(path)
    // Durably gone before the mark is: the mark alone says that the file must get no new users.
    await this.#flush(blob)
    await this.#remove(path + DEAD)
    return 'removed'
  }

  /** Removes a file of a directory that is this store's own. */
  async removeOwn(blob: string): Promise<void> {
    await this.#remove(this.pathOf(blob))
  }

  /** Opens the file, or another with the same bytes. SIS_NOT_FOUND, SIS_CORRUPT, FsError. `not`: one that is known to be damaged. */
  async open(blob: string, key: Uint8Array, not?: string): Promise<{ readonly file: BlobFile; readonly blob: string }> {
    let damage: unknown
    if (blob !== not) {
      try {
        const file = await BlobFile.open(this.fs, this.pathOf(blob), key)
        if (file !== undefined) return { file, blob }
      } catch (error) {
        if (!(error instanceof SisError)) throw error
        damage = error
      }
    }
    for (const { blob: other, present } of (
      await this.list(blob.slice(0, 2), blob.slice(0, 2 * BLOB_KEY_BYTES + 1))
    ).values()) {
      if (!present || other === blob || other === not) continue
      try {
        const file = await BlobFile.open(this.fs, this.pathOf(other), key)
        if (file !== undefined) return { file, blob: other }
      } catch (error) {
        if (!(error instanceof SisError)) throw error
        damage ??= error
      }
    }
    throw damage ?? new SisError('SIS_NOT_FOUND', `no file has the bytes of ${blob}`, { ref: blob })
  }

  /** Bytes of the file; undefined unless it is there, and its ends are those of a blob with this key. */
  async probe(blob: string, key: Uint8Array): Promise<number | undefined> {
    try {
      const file = await BlobFile.open(this.fs, this.pathOf(blob), key)
      await file?.[Symbol.asyncDispose]()
      return file?.stored
    } catch (error) {
      if (error instanceof SisError) return undefined
      throw error
    }
  }

  /**
   * Bytes of the file, every one of which was read; undefined if it is not there. SIS_CORRUPT if it is damaged; of a domain that is given, also
   * if the key names other bytes.
   */
  async verify(blob: string, key: Uint8Array, domain?: Domain): Promise<number | undefined> {
    await using file = await BlobFile.open(this.fs, this.pathOf(blob), key)
    await file?.verify(domain)
    return file?.stored
  }

  /** Temporary files that nobody has written since `beforeMs`. */
  async sweepTemporary(beforeMs: number): Promise<number> {
    let removed = 0
    for await (const page of this.fs.list(`${this.path}/${TMP}`))
      for (const { name, kind } of page) {
        const path = `${this.path}/${TMP}/${name}`
        const stat = kind === 'file' ? await this.fs.stat(path) : undefined
        if (stat === undefined || stat.modifiedMs > beforeMs) continue
        await this.#remove(path)
        removed++
      }
    return removed
  }

  /** Makes what was created or removed beside this file durable. */
  async #flush(blob: string): Promise<void> {
    if (this.fs.supports.directories) await this.fs.syncDirectory(`${this.path}/${blob.slice(0, 2)}`)
  }

  #holdPath(blob: string, hold: string): string {
    return `${this.pathOf(blob)}.${this.#store}-${hold}`
  }

  async #remove(path: string): Promise<void> {
    try {
      await this.fs.remove(path)
    } catch (error) {
      if (!(error instanceof FsError && error.code === 'FS_NOT_FOUND')) throw error
    }
  }
}

/** Directories of blobs in `path`. */
export async function prefixesIn(fs: Fs, path: string): Promise<string[]> {
  const found: string[] = []
  for await (const page of fs.list(path)) for (const { name } of page) if (isPrefix(name)) found.push(name)
  return found.sort()
}

function note(found: Map<string, Found>, parsed: ParsedName): void {
  let entry = found.get(parsed.blob)
  if (entry === undefined) {
    entry = { blob: parsed.blob, present: false, dead: false, holds: [] }
    found.set(parsed.blob, entry)
  }
  if (parsed.kind === 'blob') entry.present = true
  else if (parsed.kind === 'dead') entry.dead = true
  else if (parsed.kind === 'hold') entry.holds.push({ store: parsed.store, hold: parsed.hold })
}
