/**
 * What is asked of the operating system. Injected: tests simulate mounts, and a container without rights may know less.
 *
 * A `stat` on a network file system whose server is gone does not return, and takes the whole process with it. So `look`,
 * `read` and `realPath` are called on such a mount only after `alive` has said that it answers.
 */

/** One `stat`. Times are milliseconds since the epoch, 0 where the file system does not keep them. */
export interface Look {
  readonly device: number
  readonly inode: number
  readonly directory: boolean
  readonly size: number
  readonly modifiedMs: number
  readonly changedMs: number
  readonly bornMs: number
}

/** One row of the mount table. */
export interface MountRow {
  /** Of the mount, in this table; 0 where the platform has none. */
  readonly id: number
  /** What it is mounted on; 0 where the platform does not tell. */
  readonly parent: number
  /** The directory of its file system that is mounted; empty where the platform does not tell. */
  readonly root: string
  /** Absolute. */
  readonly path: string
  readonly type: string
  readonly source: string
}

/** What tells file systems of one type apart. Empty where it is not known. */
export interface VolumeFacts {
  readonly uuid: string
  readonly fsid: string
}

export interface MountProbe {
  /** In the order of mounting; undefined where nobody tells: mounts are then judged by devices alone. */
  table(): Promise<readonly MountRow[] | undefined>
  /** Follows links. Undefined if there is nothing; throws what the system says of anything else. One system call. */
  look(path: string): Look | undefined
  /**
   * All links resolved; what is not there is taken as it is written. Throws on a loop of links. Where `isFar` says so of what is to
   * be looked at next, nothing is, and the rest is taken as it is written, too. (default: never)
   */
  realPath(path: string, isFar?: (at: string) => boolean): string
  /** At most `maxBytes` of a file that is no link; undefined if there is none. */
  read(path: string, maxBytes: number): Uint8Array | undefined
  /** About what is mounted at `path`. Fails never: what cannot be found out is empty. */
  facts(path: string, source: string): Promise<VolumeFacts>
  /** Undefined if `path` has answered just now; else resolves when it answers, or fails with FS_UNAVAILABLE. Never blocks. */
  alive(path: string): Promise<void> | undefined
}
