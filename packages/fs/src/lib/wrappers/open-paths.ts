/** By which names what is open can be reached, as names are given, moved and taken away. */

export type FsTier = 'primary' | 'alternate'

/** Opens the same, as `path`, elsewhere than in the tier it leaves; undefined if it is not there. */
export type Reopen = (path: string, leaving: FsTier) => Promise<Reopened | undefined>

export interface Reopened {
  /** From here on, what was opened is used. */
  adopt(): void
  /** Closes what is not used: the old after `adopt`, else the new. */
  release(): Promise<void>
}

export interface OpenPath {
  readonly names: Set<string>
  /** Only of those that can follow a move. */
  readonly reopen: Reopen | undefined
}

export class OpenPaths {
  readonly #open = new Set<OpenPath>()

  add(path: string, reopen?: Reopen): OpenPath {
    const entry: OpenPath = { names: new Set([path]), reopen }
    this.#open.add(entry)
    return entry
  }

  delete(entry: OpenPath): void {
    this.#open.delete(entry)
  }

  /** Whether something is open as `path` that cannot follow a move. */
  isFixed(path: string): boolean {
    for (const { names, reopen } of this.#open) if (reopen === undefined && names.has(path)) return true
    return false
  }

  /** Opens all that is open as `path` anew, elsewhere than in the tier it leaves. All of it, or none if one fails. */
  async reopen(path: string, leaving: FsTier): Promise<void> {
    const reopened: Reopened[] = []
    try {
      for (const { names, reopen } of this.#open) {
        const one = names.has(path) ? await reopen?.(path, leaving) : undefined
        if (one !== undefined) reopened.push(one)
      }
      for (const one of reopened) one.adopt()
    } finally {
      for (const one of reopened) await one.release()
    }
  }

  /** `path` is no name any more of what was open. */
  removed(path: string): void {
    for (const { names } of this.#open) names.delete(path)
  }

  linked(from: string, to: string): void {
    for (const { names } of this.#open) if (names.has(from)) names.add(to)
  }

  /** A file or a directory. */
  renamed(from: string, to: string): void {
    for (const { names } of this.#open) {
      names.delete(to)
      for (const path of names)
        if (path === from || path.startsWith(`${from}/`)) {
          names.delete(path)
          names.add(to + path.slice(from.length))
        }
    }
  }
}
