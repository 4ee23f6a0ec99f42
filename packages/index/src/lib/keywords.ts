/**
 * The keywords of a table, interned: names by index, sets of names by index.
 *
 * INVARIANTS
 *   1. Names are compared without case (RFC 3501 §2.3.2); the spelling of the first use is kept.
 *   2. Indexes never change and nothing is removed: rows and frames refer to both by index.
 *   3. Set 0 is the empty set; the members of a set ascend.
 */

import { type Digest, NO_DIGEST, nameDigest } from './digest.ts'

export interface KeywordTable {
  readonly names: readonly string[]
  readonly sets: readonly (readonly number[])[]
  readonly nameIndex: ReadonlyMap<string, number>
  readonly setIndex: ReadonlyMap<string, number>
  /** What each set adds to the digest of a row. */
  readonly digests: readonly Digest[]
}

export const NO_KEYWORDS: KeywordTable = {
  names: [],
  sets: [[]],
  nameIndex: new Map(),
  setIndex: new Map([['', 0]]),
  digests: [NO_DIGEST],
}

/** Index of a name, or -1. */
export function findKeyword(table: KeywordTable, name: string): number {
  return table.nameIndex.get(name.toLowerCase()) ?? -1
}

/** Index of the set with these members (ascending), or -1. */
export function findSet(table: KeywordTable, members: readonly number[]): number {
  return table.setIndex.get(members.join(',')) ?? -1
}

/** The table with one more name at the end. */
export function withKeyword(table: KeywordTable, name: string): KeywordTable {
  return {
    ...table,
    names: [...table.names, name],
    nameIndex: new Map(table.nameIndex).set(name.toLowerCase(), table.names.length),
  }
}

/** The table with one more set at the end. */
export function withSet(table: KeywordTable, members: readonly number[]): KeywordTable {
  return {
    ...table,
    sets: [...table.sets, members],
    setIndex: new Map(table.setIndex).set(members.join(','), table.sets.length),
    digests: [...table.digests, setDigest(members, (member) => nameDigest(table.names[member]!))],
  }
}

/** The table of these names and sets, as a snapshot keeps them. */
export function keywordTable(names: readonly string[], sets: readonly (readonly number[])[]): KeywordTable {
  const digests = names.map(nameDigest)
  return {
    names,
    sets,
    nameIndex: new Map(names.map((name, at) => [name.toLowerCase(), at])),
    setIndex: new Map(sets.map((members, at) => [members.join(','), at])),
    digests: sets.map((members) => setDigest(members, (member) => digests[member] ?? NO_DIGEST)),
  }
}

function setDigest(members: readonly number[], digestOf: (member: number) => Digest): Digest {
  let low = 0
  let high = 0
  for (const member of members) {
    const name = digestOf(member)
    low = (low + name.low) | 0
    high = (high + name.high) | 0
  }
  return { low, high }
}
