/**
 * Who is told that tables changed: the handles of each table, and those who watch the whole index. The log of other processes is
 * followed as long as anybody wants to know.
 */
import type { Fs } from '@mailstead/fs'
import type { Settings } from './settings.ts'
import type { TableHandle } from './table-handle.ts'
import { tell } from './tell.ts'

/** After so long a watcher looks again for what a writer at work had not flushed, in milliseconds. */
const LOOK_AGAIN_MS = 25

export interface WatchedIndex {
  readonly fs: Fs
  readonly prefix: string
  readonly settings: Settings
  readonly isClosing: boolean
  refresh(): Promise<void>
}

export class Watching {
  /** All that are open. */
  readonly handles: Set<TableHandle> = new Set()
  readonly #index: WatchedIndex
  readonly #watchers = new Set<(tables: readonly string[]) => void>()
  #following: AbortController | undefined
  #scheduled = false

  constructor(index: WatchedIndex) {
    this.#index = index
  }

  watch(onChange: (tables: readonly string[]) => void): Disposable {
    // One caller may watch twice with the same function.
    const watcher = (tables: readonly string[]): void => onChange(tables)
    this.#watchers.add(watcher)
    this.follow()
    return {
      [Symbol.dispose]: () => {
        this.#watchers.delete(watcher)
        this.follow()
      },
    }
  }

  /** These tables changed. */
  tell(changed: ReadonlySet<string>): void {
    for (const handle of this.handles) if (changed.has(handle.id)) handle.changed()
    if (this.#watchers.size > 0) {
      const ids = [...changed]
      for (const onChange of this.#watchers) tell(onChange, ids)
    }
  }

  /** Follows what other processes append if somebody wants to know, and else no more. */
  follow(): void {
    const { fs, prefix, settings, isClosing } = this.#index
    if (fs.watch === undefined || settings.readOnly) return
    const wanted = !isClosing && (this.#watchers.size > 0 || [...this.handles].some((one) => one.watched))
    if (wanted === (this.#following !== undefined)) return
    if (!wanted) {
      this.stop()
      return
    }
    this.#following = new AbortController()
    try {
      fs.watch(`${prefix}log`, () => this.#onFileChange(), { signal: this.#following.signal })
    } catch (error) {
      settings.onEvent({ kind: 'watch-failed', message: String(error) })
    }
  }

  /** There are frames that cannot be shown yet, and nothing tells when their writer has flushed them: whoever watches looks again. */
  lookAgain(): void {
    if (this.#following !== undefined) setTimeout(() => this.#onFileChange(), LOOK_AGAIN_MS).unref()
  }

  stop(): void {
    this.#following?.abort()
    this.#following = undefined
  }

  #onFileChange(): void {
    if (this.#scheduled || this.#index.isClosing) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      if (this.#index.isClosing) return
      this.#index.refresh().catch((error: unknown) => {
        this.#index.settings.onEvent({ kind: 'refresh-failed', message: String(error) })
      })
    })
  }
}
