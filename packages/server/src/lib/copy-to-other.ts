/**
 * COPY into another store: the bytes are read and saved again, in one frame of that store, which is durable before anything is told
 * (the destination first). Flags, keywords and the date go with them, as far as the rights there allow.
 */
import type { FixedColumn } from '@mailstead/index'
import { type CopyOptions, type CopyOutcome, type Mailbox, StoreError, type StoreSession } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'

/** Fails as `Mailbox.copy` does. Nothing is kept unless all is. */
export async function copyToOther(
  from: Mailbox,
  uids: UidSet,
  to: StoreSession,
  name: string,
  options: CopyOptions,
): Promise<CopyOutcome> {
  const { view } = from
  await view.load(['received', 'box', 'size', 'form', 'guid'])
  const received: FixedColumn = view.extension('received')!
  const copied: number[] = []
  await using batch = to.save()
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
  const saved = await batch.commit()
  const destination = Uint32Array.from(saved, ({ uid }) => uid)
  return {
    uidValidity: saved[0]?.uidValidity ?? 0,
    source: UidSet.fromSorted(Uint32Array.from(copied)),
    destination: UidSet.fromSorted(destination),
  }
}
