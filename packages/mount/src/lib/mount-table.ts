/**
 * Which mount is seen at a path. A mount hides what was mounted there before, and everything below it: a row of the table
 * need not be what a path leads to.
 */
import { dirname } from 'node:path'
import type { MountRow } from './probe.ts'

export class MountTable {
  readonly rows: readonly MountRow[]
  readonly #byPath = new Map<string, MountRow[]>()
  readonly #hasParents: boolean

  constructor(rows: readonly MountRow[]) {
    this.rows = rows
    for (const row of rows) {
      const same = this.#byPath.get(row.path)
      if (same === undefined) this.#byPath.set(row.path, [row])
      else same.push(row)
    }
    // Without a mount at `/` (a changed root), or without numbers, there is nothing to follow.
    this.#hasParents = this.#byPath.get('/')?.some(({ id }) => id !== 0) === true
  }

  /** What is mounted at exactly this path and not hidden. */
  at(path: string): MountRow | undefined {
    const rows = this.#byPath.get(path)
    if (rows === undefined) return undefined
    if (!this.#hasParents) return rows.at(-1)
    // Mounted on what its directory is on, or on what was mounted at the same path before.
    let below = path === '/' ? rows.find(({ parent }) => !rows.some(({ id }) => id === parent)) : undefined
    if (path !== '/') {
      const on = this.covering(dirname(path))
      below = on && rows.findLast(({ parent }) => parent === on.id)
    }
    const seen = new Set<MountRow>()
    while (below !== undefined && !seen.has(below)) {
      seen.add(below)
      const { id } = below
      const above = rows.findLast((row) => row.parent === id && !seen.has(row))
      if (above === undefined) return below
      below = above
    }
    return below
  }

  /** What `path` is on, if everything on the way exists. */
  covering(path: string): MountRow | undefined {
    for (let at = path; ; at = dirname(at)) {
      const row = this.at(at)
      if (row !== undefined || at === dirname(at)) return row
    }
  }
}
