/**
 * Names for messages: given, and taken, after the frame that decided them.
 *
 * HOW      Before a commit each mailbox that it changes is noted in the log under this process's slot (slots.ts). After it the
 *          names are given in the background, in the order of the commits, and their directories are flushed, also in the background.
 *          The home of a message gets its file by a rename, which is whole or not at all whatever happens; other mailboxes get
 *          another name for it. Nobody waits: a message is found by its reference wherever its file is.
 *
 * INVARIANTS
 *   1. No name is given or taken before the frame that says so is durable.
 *   2. What is not done, because of a crash or a failure, is noted in the log until it is done.
 */
import type { BoxMailbox, BoxNames, BoxNamingTransaction, BoxPending, BoxRef } from '@mailstead/box'
import { identify } from './directory.ts'
import type { DirectorySync } from './directory-sync.ts'
import { expungeName, finishMailbox, markRemoved, type NamesContext, nameMessage } from './finish.ts'
import { UNNAMED } from './names.ts'
import { inParallel } from './parallel.ts'
import { isHome } from './row.ts'
import { todoKey } from './slots.ts'
import { secondOf } from './tiers.ts'
import type { Writer } from './writer.ts'

const NOTHING = new Uint8Array(0)

interface Appended {
  readonly kind: 'appended'
  readonly mailbox: BoxMailbox
  readonly uid: number
  readonly ref: BoxRef
}
type Change =
  | Appended
  | { readonly kind: 'expunged'; readonly mailbox: BoxMailbox; readonly uids: Iterable<number> }
  | { readonly kind: 'removed'; readonly mailbox: BoxMailbox }

export class Namer {
  readonly #context: NamesContext
  readonly #syncs: DirectorySync
  readonly #writer: Writer
  readonly #slot: () => Promise<number>
  /** Mailboxes noted under our slot, and those of them whose names may not be what the log says. */
  readonly noted: Set<string> = new Set()
  readonly unfinished: Set<string> = new Set()
  /** Directories known to say what mailbox they are, with the name they say. */
  readonly #identified = new Map<string, { readonly name: string; readonly done: Promise<void> }>()
  #last: Promise<void> = Promise.resolve()
  readonly #flushing = new Set<Promise<void>>()

  constructor(context: NamesContext, syncs: DirectorySync, writer: Writer, slot: () => Promise<number>) {
    this.#context = context
    this.#syncs = syncs
    this.#writer = writer
    this.#slot = slot
  }

  async begin(tx: BoxNamingTransaction, mailboxes: readonly BoxMailbox[]): Promise<BoxNames> {
    const slot = await this.#slot()
    const table = this.#context.rows.id
    for (const { guid } of mailboxes) {
      // Each time: it costs nothing where it is noted already, and another process may have taken it for finished.
      tx.setValue(table, todoKey(slot, guid), NOTHING)
      this.noted.add(guid)
    }
    const changes: Change[] = []
    return {
      first: (pending: BoxPending, row: BoxPending) => {
        tx.setColumn(table, 'uid', pending, row)
      },
      appended: (mailbox, uid, ref) => void changes.push({ kind: 'appended', mailbox, uid, ref }),
      expunged: (mailbox, uids) => void changes.push({ kind: 'expunged', mailbox, uids }),
      removed: (mailbox) => void changes.push({ kind: 'removed', mailbox }),
      settle: () => {
        this.#last = this.#last.then(async () => this.#apply(changes))
        return this.#last
      },
    }
  }

  /** Waits for everything that was told so far, the flushes included. */
  async drain(): Promise<void> {
    await this.#last
    while (this.#flushing.size > 0) await Promise.all(this.#flushing)
  }

  /** Tries again what failed. */
  async finish(): Promise<void> {
    if (this.unfinished.size === 0) return
    const tier = await secondOf(this.#context.second)
    for (const guid of this.unfinished)
      if ((await finishMailbox(this.#context, guid, tier)) === 'done') this.unfinished.delete(guid)
  }

  /** Never rejects. */
  async #apply(changes: readonly Change[]): Promise<void> {
    const { fs, directory } = this.#context
    const changed = new Set<string>()
    const attempt = async (guid: string, body: () => Promise<void>): Promise<void> => {
      try {
        await body()
      } catch {
        this.unfinished.add(guid)
      }
    }
    // Homes first: the other names of a message are made from its file, wherever it is by then.
    const named = new Set<BoxRef>()
    const [homes, copies]: [Appended[], Appended[]] = [[], []]
    for (const change of changes) {
      if (change.kind !== 'appended') continue
      ;(named.has(change.ref) ? copies : homes).push(change)
      named.add(change.ref)
    }
    for (const list of [homes, copies])
      await inParallel(list, async ({ mailbox, uid, ref }) =>
        attempt(mailbox.guid, async () => this.#append(mailbox, uid, ref, changed)),
      )
    for (const change of changes) {
      const { guid } = change.mailbox
      if (change.kind === 'removed')
        await attempt(guid, async () => {
          this.#identified.delete(guid)
          await markRemoved(fs, directory, guid, change.mailbox)
        })
      else if (change.kind === 'expunged') {
        await inParallel(change.uids, async (uid) => attempt(guid, async () => expungeName(this.#context, guid, uid)))
        changed.add(guid)
      }
    }
    for (const name of changed) this.#flush(name)
  }

  async #append(mailbox: BoxMailbox, uid: number, ref: BoxRef, changed: Set<string>): Promise<void> {
    const { guid } = mailbox
    await this.#identify(mailbox)
    const row = await this.#context.rows.find(ref)
    // Gone again, or in no view that this process has: then it is found out later.
    if (row === undefined || !(await nameMessage(this.#context, row, guid, uid))) {
      this.unfinished.add(guid)
      return
    }
    changed.add(guid)
    if (!isHome(row, guid, uid)) return
    this.#writer.made.delete(row.id)
    changed.add(UNNAMED)
  }

  /** Once for each name that a mailbox has while this box is open. */
  async #identify(mailbox: BoxMailbox): Promise<void> {
    const { guid, name } = mailbox
    const known = this.#identified.get(guid)
    if (known?.name === name) {
      await known.done
      return
    }
    const done = identify(this.#context.fs, this.#context.directory, mailbox, false)
    this.#identified.set(guid, { name, done })
    try {
      await done
    } catch (error) {
      this.#identified.delete(guid)
      throw error
    }
  }

  #flush(name: string): void {
    const { directory } = this.#context
    const flushing: Promise<void> = this.#syncs.sync(`${directory}/${name}`).then(
      () => void this.#flushing.delete(flushing),
      () => {
        this.#flushing.delete(flushing)
        if (name !== UNNAMED) this.unfinished.add(name)
      },
    )
    this.#flushing.add(flushing)
  }
}
