/** COPY and MOVE: within a store, or into another. */
import type { CopyOptions, CopyOutcome, Mailbox } from '@mailstead/store'
import type { UidSet } from '@mailstead/uidset'
import { copyToOther, mayKnowUids, moveToOther } from './copy-to-other.ts'
import type { Place } from './namespaces.ts'
import { mustExpunge, mustRead } from './selected-rights.ts'
import { storeCodeOf } from './store-errors.ts'

/** Where messages are taken from. */
export interface TransferSource {
  readonly mailbox: Mailbox
  readonly place: Place
  /** Where messages go: STORE_NO_MAILBOX. */
  readonly placeOf: (name: string) => Promise<Place>
}

export interface TransferOptions extends CopyOptions {
  readonly andExpunge: boolean
}

/**
 * What the user may know of it: undefined if nothing was copied, or he may not read there. Fails as `Mailbox.copy` and `move` do. What
 * is refused at this end, where rights may go meanwhile, is NOPERM or NONEXISTENT already.
 */
export async function transfer(
  { mailbox, place, placeOf }: TransferSource,
  uids: UidSet,
  to: string,
  { andExpunge, ...options }: TransferOptions,
): Promise<CopyOutcome | undefined> {
  try {
    using other = await placeOf(to)
    const name = to.slice(other.prefix.length)
    const outcome =
      other.prefix === place.prefix
        ? await (andExpunge ? mailbox.move(uids, name, options) : mailbox.copy(uids, name, options))
        : andExpunge
          ? await moveToOther(mailbox, uids, { from: place, to: other }, name, options)
          : await copyToOther(mailbox, uids, { store: other.store, mailbox: name }, options)
    return outcome.source.isEmpty || !mayKnowUids(other.store, name) ? undefined : outcome
  } catch (error) {
    // It is no reason to create the other mailbox.
    if (storeCodeOf(error) === 'STORE_NO_MAILBOX') (andExpunge ? mustExpunge : mustRead)(mailbox.rights)
    throw error
  }
}
