/**
 * What is a path: relative to a driver's root, parts joined by `/`, the same for every driver.
 *
 * Names may come from a network (a mailbox, an attachment), so this is a border: what could leave the root, or mean two
 * things to two systems, is refused here with FS_DENIED, and what no file system could hold with FS_LIMIT.
 */
import { FsError } from './error.ts'

/** Longest part, in bytes of UTF-8: what every file system of Linux, BSD and macOS takes. */
export const PATH_PART_MAX_BYTES = 255
/** Longest path, in bytes of UTF-8. Leaves room for a root below Linux's 4096. */
export const PATH_MAX_BYTES = 3072

const SLASH = 0x2f
const DOT = 0x2e
/** A character of a JavaScript string takes at most three bytes of UTF-8. */
const BYTES_PER_CHARACTER = 3

/**
 * Throws unless `path` names something below the root: FS_DENIED for an empty, `.` or `..` part, a NUL, or text that is
 * not Unicode (a lone surrogate); FS_LIMIT for a part or a path that is too long. `''`, the root, passes only with `root`.
 */
export function checkPath(path: string, options?: { readonly root?: boolean }): void {
  const { length } = path
  if (length === 0) {
    if (options?.root === true) return
    throw denied(path, 'names the root')
  }
  let start = 0
  let surrogates = false
  for (let at = 0; at <= length; at++) {
    const code = at === length ? SLASH : path.charCodeAt(at)
    if (code === SLASH) {
      const size = at - start
      if (size === 0) throw denied(path, 'has an empty part')
      if (path.charCodeAt(start) === DOT && (size === 1 || (size === 2 && path.charCodeAt(start + 1) === DOT)))
        throw denied(path, 'has a part that is no name')
      if (size * BYTES_PER_CHARACTER > PATH_PART_MAX_BYTES) checkSize(path, path.slice(start, at), PATH_PART_MAX_BYTES)
      start = at + 1
    } else if (code === 0) throw denied(path, 'contains NUL')
    else if (code >= 0xd800 && code <= 0xdfff) surrogates = true
  }
  if (surrogates && !path.isWellFormed()) throw denied(path, 'is not Unicode')
  if (length * BYTES_PER_CHARACTER > PATH_MAX_BYTES) checkSize(path, path, PATH_MAX_BYTES)
}

/** The directory that holds `path`; `''` for the root. */
export function parentOf(path: string): string {
  const slash = path.lastIndexOf('/')
  return slash < 0 ? '' : path.slice(0, slash)
}

/** The last part. */
export function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1)
}

function checkSize(path: string, text: string, max: number): void {
  const size = Buffer.byteLength(text)
  if (size > max)
    throw new FsError('FS_LIMIT', `a name of ${size} bytes is longer than ${max}`, { path, retryable: false })
}

function denied(path: string, why: string): FsError {
  const shown = path.length > 80 ? `${path.slice(0, 80)}…` : path
  return new FsError('FS_DENIED', `${JSON.stringify(shown)} ${why}`, { path })
}
