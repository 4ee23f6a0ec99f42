/** Who is looking for a file learns that it was moved meanwhile, and that not finding it may mean nothing. */

export interface Lookup {
  readonly path: string
  /** What was moved, at or below `path`, since it was begun: the part of its path after `path`, '' for itself. */
  readonly moved: Set<string>
}

export class Moves {
  readonly #lookups = new Set<Lookup>()
  readonly #leaving = new Set<string>()

  /** To be ended, as something is under way that moves may disturb. */
  begin(path: string): Lookup {
    const lookup: Lookup = { path, moved: new Set() }
    this.#lookups.add(lookup)
    return lookup
  }

  end(lookup: Lookup): void {
    this.#lookups.delete(lookup)
  }

  /** Whether the file is about to be removed from one of its places. */
  isLeaving(path: string): boolean {
    return this.#leaving.has(path)
  }

  /** Runs what prepares a removal, and then the removal, of a file from one of its places. */
  async leave(path: string, prepare: () => Promise<void>, remove: () => Promise<void>): Promise<void> {
    this.#leaving.add(path)
    try {
      await prepare()
      for (const lookup of this.#lookups)
        if (path === lookup.path) lookup.moved.add('')
        else if (lookup.path === '') lookup.moved.add(path)
        else if (path.startsWith(`${lookup.path}/`)) lookup.moved.add(path.slice(lookup.path.length + 1))
      await remove()
    } finally {
      this.#leaving.delete(path)
    }
  }
}
