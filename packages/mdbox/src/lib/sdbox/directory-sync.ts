/** Flushes of directories, shared by those who ask for the same at the same time. No timer: the flush under way is the window. */
import type { Fs } from '@mailstead/fs'

interface Turn {
  readonly running: Promise<void>
  next: Promise<void> | undefined
}

export class DirectorySync {
  readonly #fs: Fs
  readonly #turns = new Map<string, Turn>()

  constructor(fs: Fs) {
    this.#fs = fs
  }

  /** Resolves when every change of `path` that was made before this call survives power loss. */
  sync(path: string): Promise<void> {
    const turn = this.#turns.get(path)
    if (turn === undefined) return this.#begin(path)
    // What is under way may have begun before the change.
    turn.next ??= turn.running.then(
      () => this.#begin(path),
      () => this.#begin(path),
    )
    return turn.next
  }

  #begin(path: string): Promise<void> {
    const running = this.#fs.syncDirectory(path)
    const turn: Turn = { running, next: undefined }
    this.#turns.set(path, turn)
    const end = (): void => {
      if (this.#turns.get(path) === turn && turn.next === undefined) this.#turns.delete(path)
    }
    running.then(end, end)
    return running
  }
}
