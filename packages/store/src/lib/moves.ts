/**
 * Moves into other stores: two logs change, and a crash between them loses no message and leaves none twice.
 *
 * ORDER    1. The store that the messages are in writes an intent (I): which of a mailbox's messages go, and where.
 *          2. The other store saves them, and in the same frame that this move has arrived (A).
 *          3. The first expunges them and takes the intent away, in one frame.
 *          4. The other forgets the arrival.
 *
 * A crash before 2 leaves I without A: nothing has come, the intent is dropped. After 2, I with A: the messages are there, and 3 and 4 are done
 * again. After 3, A without I, which is forgotten.
 *
 * FORMAT   values of the tree: `v/<id>` the intent: version u8 (0), created u48 (milliseconds since the epoch), GUID of the mailbox (text), where
 *          the messages go (text, whoever opens stores knows it), UIDs (text, as IMAP writes sets); `w/<id>` the arrival: where it began (UTF-8). An
 *          id is 32 hex digits. Must not change: on disk.
 *
 * INVARIANT   A message is expunged here only by a frame that expects its intent: whoever settled it before makes that frame fail.
 */
import { ByteReader, ByteWriter } from '@mailstead/bytes'
import { UidSet } from '@mailstead/uidset'
import type { ArrivedMove, PendingMove, StoreMoves } from './contract.ts'
import type { Core } from './core.ts'
import { StoreError } from './error.ts'
import { beginNames, settleNames } from './names.ts'
import { arrivalKey, type Entry, mailboxTable, moveKey, TREE_TABLE } from './tree.ts'

const VERSION = 0
/**
 * A move may be under way, in whatever process, for so long, in milliseconds. After that an intent of which nothing came is what a crash left: it
 * keeps nobody from moving the messages again, and may be taken back.
 */
export const MOVE_UNDER_WAY_MS = 60_000
/** UIDs of one move, as text, in bytes. */
const UIDS_MAX = 60_000

interface Intent {
  readonly createdMs: number
  readonly mailbox: string
  readonly to: string
  readonly uids: UidSet
}

function encodeIntent({ createdMs, mailbox, to, uids }: Intent): Uint8Array {
  const out = new ByteWriter()
  out.u8(VERSION)
  out.u48(createdMs)
  out.utf8(mailbox)
  out.utf8(to)
  out.utf8(uids.toString())
  return out.finish()
}

/** Undefined for what `encodeIntent` does not write. */
export function decodeIntent(value: Uint8Array): Intent | undefined {
  try {
    const from = new ByteReader(value)
    if (from.u8() !== VERSION) return undefined
    const createdMs = from.u48()
    const mailbox = from.utf8()
    const to = from.utf8()
    const uids = UidSet.parse(from.utf8())
    from.expectEnd()
    return { createdMs, mailbox, to, uids }
  } catch {
    return undefined
  }
}

/**
 * Step 1. STORE_EXPUNGED if one of the messages is gone, or another move has it; STORE_LIMIT. `mayMove` throws where rights do not suffice: the
 * tree that they are taken from is the one that the intent is decided on.
 */
export async function beginMove(
  core: Core,
  entry: Entry,
  uids: UidSet,
  { to, mayMove }: { readonly to: string; readonly mayMove: () => void },
): Promise<string> {
  const id = Buffer.from(core.guid()).toString('hex')
  const value = encodeIntent({ createdMs: core.settings.now(), mailbox: entry.guid, to, uids })
  if (value.length > UIDS_MAX)
    throw new StoreError('STORE_LIMIT', 'too many messages for one move to another store', { mailbox: entry.name })
  // Two moves that are decided at the same time are decided one after another.
  await core.changeTree(({ tx, state }) => {
    mayMove()
    for (const [key, other] of state.values) {
      if (!key.startsWith(moveKey(''))) continue
      const intent = decodeIntent(other)
      if (intent === undefined || Math.abs(core.settings.now() - intent.createdMs) > MOVE_UNDER_WAY_MS) continue
      if (intent.mailbox === entry.guid && !intent.uids.intersect(uids).isEmpty)
        throw new StoreError('STORE_EXPUNGED', 'another move has some of the messages', { mailbox: entry.name })
    }
    tx.expectRows(mailboxTable(entry.guid), uids)
    tx.setValue(TREE_TABLE, moveKey(id), value)
  })
  return id
}

/** Step 3, or with `arrived: false` the end of a move of which nothing came. Whoever comes second changes nothing. */
export async function settleMove(core: Core, id: string, arrived: boolean): Promise<UidSet> {
  return core.work(() =>
    core.retrying(async () => {
      const { state } = core.tree
      const value = state.values.get(moveKey(id))
      if (value === undefined) return UidSet.empty
      const intent = decodeIntent(value)
      await using tx = core.index.begin()
      tx.expectValue(TREE_TABLE, moveKey(id), value)
      tx.setValue(TREE_TABLE, moveKey(id), undefined)
      const entry = arrived && intent !== undefined ? state.byGuid.get(intent.mailbox) : undefined
      if (entry === undefined) {
        await tx.commit()
        return UidSet.empty
      }
      const names = await beginNames(core, tx, () => [entry])
      const outcome = tx.expunge(mailboxTable(entry.guid), intent!.uids)
      await tx.commit()
      names?.expunged(entry, outcome.expunged)
      settleNames(core, names)
      core.noteExpunged(outcome.expunged.size)
      return outcome.expunged
    }),
  )
}

export function storeMoves(core: Core): StoreMoves {
  return {
    pending(): readonly PendingMove[] {
      core.mustBeOpen()
      const moves: PendingMove[] = []
      for (const [key, value] of core.tree.state.values) {
        if (!key.startsWith(moveKey(''))) continue
        const intent = decodeIntent(value)
        if (intent !== undefined) moves.push({ id: key.slice(moveKey('').length), ...intent })
      }
      return moves
    },
    arrived(): readonly ArrivedMove[] {
      core.mustBeOpen()
      const moves: ArrivedMove[] = []
      for (const [key, value] of core.tree.state.values)
        if (key.startsWith(arrivalKey('')))
          moves.push({ id: key.slice(arrivalKey('').length), from: Buffer.from(value).toString() })
      return moves
    },
    async hasArrived(id) {
      await core.work(() => core.index.refresh())
      return core.tree.state.values.has(arrivalKey(id))
    },
    settle: (id, arrived) => settleMove(core, id, arrived),
    async forget(id) {
      core.mustBeWritable()
      await core.work(async () => {
        if (!core.tree.state.values.has(arrivalKey(id))) return
        await using tx = core.index.begin()
        tx.setValue(TREE_TABLE, arrivalKey(id), undefined)
        await tx.commit()
      })
    },
  }
}
