/**
 * What LIST-STATUS tells a user of a shared mailbox, from counters that both indexes keep: no table is opened.
 *
 * The user's table has a row for each message that it took in. If nothing was expunged since, the shared mailbox has
 * those and the new ones: as many more messages as UIDNEXT grew. Whenever the numbers do not come out so (somebody
 * expunged, or UIDs are missing among the new ones) only `OverlayTable.sync` can tell; after it they do.
 */
import { FLAG_DELETED, FLAG_SEEN, type TableInfo } from '@mailstead/index'
import { PrivacyRules, type PrivacyPolicy } from './private-policy.ts'

export interface PrivateStatus {
  readonly unseen: number
  readonly deleted: number
  readonly highestModSeq: number
}

/** Counters of the user's two tables; undefined where there is none. */
export interface PrivateInfos {
  readonly flags: TableInfo | undefined
  readonly order: TableInfo | undefined
}

/** Undefined: open the mailbox, `sync` it and ask again. */
export function privateStatus(
  shared: TableInfo,
  infos: PrivateInfos,
  policy: PrivacyPolicy | PrivacyRules,
): PrivateStatus | undefined {
  const rules = policy instanceof PrivacyRules ? policy : new PrivacyRules(policy)
  const { mask } = rules
  const { since = 0, initial } = rules.policy
  const isOwn = infos.flags?.uidValidity === shared.uidValidity && infos.order !== undefined
  const changes = isOwn ? infos.order!.uidNext - 1 : 0
  const highestModSeq = Math.max(shared.highestModSeq, since) + changes
  if (!isOwn || (mask & (FLAG_SEEN | FLAG_DELETED)) === 0) {
    const begins = initial === 'shared'
    return {
      unseen: begins || (mask & FLAG_SEEN) === 0 ? shared.unseen : shared.count,
      deleted: begins || (mask & FLAG_DELETED) === 0 ? shared.deleted : 0,
      highestModSeq,
    }
  }
  const flags = infos.flags!
  const arrived = shared.uidNext - flags.uidNext
  if (arrived < 0 || flags.count + arrived !== shared.count) return undefined
  if (initial === 'shared' && arrived > 0) return undefined
  // Written before the policy was: its rows may say nothing of a flag that is private now.
  if (flags.highestModSeq < since + changes) return undefined
  return {
    unseen: (mask & FLAG_SEEN) === 0 ? shared.unseen : flags.unseen + arrived,
    deleted: (mask & FLAG_DELETED) === 0 ? shared.deleted : flags.deleted,
    highestModSeq,
  }
}
