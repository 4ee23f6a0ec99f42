/** Going through stores one after the other: what cannot be opened is told at the end, and the others are gone through. */
import { hasUserIndex, openUserStore } from '@mailstead/app-server'
import { type Store, StoreError } from '@mailstead/store'
import { Exit } from './exit.ts'
import type { Where, WhereFlags } from './find-user.ts'
import { lookAt, subjects } from './subjects.ts'

export interface StoresFlags extends WhereFlags {
  /** Only this user. (default: all) */
  readonly user?: string
  readonly json?: boolean
}

export interface Failure {
  readonly user: string
  readonly message: string
}

/** Calls `body` with each store. What it fails with is a failure of that store alone. */
export async function eachStore(
  flags: StoresFlags,
  { readOnly }: { readonly readOnly: boolean },
  body: (user: string, store: Store) => Promise<void>,
): Promise<{ readonly where: Where; readonly failures: readonly Failure[] }> {
  const where = await lookAt(flags)
  const failures: Failure[] = []
  for (const user of subjects(where, flags.user, [])) {
    try {
      await using opened = await openUserStore(where.data, user, { readOnly, settings: where.config })
      await body(user.name, opened.store)
    } catch (error) {
      // A user who never had mail; an index that is lost is another matter.
      const isUnmade = error instanceof StoreError && error.code === 'STORE_NOT_FOUND'
      if (isUnmade && !hasUserIndex(where.data, user, where.config)) continue
      failures.push({ user: user.name, message: (error as Error).message })
    }
  }
  return { where, failures }
}

/** Exit code 2 if there are any. */
export function tell(failures: readonly Failure[]): void {
  for (const { user, message } of failures) process.stderr.write(`mailstead: ${user}: ${message}\n`)
  if (failures.length > 0) throw new Exit(2)
}

/** A grace period in milliseconds; undefined: that of the configuration. */
export function graceOf(hours: string | undefined): { readonly graceMs?: number } {
  if (hours === undefined) return {}
  // An empty word is no 0: it may be a variable of a script that was never set.
  if (hours.trim() === '' || !(Number(hours) >= 0))
    throw new Exit(2, `--grace-hours ${JSON.stringify(hours)}: must be a number that is not below 0`)
  return { graceMs: Number(hours) * HOUR_MS }
}

const HOUR_MS = 3_600_000
