/**
 * What a ledger says of the access to mailboxes, where the tree has lost something; and mailboxes that are closed, because nothing says
 * who might see them.
 *
 * A closed mailbox has a list that gives nobody anything, and a mark: as long as that is there, nobody but the owner has any right,
 * whatever lists of the store or a global file say. Who changes the list takes the mark away.
 */
import { aclList, encodeAcl } from '@mailstead/acl'
import type { LedgerState } from './ledger-format.ts'
import { aclKey, closedKey, decodeNumber, KEY_VERSION, mailboxKey, settingKeys } from './tree.ts'

type Values = ReadonlyMap<string, Uint8Array>
/** Of values of the tree; undefined: it goes. */
export type ValueChanges = readonly (readonly [key: string, value: Uint8Array | undefined])[]

/** So that who gives somebody rights gives them to nobody else. Must not change: on disk. */
export const CLOSED_LIST: Uint8Array = encodeAcl(
  aclList([{ kind: 'anyone', name: '', rights: 0, denied: undefined }], []),
)
const NOTHING = new Uint8Array(0)

/** What closes a mailbox; GUID '': those that have no list, and the top. */
export function closing(guid: string, values: Values): ValueChanges {
  return differing(values, [
    [aclKey(guid), CLOSED_LIST],
    [closedKey(guid), NOTHING],
  ])
}

/** What makes the access to a mailbox that which the ledger says. */
export function restoring(guid: string, values: Values, ledger: LedgerState): ValueChanges {
  return differing(
    values,
    settingKeys(guid).map((key) => [key, ledger.values.get(key)]),
  )
}

/**
 * What makes the access to a mailbox, in a tree that lost something or is older than the ledger, that which is surely no more than it was: the
 * ledger's. Where that is older than the tree, what both say is so; what they say differently, or the ledger not at all, nobody knows.
 */
export function ascertaining(guid: string, values: Values, ledger: LedgerState | undefined): ValueChanges {
  const isKnown = ledger !== undefined && (guid === '' || ledger.values.has(mailboxKey(guid)))
  if (!isKnown) return closing(guid, values)
  const changes = restoring(guid, values, ledger)
  const isNewest = ledger.version >= decodeNumber(values.get(KEY_VERSION))
  return isNewest || changes.length === 0 ? changes : closing(guid, values)
}

/** Whether two mailboxes are shown to the same people, as far as lists say, with the same flags. */
export function isAlike(values: Values, one: string, other: string): boolean {
  for (const keyOf of ALIKE) if (!isSame(values.get(keyOf(one)), values.get(keyOf(other)))) return false
  return true
}

const ALIKE = [aclKey, closedKey] as const

function differing(values: Values, changes: ValueChanges): ValueChanges {
  return changes.filter(([key, value]) => !isSame(values.get(key), value))
}

export function isSame(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  return a === b || (a !== undefined && b !== undefined && Buffer.compare(a, b) === 0)
}
