/** From what the kernel says to what a caller decides by. */
import { constants } from 'node:os'
import { FsError, type FsErrorCode } from './error.ts'

/**
 * ENOENT, ENOTDIR, EISDIR and EEXIST are decided in `fsErrorOf`: they depend on what was wanted.
 * What is not listed is FS_IO: better a device suspected than an absence believed.
 */
const codes: Readonly<Record<string, FsErrorCode>> = {
  EACCES: 'FS_DENIED',
  EPERM: 'FS_DENIED',
  // A symbolic link as last part, which is never followed, or a loop of them.
  ELOOP: 'FS_DENIED',
  // A path that no file system of this kind can hold, or a device in use.
  EILSEQ: 'FS_DENIED',
  EBUSY: 'FS_DENIED',
  ETXTBSY: 'FS_DENIED',
  EROFS: 'FS_READ_ONLY',
  ENOSPC: 'FS_NO_SPACE',
  EDQUOT: 'FS_NO_SPACE',
  EIO: 'FS_IO',
  EMFILE: 'FS_LIMIT',
  ENFILE: 'FS_LIMIT',
  ENAMETOOLONG: 'FS_LIMIT',
  EFBIG: 'FS_LIMIT',
  EMLINK: 'FS_LIMIT',
  ENOMEM: 'FS_LIMIT',
  ESTALE: 'FS_UNAVAILABLE',
  // Whoever keeps the locks of a network file system is away.
  ENOLCK: 'FS_UNAVAILABLE',
  ENODEV: 'FS_UNAVAILABLE',
  ENXIO: 'FS_UNAVAILABLE',
  ETIMEDOUT: 'FS_UNAVAILABLE',
  EHOSTDOWN: 'FS_UNAVAILABLE',
  EHOSTUNREACH: 'FS_UNAVAILABLE',
  ENETDOWN: 'FS_UNAVAILABLE',
  ENETUNREACH: 'FS_UNAVAILABLE',
  // A FUSE file system whose process is gone.
  ENOTCONN: 'FS_UNAVAILABLE',
  ECONNABORTED: 'FS_UNAVAILABLE',
  EXDEV: 'FS_UNSUPPORTED',
  EINVAL: 'FS_UNSUPPORTED',
  ENOSYS: 'FS_UNSUPPORTED',
  ENOTSUP: 'FS_UNSUPPORTED',
  EOPNOTSUPP: 'FS_UNSUPPORTED',
}

/** Limits that do not pass by waiting. */
const lasting: ReadonlySet<string> = new Set(['ENAMETOOLONG', 'EFBIG', 'EMLINK'])

/** What Node has no name for: it says `UNKNOWN` or `Unknown system error -122` in its place. */
const UNNAMED = /^(?:UNKNOWN$|Unknown system error)/
const unnamed: ReadonlyMap<number, string> = new Map(
  (['EDQUOT', 'ESTALE', 'ENOLCK'] as const).map((name) => [-constants.errno[name], name]),
)

/** What the failed call wanted: something that is there, a new name, or an empty directory. */
export type Wanted = 'existing' | 'new' | 'empty'

/** The `code` of a failed system call; undefined for anything else. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined
  const { code, syscall, errno } = error as { code?: unknown; syscall?: unknown; errno?: unknown }
  if (typeof code !== 'string') return undefined
  if (UNNAMED.test(code))
    return unnamed.get(typeof errno === 'number' ? errno : Number(/-\d+/.exec(error.message)?.[0])) ?? code
  return typeof syscall === 'string' || /^E[A-Z0-9]+$/.test(code) ? code : undefined
}

/** What to throw for `error`: a failed system call as an FsError, anything else (misuse, an aborted signal) as it is. */
export function fsErrorOf(error: unknown, path: string, wanted: Wanted): unknown {
  const errno = errnoOf(error)
  if (errno === undefined || errno.startsWith('ERR_')) return error
  let code = codes[errno] ?? 'FS_IO'
  if (errno === 'ENOENT') code = 'FS_NOT_FOUND'
  // A directory where a file was expected, or the reverse: to a reader nothing has this name, a writer finds it taken.
  else if (errno === 'ENOTDIR' || errno === 'EISDIR') code = wanted === 'existing' ? 'FS_NOT_FOUND' : 'FS_EXISTS'
  else if (errno === 'ENOTEMPTY') code = 'FS_NOT_EMPTY'
  else if (errno === 'EEXIST') code = wanted === 'empty' ? 'FS_NOT_EMPTY' : 'FS_EXISTS'
  return new FsError(code, `${path === '' ? 'the root' : path}: ${(error as Error).message}`, {
    path,
    cause: error,
    ...(lasting.has(errno) ? { retryable: false } : {}),
  })
}
