/**
 * A user's private flags, in his own index: overlays of the shared mailboxes he opens, counters of those he does not.
 */
import type { Fs } from '@mailstead/fs'
import type { Index, TableInfo } from '@mailstead/index'
import { type OverlayHost, OverlayTable, type SharedMailbox } from './overlay-table.ts'
import { dropGone, followedUpTo, followMoves, type MovedMessages } from './private-follow.ts'
import { UserLock } from './private-lock.ts'
import { movedNext } from './private-moves.ts'
import type { PrivacyPolicy, PrivacyRules } from './private-policy.ts'
import { type PrivateStatus, privateStatus } from './private-status.ts'
import {
  flagsTable,
  followedTable,
  keyOfTable,
  lostTable,
  orderTable,
  type SharedMailboxKey,
} from './private-tables.ts'

export interface PrivateFlagsOptions {
  /** The user's own. Whoever opened it disposes it, after this. */
  readonly index: Index
  /** Where the user's lock file is: the file system of his own store. */
  readonly fs: Fs
  /** Must be the same for all processes. (default 'private-flags.lock') */
  readonly lockPath?: string
  /** How long a change may wait for another process of the same user, in milliseconds. (default 30 000) */
  readonly lockWaitMs?: number
}

/** One for each user and process: several share the lock, and wait for each other. */
export class PrivateFlags implements AsyncDisposable {
  readonly index: Index
  readonly #lock: UserLock
  readonly #open = new Set<OverlayTable>()
  /** By store: up to where there was nothing to follow, which is not written down; 0 where nothing is to be said. */
  readonly #looked = new Map<string, number>()
  readonly #host: OverlayHost
  #disposed = false

  private constructor(index: Index, lock: UserLock) {
    this.index = index
    this.#lock = lock
    this.#host = {
      index,
      lock,
      closed: (table) => void this.#open.delete(table),
      isBehind: (moves) => this.isBehind(moves),
      follow: (moves) => this.#follow(moves),
    }
  }

  static async open(options: PrivateFlagsOptions): Promise<PrivateFlags> {
    const { index, fs, lockPath = 'private-flags.lock', lockWaitMs = 30_000 } = options
    if (!(lockWaitMs >= 0)) throw new TypeError(`lockWaitMs must be a number of milliseconds, not ${lockWaitMs}`)
    return new PrivateFlags(index, await UserLock.open(fs, lockPath, lockWaitMs))
  }

  /** A shared mailbox as this user has it. Nothing is written before he changes something private. */
  async overlay(shared: SharedMailbox): Promise<OverlayTable> {
    if (this.#disposed) throw new TypeError('the private flags are closed')
    const table = await OverlayTable.open(this.#host, shared)
    this.#open.add(table)
    return table
  }

  /**
   * Counters of a shared mailbox for this user, from what is known of both indexes: `refresh` them before (the shared
   * one first). Undefined: open an overlay, `sync` it and ask again.
   */
  status(key: SharedMailboxKey, shared: TableInfo, policy: PrivacyPolicy | PrivacyRules): PrivateStatus | undefined {
    const flags = this.index.info(flagsTable(key))
    const order = this.index.info(orderTable(key))
    return privateStatus(shared, { flags, order }, policy)
  }

  /** Whether messages of a shared store were moved that the user's flags did not follow yet, as far as is known. */
  isBehind(moves: MovedMessages): boolean {
    return followedUpTo(this.index, moves, this.#lookedAt(moves)) !== movedNext(moves.index)
  }

  /**
   * Lets the user's flags follow all messages of a shared store that were moved within it. Overlays do so by
   * themselves; before counters are asked for, and before flags are removed, it is to be done. `refresh` both indexes
   * before.
   */
  async follow(moves: MovedMessages): Promise<void> {
    while (this.isBehind(moves))
      await this.#lock.run(async () => {
        await this.index.refresh()
        if (this.isBehind(moves)) await this.#follow(moves)
      })
  }

  #lookedAt({ store }: MovedMessages): number {
    const id = followedTable(store)
    let looked = this.#looked.get(id)
    if (looked === undefined) {
      // What he has from before moves were noted follows from the first of them.
      const isOld = this.index.info(id) === undefined && this.mailboxes.some((key) => followedTable(key.store) === id)
      this.#looked.set(id, (looked = isOld ? 1 : 0))
    }
    return looked
  }

  async #follow(moves: MovedMessages): Promise<void> {
    const { next, given } = await followMoves(this.index, moves, this.#lookedAt(moves))
    this.#looked.set(followedTable(moves.store), next)
    // Now, and not by a change of its own that he is shown later.
    for (const mailbox of given) await dropGone(this.#host, moves, mailbox)
  }

  /** Whether the user has flags of his own there that were not cleared because he may not see it (`noteForgotten`). */
  keeps(key: SharedMailboxKey): boolean {
    return this.index.info(flagsTable(key)) !== undefined && this.index.info(lostTable(key))?.uidNext !== 2
  }

  /** The shared mailboxes in which the user has flags of his own. */
  get mailboxes(): readonly SharedMailboxKey[] {
    const keys: SharedMailboxKey[] = []
    for (const { id } of this.index.tables) {
      const key = keyOfTable(id)
      if (key !== undefined) keys.push(key)
    }
    return keys
  }

  /**
   * Notes which mailboxes the user may not see any more, and which again. Of the former those that he could not see for `keepMs`
   * milliseconds and whose flags are still there: clear them (`OverlayTable.forget`), and say so here (`noteForgotten`).
   */
  async noteLost(
    lost: readonly SharedMailboxKey[],
    seen: readonly SharedMailboxKey[],
    { nowMs, keepMs }: { readonly nowMs: number; readonly keepMs: number },
  ): Promise<readonly SharedMailboxKey[]> {
    const { index } = this
    const noted = (key: SharedMailboxKey): TableInfo | undefined => index.info(lostTable(key))
    if (lost.some((key) => noted(key) === undefined) || seen.some((key) => noted(key) !== undefined))
      await this.#lock.run(async () => {
        await index.refresh()
        await using tx = index.begin()
        for (const key of seen) if (noted(key) !== undefined) tx.dropTable(lostTable(key))
        for (const key of lost) {
          if (noted(key) !== undefined) continue
          const id = lostTable(key)
          tx.createTable({ id, columns: [], uidValidity: 1 })
          tx.raise(id, { highestModSeq: Math.floor(nowMs / 1000) })
        }
        await tx.commit()
      })
    const before = (nowMs - keepMs) / 1000
    return lost.filter((key) => {
      const info = noted(key)
      return info !== undefined && info.uidNext === 1 && info.highestModSeq <= before
    })
  }

  async noteForgotten(key: SharedMailboxKey): Promise<void> {
    await this.#lock.run(async () => {
      await this.index.refresh()
      if (this.index.info(lostTable(key)) === undefined) return
      await using tx = this.index.begin()
      tx.raise(lostTable(key), { uidNext: 2 })
      await tx.commit()
    })
  }

  /** Forgets what the user has in mailboxes that are gone for good, with the numbers he was shown: in one frame. */
  async remove(keys: readonly SharedMailboxKey[]): Promise<void> {
    await this.#lock.run(async () => {
      await this.index.refresh()
      await using tx = this.index.begin()
      const ids = new Set(keys.flatMap((key) => [flagsTable(key), orderTable(key), lostTable(key)]))
      const kept = this.mailboxes.filter((key) => !ids.has(flagsTable(key))).map(({ store }) => followedTable(store))
      // With the last mailbox of a store goes how far the flags followed there.
      for (const { store } of keys) if (!kept.includes(followedTable(store))) ids.add(followedTable(store))
      for (const id of ids) if (this.index.info(id) !== undefined) tx.dropTable(id)
      await tx.commit()
      for (const id of ids) this.#looked.delete(id)
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return
    this.#disposed = true
    for (const table of this.#open) await table[Symbol.asyncDispose]()
    await this.#lock[Symbol.asyncDispose]()
  }
}
