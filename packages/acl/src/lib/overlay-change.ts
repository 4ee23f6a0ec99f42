/** A change of flags, split by what is private, and the rows that the private part changes. */
import type { FlagChange, TableView } from '@mailstead/index'
import { type UidSet, UidSetBuilder } from '@mailstead/uidset'
import type { PrivacyRules } from './private-policy.ts'

export interface SplitChange {
  /** Undefined if nothing private is meant. */
  readonly own: FlagChange | undefined
  readonly shared: FlagChange
}

const ALL_FLAGS = 0xff

/**
 * `view`: what is replaced is what it has. A replacement becomes additions and removals, so that the shared row's own
 * private bits, which nobody but the policy looks at, stay as they are.
 */
export function splitChange(rules: PrivacyRules, change: FlagChange, view: TableView): SplitChange {
  if (rules.isShared) return { own: undefined, shared: change }
  const { mask } = rules
  const { add = 0, addKeywords = [], replace = false } = change
  const remove = (replace ? ALL_FLAGS : (change.remove ?? 0)) & ~add
  const removeKeywords = replace ? others(view.keywords, addKeywords) : (change.removeKeywords ?? [])
  const isPrivate = (name: string): boolean => rules.isPrivate(name)
  const isShared = (name: string): boolean => !rules.isPrivate(name)
  const own = {
    add: add & mask,
    remove: remove & mask,
    addKeywords: addKeywords.filter(isPrivate),
    removeKeywords: removeKeywords.filter(isPrivate),
  }
  const shared = {
    add: add & ~mask,
    remove: remove & ~mask,
    addKeywords: addKeywords.filter(isShared),
    removeKeywords: removeKeywords.filter(isShared),
  }
  return { own: isEmptyChange(own) && !replace ? undefined : own, shared }
}

export function isEmptyChange(change: FlagChange): boolean {
  return (
    (change.add ?? 0) === 0 &&
    (change.remove ?? 0) === 0 &&
    (change.addKeywords ?? []).length === 0 &&
    (change.removeKeywords ?? []).length === 0 &&
    change.replace !== true
  )
}

export interface RowsToChange {
  /** Rows that are there and were not changed since. */
  readonly allowed: UidSet
  /** Of these, the ones whose private flags would be others. */
  readonly changed: UidSet
  /** The rest. */
  readonly failed: UidSet
}

export function rowsToChange(
  view: TableView,
  rules: PrivacyRules,
  uids: UidSet,
  own: FlagChange,
  unchangedSince: number,
): RowsToChange {
  const add = own.add ?? 0
  const remove = own.remove ?? 0
  const changes = setsThatChange(view, own)
  const allowed = new UidSetBuilder()
  const changed = new UidSetBuilder()
  const { ranges } = uids
  for (let r = 0; r < ranges.length; r += 2) {
    const end = ranges[r + 1]! === 0xffff_ffff ? view.count : view.rowsBelow(ranges[r + 1]! + 1)
    for (let row = view.rowsBelow(ranges[r]!); row < end; row++) {
      if (view.modSeq(row) > unchangedSince) continue
      const uid = view.uid(row)
      allowed.add(uid)
      const flags = view.flags(row) & rules.mask
      if (((flags & ~remove) | add) !== flags || changes[view.keywordSet(row)] === 1) changed.add(uid)
    }
  }
  const permitted = allowed.build()
  return { allowed: permitted, changed: changed.build(), failed: uids.subtract(permitted) }
}

/** For each set of keywords, whether adding and removing these makes another of it. */
function setsThatChange(view: TableView, { addKeywords = [], removeKeywords = [] }: FlagChange): Uint8Array {
  const { keywordSets, keywords } = view
  const changes = new Uint8Array(keywordSets.length)
  if (addKeywords.length === 0 && removeKeywords.length === 0) return changes
  const added = addKeywords.map(lower)
  const removed = new Set(removeKeywords.map(lower))
  for (let set = 0; set < changes.length; set++) {
    const names = new Set(keywordSets[set]!.map((k) => keywords[k]!.toLowerCase()))
    const grows = added.some((name) => !names.has(name) && !removed.has(name))
    if (grows || [...removed].some((name) => names.has(name))) changes[set] = 1
  }
  return changes
}

/** Names of `all` that are not among `named`, whatever their case. */
export function others(all: readonly string[], named: readonly string[]): readonly string[] {
  const kept = new Set(named.map(lower))
  return all.filter((name) => !kept.has(name.toLowerCase()))
}

function lower(name: string): string {
  return name.toLowerCase()
}
