/**
 * Where the list of mounts is kept, by any number of processes.
 *
 *   mounts         the list
 *   mounts.copy    the same, written after it: what is used when the list is damaged
 *   mounts.seen    what was seen last; made anew at each start, so it may be lost or damaged
 *   mounts.lock    a kernel lock, held from reading to writing
 *
 * Each is replaced as a whole, durably. A crash between the two leaves a copy that is older by one change; the list counts.
 */
import { type Fs, FsError, requireSupport } from '@mailstead/fs'
import type { Mount } from './contract.ts'
import { MountError } from './error.ts'
import { decodeList, decodeSeen, encodeList, encodeSeen, LIST_MAX_BYTES, type MountSeen } from './list-format.ts'

/** Must not change: on disk. */
export const LIST_FILE = 'mounts'
const COPY_FILE = 'mounts.copy'
const SEEN_FILE = 'mounts.seen'
const LOCK_FILE = 'mounts.lock'
/** How long others may work on the list, in milliseconds: it takes some, and a process may be stopped in the middle. */
const LOCK_WAIT_MS = 10_000

export interface ListRead {
  readonly mounts: readonly Mount[]
  /** What was damaged, although the list is known. */
  readonly problem: MountError | undefined
}

export class ListFiles {
  readonly #fs: Fs
  readonly #runtime: Fs
  /** What was written or read last, so that the same is not written again. */
  #list: Uint8Array = new Uint8Array(0)
  #copy: Uint8Array = new Uint8Array(0)
  #seen: Uint8Array = new Uint8Array(0)

  constructor(fs: Fs, runtime: Fs) {
    requireSupport(fs, ['lock'])
    this.#fs = fs
    this.#runtime = runtime
  }

  /** Alone among all processes. FS_LOCKED if another does not let go: who only looks must not wait with it for ever. */
  async exclusively<T>(run: () => Promise<T>): Promise<T> {
    await using lock = await this.#fs.lock(LOCK_FILE)
    await lock.acquire({ waitMs: LOCK_WAIT_MS })
    return await run()
  }

  /** MOUNT_DAMAGED if nothing whole is left. Without files the list is empty. */
  async readList(): Promise<ListRead> {
    const list = await this.#read(this.#fs, LIST_FILE, decodeList)
    const copy = await this.#read(this.#fs, COPY_FILE, decodeList)
    this.#list = list.bytes
    this.#copy = copy.bytes
    if (list.value !== undefined) return { mounts: list.value, problem: copy.problem }
    if (copy.value !== undefined) {
      const why = list.problem?.message ?? `${LIST_FILE} is not there`
      const problem = new MountError('MOUNT_DAMAGED', `${why}; ${COPY_FILE} is used`, {
        path: LIST_FILE,
        cause: list.problem,
      })
      return { mounts: copy.value, problem }
    }
    const problem = list.problem ?? copy.problem
    if (problem === undefined) return { mounts: [], problem }
    throw new MountError(
      'MOUNT_DAMAGED',
      `${problem.message}, and there is no whole copy. What must be mounted is not known: put ${LIST_FILE} back, or remove it and ${COPY_FILE}, and add the mounts again`,
      { path: LIST_FILE, cause: problem },
    )
  }

  /** Whatever is wrong with what was seen, it is seen again. */
  async readSeen(): Promise<readonly MountSeen[]> {
    const { value, bytes } = await this.#read(this.#runtime, SEEN_FILE, decodeSeen)
    this.#seen = bytes
    return value ?? []
  }

  async writeList(mounts: Iterable<Mount>): Promise<void> {
    const bytes = encodeList(mounts)
    if (!same(this.#list, bytes)) await this.#fs.writeFile(LIST_FILE, bytes)
    this.#list = bytes
    if (!same(this.#copy, bytes)) await this.#fs.writeFile(COPY_FILE, bytes)
    this.#copy = bytes
  }

  async writeSeen(mounts: Iterable<MountSeen>): Promise<void> {
    const bytes = encodeSeen(mounts)
    if (!same(this.#seen, bytes)) await this.#runtime.writeFile(SEEN_FILE, bytes)
    this.#seen = bytes
  }

  /** Calls `onChange` soon after somebody changed the list. */
  watch(onChange: () => void, signal: AbortSignal): void {
    this.#fs.watch?.(LIST_FILE, onChange, { signal })
  }

  async #read<T>(
    fs: Fs,
    file: string,
    decode: (bytes: Uint8Array, file: string) => T,
  ): Promise<{ readonly value: T | undefined; readonly bytes: Uint8Array; readonly problem: MountError | undefined }> {
    let bytes: Uint8Array = new Uint8Array(0)
    try {
      bytes = await fs.readFile(file, { start: 0, end: LIST_MAX_BYTES })
      return { value: decode(bytes, file), bytes, problem: undefined }
    } catch (error) {
      if (error instanceof FsError && error.code === 'FS_NOT_FOUND')
        return { value: undefined, bytes, problem: undefined }
      // What the device cannot read, or a wrapper found damaged, is as good as damaged.
      if (error instanceof FsError && (error.code === 'FS_CORRUPT' || error.code === 'FS_IO')) {
        const problem = new MountError('MOUNT_DAMAGED', `${file} cannot be read`, { path: file, cause: error })
        return { value: undefined, bytes, problem }
      }
      if (error instanceof MountError) return { value: undefined, bytes, problem: error }
      throw error
    }
  }
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0
}
