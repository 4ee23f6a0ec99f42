/** Takes turns by path, within this process: who has a path has all below it, and nobody has what is above it. */
export class PathLocks {
  readonly #name: string
  readonly #held = new Set<readonly string[]>()
  readonly #waiting = new Set<{ readonly paths: readonly string[]; readonly enter: () => void }>()

  #closed = false
  #onIdle: (() => void)[] = []

  /** `name` is for who comes when it is closed. */
  constructor(name: string) {
    this.#name = name
  }

  /** Nobody may come any more; resolves when all who had come have gone. */
  async close(): Promise<void> {
    this.#closed = true
    if (this.#held.size > 0) await new Promise<void>((resolve) => this.#onIdle.push(resolve))
  }

  /** Runs `body` while nobody else has any of `paths`, their parents or what is below them. Waiting ends with the signal. */
  async run<T>(paths: readonly string[], body: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    if (this.#closed) throw new TypeError(`${this.#name} is closed`)
    signal?.throwIfAborted()
    if (this.#isFree(paths)) this.#held.add(paths)
    else await this.#wait(paths, signal)
    try {
      return await body()
    } finally {
      this.#held.delete(paths)
      for (const waiter of this.#waiting)
        if (this.#isFree(waiter.paths)) {
          this.#waiting.delete(waiter)
          this.#held.add(waiter.paths)
          waiter.enter()
        }
      if (this.#held.size === 0) for (const wake of this.#onIdle.splice(0)) wake()
    }
  }

  async #wait(paths: readonly string[], signal: AbortSignal | undefined): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const leave = (): void => {
        this.#waiting.delete(waiter)
        // oxlint-disable-next-line typescript/prefer-promise-reject-errors -- the caller's own reason
        reject(signal!.reason)
      }
      const waiter = {
        paths,
        enter: (): void => {
          signal?.removeEventListener('abort', leave)
          resolve()
        },
      }
      signal?.addEventListener('abort', leave, { once: true })
      this.#waiting.add(waiter)
    })
  }

  #isFree(paths: readonly string[]): boolean {
    for (const others of this.#held)
      for (const other of others) for (const path of paths) if (overlap(path, other)) return false
    return true
  }
}

function overlap(a: string, b: string): boolean {
  return a === b || a.startsWith(`${b}/`) || b.startsWith(`${a}/`)
}
