/**
 * COPY and MOVE into another store. COPY: the bytes are read and saved again, in one frame of that store, which is durable before anything is told
 * (the destination first). Flags, keywords and the date go with them, as far as the rights there allow.
 */
import type { FixedColumn } from '@mailstead/index'
import {
  type ArrivedMove,
  type CopyOptions,
  type CopyOutcome,
  type Mailbox,
  RIGHT_EXPUNGE,
  RIGHT_INSERT,
  RIGHT_LOOKUP,
  RIGHT_READ,
  StoreError,
  type StoreSession,
} from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import type { Place } from './namespaces.ts'

/** Where messages go. */
export interface Destination {
  readonly store: StoreSession
  /** In that store. */
  readonly mailbox: string
}

/** Fails as `Mailbox.copy` does. Nothing is kept unless all is. `arrival`: they are moved (`Mailbox.beginMove`). */
export async function copyToOther(
  from: Mailbox,
  uids: UidSet,
  to: Destination,
  options: CopyOptions & { readonly arrival?: ArrivedMove } = {},
): Promise<CopyOutcome> {
  const { store, mailbox: name } = to
  // Before a message is looked at: by one that is gone nobody learns whether there is such a place.
  await mayInsert(store, name)
  const { view } = from
  await view.load(['received', 'box', 'size', 'form', 'guid'])
  const received: FixedColumn = view.extension('received')!
  const copied: number[] = []
  await using batch = store.save()
  for (const uid of uids) {
    const row = view.rowOf(uid)
    try {
      if (row < 0) throw new StoreError('STORE_EXPUNGED', `message ${uid} was expunged`, { mailbox: from.name })
      await using body = await from.body(view, row)
      const keywords = (view.keywordSets[view.keywordSet(row)] ?? []).map((keyword) => view.keywords[keyword]!)
      await batch.add(body.stream(0, body.size), [{ mailbox: name, flags: view.flags(row), keywords }], {
        receivedMs: received.number(row),
      })
      copied.push(uid)
    } catch (error) {
      // A UID that names nothing any more is passed over (RFC 3501 §6.4.8).
      if (options.mustExist === true || !(error instanceof StoreError) || error.code !== 'STORE_EXPUNGED') throw error
    }
  }
  // Reading takes long: who may do it no more, or take the messages away, does not have them there either.
  await from.refresh()
  if (options.arrival !== undefined && (from.rights & RIGHT_EXPUNGE) === 0)
    throw new StoreError('STORE_DENIED', 'the messages may not be taken away any more', { mailbox: from.name })
  const saved = await batch.commit(options.arrival === undefined ? {} : { arrival: options.arrival })
  const destination = Uint32Array.from(saved, ({ uid }) => uid)
  return {
    uidValidity: saved[0]?.uidValidity ?? 0,
    source: UidSet.fromSorted(Uint32Array.from(copied)),
    destination: UidSet.fromSorted(destination),
  }
}

/**
 * MOVE into another store: the order of `StoreMoves`, so that a crash at any time loses nothing, and leaves nothing twice once the move is
 * settled (move-recovery.ts). A failure before the messages are there takes the intent back.
 */
export async function moveToOther(
  from: Mailbox,
  uids: UidSet,
  places: { readonly from: Pick<Place, 'moves' | 'key'>; readonly to: Place },
  name: string,
  options: CopyOptions,
): Promise<CopyOutcome> {
  // Also before anything is written for a move that cannot be.
  await mayInsert(places.to.store, name)
  const { view } = from
  const there = UidSet.fromSorted(Uint32Array.from(uids).filter((uid) => view.rowOf(uid) >= 0))
  if (options.mustExist === true && there.size !== uids.size)
    throw new StoreError('STORE_EXPUNGED', 'some of the messages were expunged', { mailbox: from.name })
  if (there.isEmpty) return { uidValidity: 0, source: there, destination: there }
  const { moves } = places.from
  const id = await from.beginMove(there, places.to.key)
  const arrival = { id, from: places.from.key }
  let outcome: CopyOutcome
  try {
    outcome = await copyToOther(from, there, { store: places.to.store, mailbox: name }, { mustExist: true, arrival })
  } catch (error) {
    // Where it cannot be told whether they came, the intent stays, and recovery finds out.
    if (!(error instanceof StoreError && error.code === 'STORE_UNCERTAIN')) await moves.settle(id, false)
    throw error
  }
  await moves.settle(id, true)
  await places.to.moves.forget(id)
  return outcome
}

/** UIDs are for those who may read (RFC 4315 §4). */
export function mayKnowUids(store: StoreSession, name: string): boolean {
  return ((store.mailbox(name)?.rights ?? 0) & RIGHT_READ) !== 0
}

/** STORE_DENIED, STORE_NO_MAILBOX. */
async function mayInsert(store: StoreSession, name: string): Promise<void> {
  if (store.mailbox(name) === undefined) await store.refresh()
  const rights = store.mailbox(name)?.rights ?? 0
  if ((rights & RIGHT_INSERT) !== 0) return
  const code = (rights & RIGHT_LOOKUP) === 0 ? 'STORE_NO_MAILBOX' : 'STORE_DENIED'
  throw new StoreError(code, 'messages cannot be put there', { mailbox: name })
}
