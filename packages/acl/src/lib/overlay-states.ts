/** Flags of messages, gathered by what they are: what is copied, exported, brought back. */
import type { FlagChange, TableView } from '@mailstead/index'
import { UidSet, UidSetBuilder } from '@mailstead/uidset'
import { others } from './overlay-change.ts'
import type { PrivacyRules } from './private-policy.ts'
import type { PrivateChange } from './private-write.ts'

/** Messages that have the same flags. */
export interface FlagState {
  readonly uids: UidSet
  /** System flags, as bits. */
  readonly flags: number
  readonly keywords: readonly string[]
}

const ALL_UIDS: UidSet = UidSet.range(1, 2 ** 32 - 2)

/** Flags and keywords as a view has them. */
export function statesOf(view: TableView, uids: UidSet = ALL_UIDS): readonly FlagState[] {
  const groups = new Map<number, { readonly uids: UidSetBuilder; readonly flags: number; readonly set: number }>()
  const { ranges } = uids
  for (let r = 0; r < ranges.length; r += 2) {
    const end = view.rowsBelow(ranges[r + 1]! + 1)
    for (let row = view.rowsBelow(ranges[r]!); row < end; row++) {
      const flags = view.flags(row)
      const set = view.keywordSet(row)
      const key = set * 256 + flags
      let group = groups.get(key)
      if (group === undefined) groups.set(key, (group = { uids: new UidSetBuilder(), flags, set }))
      group.uids.add(view.uid(row))
    }
  }
  const { keywords, keywordSets } = view
  return [...groups.values()].map((group) => ({
    uids: group.uids.build(),
    flags: group.flags,
    keywords: keywordSets[group.set]!.map((k) => keywords[k]!),
  }))
}

/** States of the copies of messages: the same flags under other UIDs. Both sets ascend, and are as long. */
export function copiedStates(source: TableView, from: UidSet, to: UidSet): readonly FlagState[] {
  if (from.size !== to.size) throw new RangeError(`${to.size} copies of ${from.size} messages`)
  const copies = to[Symbol.iterator]()
  const copyOf = new Map<number, number>()
  for (const uid of from) copyOf.set(uid, copies.next().value as number)
  return statesOf(source, from).map(({ uids, flags, keywords }) => {
    const other = new UidSetBuilder()
    for (const uid of uids) other.add(copyOf.get(uid)!)
    return { uids: other.build(), flags, keywords }
  })
}

/** Some of the flags and keywords that there are. */
export interface SomeFlags {
  /** System flags, as bits. */
  readonly mask: number
  isPrivate(keyword: string): boolean
}

/** What is to be changed so that messages have exactly these private flags. What is not of `rules` stays as it is. */
export function toAssign(view: TableView, rules: SomeFlags, states: readonly FlagState[]): PrivateChange[] {
  const changes: PrivateChange[] = []
  for (const { uids, flags, keywords } of states) {
    const wanted = keywords.filter((name) => rules.isPrivate(name))
    const change: FlagChange = {
      add: flags & rules.mask,
      remove: rules.mask & ~flags,
      addKeywords: wanted,
      removeKeywords: others(view.keywords, wanted).filter((name) => rules.isPrivate(name)),
    }
    const different = new UidSetBuilder()
    const names = wanted.map((name) => name.toLowerCase()).sort()
    for (const state of statesOf(view, uids)) {
      const has = state.keywords.filter((name) => rules.isPrivate(name)).map((name) => name.toLowerCase())
      const same = ((state.flags ^ flags) & rules.mask) === 0 && has.sort().join(' ') === names.join(' ')
      if (!same) for (const uid of state.uids) different.add(uid)
    }
    const set = different.build()
    if (!set.isEmpty) changes.push({ uids: set, change })
  }
  return changes
}

/** What takes a private change back: the messages have again what they had in `before`. */
export function restoring(before: TableView, rules: PrivacyRules, uids: UidSet, change: FlagChange): PrivateChange[] {
  return statesOf(before, uids).map((state) => {
    const had = state.keywords.filter((name) => rules.isPrivate(name))
    return {
      uids: state.uids,
      change: {
        add: state.flags & rules.mask,
        remove: rules.mask & ~state.flags,
        addKeywords: had,
        removeKeywords: others(change.addKeywords ?? [], had),
      },
    }
  })
}
