/**
 * The words of this package: a mount that must be there, what is seen of it, the list of them, and who asks.
 *
 * Two proofs say that storage is there, each by itself or both together. By *mounts*: the directory is listed as one that must be a
 * mount point, something is mounted on it, and that is the file system last seen there. By *identity*: the root marker
 * (docs/formats/root.md) is there, with the UUID and the role that whoever opens it expects.
 */
import type { FsCallOptions } from '@mailstead/fs'
import type { MountError } from './error.ts'

/** What an administrator says of a mount. */
export type MountState =
  /** It must be mounted. */
  | 'online'
  /** It is away on purpose: unavailable without a warning, also while something is mounted there. */
  | 'offline'
  /** Another copy stands in for it: as `offline`, for those who can ask that copy. */
  | 'failover'
  /** It is not for mail, or its absence does not matter: not guarded by mounts. */
  | 'ignore'

/** What is seen of it. */
export type MountObserved =
  /** Mounted, and the file system last seen there. */
  | 'mounted'
  /** Nothing is mounted there, or it does not answer. */
  | 'absent'
  /** Another file system is mounted there. `accept` if that was intended. */
  | 'changed'
  /** Nobody asks: the state is `ignore`. */
  | 'unguarded'

/** What is known of a file system. Text that is not known is empty. */
export interface MountVolume {
  /** `ext4`, `nfs` … */
  readonly type: string
  /** The device, or where a network file system comes from. */
  readonly source: string
  /** Which directory of the file system is mounted: `/`, or that of a bind mount or subvolume. */
  readonly root: string
  /** Of the device, from `/dev/disk/by-uuid`. */
  readonly uuid: string
  /** Hex, what statfs says. */
  readonly fsid: string
}

/** An entry of the list. */
export interface Mount {
  /** Absolute and real. */
  readonly path: string
  /** `added` by somebody, or `found` mounted at a start. */
  readonly origin: 'added' | 'found'
  readonly state: MountState
  /** Whether it holds mail, as far as is known: then it is missed when it is not there. */
  readonly mail: boolean
  /** The file system last seen there, or accepted; undefined if there never was one. */
  readonly volume: MountVolume | undefined
}

export interface MountStatus extends Mount {
  readonly observed: MountObserved
  /** Since when that is seen, in milliseconds since the epoch. */
  readonly sinceMs: number
  /** Why it is not `mounted`; otherwise empty. For people. */
  readonly why: string
}

/** Something that an administrator should be told. Only mounts that hold mail, and files of the list, are worth one. */
export interface MountNotice {
  readonly kind: 'new' | 'missing' | 'changed' | 'back' | 'damaged'
  /** The mount point, or the file. */
  readonly path: string
  readonly message: string
}

/** The list of what must be mounted. Shared by any number of processes. */
export interface MountRegistry extends AsyncDisposable {
  /** Grows whenever the list or what was seen changes in this process. */
  readonly version: number
  /** Files of the list that were damaged when they were read last, and what was used in their place. Empty if all is well. */
  readonly problems: readonly MountError[]
  /** By path. As last seen; see `refresh`. */
  list(): readonly MountStatus[]
  /** The entry at `path`, or the nearest above; undefined if none governs it. No system call. */
  find(path: string): MountStatus | undefined
  /**
   * To be called when a server starts: lists what is mounted and new (as `ignore` if it is not for mail), forgets what is not
   * for mail and gone, looks at all, and makes the runtime list anew. Gives what is worth a warning.
   */
  start(): Promise<readonly MountNotice[]>
  /** Reads the files again if another process changed them, and looks at all. Gives what has changed and is worth a warning. */
  refresh(): Promise<readonly MountNotice[]>
  /** Looks at the one entry at exactly this path. MOUNT_UNKNOWN if there is none. */
  observe(path: string): Promise<MountStatus>
  /** A directory that must be a mount point from now on, whatever its type. MOUNT_PATH, MOUNT_LIMIT. */
  add(path: string): Promise<MountStatus>
  /** MOUNT_UNKNOWN. */
  remove(path: string): Promise<void>
  /** MOUNT_UNKNOWN. */
  setState(path: string, state: MountState): Promise<MountStatus>
  /** What is mounted there now is what is to be there. MOUNT_UNKNOWN, MOUNT_ABSENT. */
  accept(path: string): Promise<MountStatus>
}

/**
 * Says whether storage is there. Paths are those of the guarded file system, `''` its root.
 *
 * COST   While all is as it was, `check` is one `stat` without a turn of the event loop and gives undefined; a promise is given
 *        only where more is to be found out. Disposing it ends the child processes that it started.
 */
export interface Guard extends AsyncDisposable {
  /** For people. */
  readonly name: string
  /** FS_UNAVAILABLE (thrown, or by the promise) unless what `path` is on is there now. */
  check(path: string, options?: GuardCheckOptions): Promise<void> | undefined
}

export interface GuardCheckOptions extends FsCallOptions {
  /** Another path of the same operation. */
  readonly to?: string
  /** What is mounted below the paths must be there too. (default false) */
  readonly below?: boolean
}
