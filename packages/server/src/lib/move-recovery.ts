/** Moves between stores that a crash interrupted are finished when the store that they began in is opened. */
import { MOVE_UNDER_WAY_MS, type Store } from '@mailstead/store'
import { ServerError } from './error.ts'
import type { OnServerEvent } from './events.ts'
import type { StorePool } from './store-pool.ts'
import type { User } from './users.ts'

export interface MoveRecoveryOptions {
  readonly pool: StorePool
  readonly principal: (name: string) => User | undefined
  readonly onEvent: OnServerEvent
  /** Milliseconds since the epoch. (default Date.now) */
  readonly now?: () => number
}

/** Never fails: what cannot be settled now is when the store is next opened. Nobody may be moving from this store in this process. */
export async function settleMoves(
  name: string,
  { moves }: Pick<Store, 'moves'>,
  options: MoveRecoveryOptions,
): Promise<void> {
  const { pool, principal, onEvent, now = Date.now } = options
  for (const { id, to, createdMs } of moves.pending()) {
    try {
      const other = principal(to)
      using lease = other === undefined ? undefined : await pool.acquire(other, { background: true })
      const arrived = (await lease?.store.moves.hasArrived(id)) ?? false
      // Of which nothing came yet: another process may be at it.
      if (!arrived && Math.abs(now() - createdMs) < MOVE_UNDER_WAY_MS) continue
      const gone = await moves.settle(id, arrived)
      if (arrived) await lease!.store.moves.forget(id)
      onEvent({
        level: 'info',
        kind: 'move-settled',
        message: arrived
          ? `a move of ${gone.size} messages from ${name} to ${to} was finished`
          : `a move from ${name} to ${to} of which nothing came was taken back`,
        user: name,
      })
    } catch (error) {
      if (error instanceof ServerError && error.code === 'SERVER_CLOSED') return
      onEvent({
        level: 'warn',
        kind: 'move',
        message: `a move from ${name} to ${to} could not be settled`,
        user: name,
        error,
      })
    }
  }
  for (const { id, from } of moves.arrived()) {
    try {
      const other = principal(from)
      using lease = other === undefined ? undefined : await pool.acquire(other, { background: true })
      // One that is not settled there is, now that its store is open; then this one is asked again.
      if (lease?.store.moves.pending().some((move) => move.id === id) !== true) await moves.forget(id)
    } catch (error) {
      if (error instanceof ServerError && error.code === 'SERVER_CLOSED') return
      onEvent({
        level: 'warn',
        kind: 'move',
        message: `a move from ${from} to ${name} is not forgotten`,
        user: name,
        error,
      })
    }
  }
}
