/** Nothing is appended to a log of files but by who has the commit lock: a file system that notes it if something is. */
import type { Fs, FsLock } from '@mailstead/fs'

/** The file system of one process, which notes in `found` whatever is appended to a log without the lock at `lockPath`. */
export function lockWatched(fs: Fs, lockPath: string, found: string[]): Fs {
  let own: FsLock | undefined
  return new Proxy(fs, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target)
      if (name === 'lock')
        return async (path: string, options?: never) => {
          const lock = await target.lock(path, options)
          if (path === lockPath) own = lock
          return lock
        }
      if (name === 'open')
        return async (path: string, ...rest: [never]) => {
          const file = await target.open(path, ...rest)
          if (!path.includes('/log/')) return file
          return new Proxy(file, {
            get(one, method) {
              const member: unknown = Reflect.get(one, method, one)
              if (typeof member !== 'function') return member
              return (...args: unknown[]): unknown => {
                if ((method === 'append' || method === 'appendSync') && own?.held !== 'exclusive')
                  found.push(`${String(method)} with the lock ${own?.held ?? 'released'}`)
                return Reflect.apply(member, one, args)
              }
            },
          })
        }
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}
