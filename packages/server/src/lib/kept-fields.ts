/** The derived fields that are computed when a message is kept, and of which messages a mailbox keeps them before use decides. */
import { imapCacheFields } from '@mailstead/imap/cache-fields'
import type { CacheField, StoreOptions } from '@mailstead/store'

/**
 * What every client fetches is kept of every message. What SEARCH, SORT and THREAD look at is kept of new ones, and of all
 * once somebody searches them; BODY without structure only where somebody asks for it.
 */
const DECISIONS: Readonly<Record<string, CacheField['decision']>> = {
  'imap.body': 'no',
  search: 'temp',
  sort: 'temp',
  thread: 'temp',
}

export const keptFields: NonNullable<StoreOptions['cacheFields']> = imapCacheFields.map(
  ({ name, headerOnly, compute }) => ({
    name,
    headerOnly,
    decision: DECISIONS[name] ?? 'yes',
    compute,
  }),
)
