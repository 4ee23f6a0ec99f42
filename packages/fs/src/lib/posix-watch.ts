/**
 * Watching one path, whether it exists or not, through everything that may happen to it.
 *
 * Watched is the directory that holds the path (a file may be replaced by a rename, and a watch of the file would stay
 * with the old one), and the path itself where it is a directory; while that directory does not exist, the nearest one
 * above that does. Any event that could mean that this changed looks again.
 */
import type { FSWatcher } from 'node:fs'
import type { PosixNodeFs } from './node-fs.ts'
import { nameOf, parentOf } from './path.ts'
import type { Tree } from './posix-tree.ts'

/** Pause before a watch that broke (its directory is gone, or there are no more inotify watches) is tried again. */
const RETRY_MS = 250

export function watchPath(fs: PosixNodeFs, tree: Tree, path: string, onChange: () => void, signal: AbortSignal): void {
  let watchers: FSWatcher[] = []
  /** What is watched now, by path and inode: when this differs, watch anew. */
  let attached = ''
  let retry: NodeJS.Timeout | undefined

  const identity = (directory: string): string | undefined => {
    try {
      if (!tree.confine(directory)) return undefined
      const stats = fs.statSync(tree.absolute(directory), { throwIfNoEntry: false })
      return stats?.isDirectory() === true ? `${directory}\0${stats.ino}` : undefined
    } catch {
      return undefined
    }
  }

  const detach = (): void => {
    for (const watcher of watchers) watcher.close()
    watchers = []
    clearTimeout(retry)
    retry = undefined
  }

  const retryLater = (): void => {
    attached = ''
    if (retry !== undefined || signal.aborted) return
    retry = setTimeout(() => {
      retry = undefined
      attach()
      onChange()
    }, RETRY_MS)
    retry.unref()
  }

  /** True if what is watched is not what was. */
  function attach(): boolean {
    let above = parentOf(path)
    let aboveIdentity = identity(above)
    while (aboveIdentity === undefined && above !== '') {
      above = parentOf(above)
      aboveIdentity = identity(above)
    }
    const self = identity(path)
    const now = `${aboveIdentity ?? ''}\0${self ?? ''}`
    if (now === attached) return false
    detach()
    attached = now
    if (path !== '') watch(above)
    if (self !== undefined) watch(path)
    return true
  }

  function watch(directory: string): void {
    const holdsPath = directory !== path && directory === parentOf(path)
    const name = nameOf(path)
    try {
      const watcher = fs.watch(tree.absolute(directory), { persistent: false }, (event, changed) => {
        if (signal.aborted) return
        // Only 'rename' (appeared, vanished, replaced) can change what is to be watched.
        const moved = event === 'rename' && attach()
        if (moved || directory === path || (holdsPath && (changed === null || changed === name))) onChange()
      })
      watcher.on('error', retryLater)
      watchers.push(watcher)
    } catch {
      retryLater()
    }
  }

  if (signal.aborted) return
  signal.addEventListener('abort', detach, { once: true })
  attach()
}
