/** What the posix driver needs of `node:fs`, so that something like it (memfs) can stand in. */
import type * as nodeFs from 'node:fs'

export type PosixNodeFs = Pick<
  typeof nodeFs,
  | 'closeSync'
  | 'constants'
  | 'fchmodSync'
  | 'fdatasync'
  | 'fstatSync'
  | 'fsync'
  | 'ftruncate'
  | 'ftruncateSync'
  | 'futimesSync'
  | 'link'
  | 'lstatSync'
  | 'mkdir'
  | 'openSync'
  | 'opendir'
  | 'read'
  | 'readSync'
  | 'realpathSync'
  | 'rename'
  | 'rmdir'
  | 'statSync'
  | 'unlink'
  | 'unlinkSync'
  | 'watch'
  | 'write'
  | 'writeSync'
  | 'writev'
  | 'writevSync'
>

type Done<T> = (error: NodeJS.ErrnoException | null, value?: T) => void

/** One call of the callback API, repeated while a signal interrupts it. Cheaper than `fs/promises`, whose file handles and wrappers cost more than the call. */
export function call<T = void>(run: (done: Done<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    const done: Done<T> = (error, value) => {
      if (error === null || error === undefined) resolve(value as T)
      else if (error.code === 'EINTR') run(done)
      else reject(error)
    }
    run(done)
  })
}

/** One synchronous call, repeated while a signal interrupts it. */
export function again<T>(run: () => T): T {
  for (;;) {
    try {
      return run()
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EINTR') throw error
    }
  }
}
