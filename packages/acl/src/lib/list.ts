/**
 * The entries of one mailbox: what its owner and administrators set, and what is kept in the store's log.
 *
 * INVARIANTS
 *   1. Entries are sorted by precedence and name, each identifier once, and say something: `rights` or `denied` is there.
 *   2. Lists never change; `changeAcl` makes another. So what is compiled from one stays true (acl.ts).
 *   3. Broken lines are kept as they came. What they deny is read from their text each time (line.ts), never stored.
 */
import { AclError, shown } from './error.ts'
import { compareIdentifiers, type Identifier, isNamed, parseIdentifier, formatIdentifier } from './identifier.ts'
import { ALL_RIGHTS, rightOfName } from './rights.ts'

/** Most entries of one list. What has more is refused where it is made, and cut where it is read from a file. */
export const ACL_ENTRIES_MAX = 200_000

/** What a list says of one identifier. */
export interface AclEntry extends Identifier {
  /** Given. Undefined: nothing is said, and what entries of lower precedence gave stays; 0 takes it away. */
  readonly rights?: number | undefined
  /** Denied, whatever gives it: a negative entry. Undefined: nothing is said, and what others denied stays denied. */
  readonly denied?: number | undefined
  /** Names of rights that are none here, from files: written back, and otherwise without effect. */
  readonly otherRights?: readonly string[] | undefined
  readonly otherDenied?: readonly string[] | undefined
  /** Where it comes from, as `dovecot-acl:3`, for people. Not stored. */
  readonly origin?: string | undefined
}

/** A line that could not be read. */
export interface BrokenLine {
  /** As it came; of a long one the beginning. */
  readonly text: string
  /** Why, for people. */
  readonly problem: string
  readonly effect: BrokenEffect
  readonly origin?: string | undefined
}

/**
 * What a broken line does in the place of what it may have meant. With an identifier it counts as an entry of it that gives
 * nothing (a negative one: that denies everything). Without one (`illegible`) it may have meant anybody but the owner: nobody
 * else gets more than `rights` from entries before `group-override` and from defaults, and nobody else gets `denied`.
 */
export interface BrokenEffect {
  readonly kind: Identifier['kind'] | 'illegible'
  readonly name: string
  readonly rights?: number | undefined
  readonly denied?: number | undefined
}

export interface AclList {
  readonly entries: readonly AclEntry[]
  readonly broken: readonly BrokenLine[]
}

/** Says nothing about anybody. */
export const EMPTY_ACL: AclList = { entries: [], broken: [] }

/** A list of these, in order, entries of the same identifier merged (then both halves are said). Throws ACL_BAD_IDENTIFIER and ACL_LIMIT. */
export function aclList(entries: Iterable<AclEntry>, broken: readonly BrokenLine[] = []): AclList {
  const given = [...entries]
  for (const entry of given) checkEntry(entry)
  if (given.length > ACL_ENTRIES_MAX)
    throw new AclError('ACL_LIMIT', `${given.length} entries are more than ${ACL_ENTRIES_MAX}`)
  return { entries: merged(given), broken }
}

function merged(given: AclEntry[]): AclEntry[] {
  const sorted = given.filter(saysSomething).sort(compareIdentifiers)
  const entries: AclEntry[] = []
  for (const entry of sorted) {
    const last = entries.at(-1)
    if (last !== undefined && last.kind === entry.kind && last.name === entry.name)
      entries[entries.length - 1] = mergeEntries(last, entry)
    else entries.push(entry)
  }
  return entries
}

function saysSomething({ rights, denied }: AclEntry): boolean {
  return rights !== undefined || denied !== undefined
}

/** Two lines of one identifier. As in Dovecot, they say something of both halves: of one that neither has, that it is empty. */
function mergeEntries(a: AclEntry, b: AclEntry): AclEntry {
  return {
    kind: a.kind,
    name: a.name,
    rights: (a.rights ?? 0) | (b.rights ?? 0),
    denied: (a.denied ?? 0) | (b.denied ?? 0),
    otherRights: union(a.otherRights, b.otherRights),
    otherDenied: union(a.otherDenied, b.otherDenied),
    origin: a.origin === undefined || b.origin === undefined ? (a.origin ?? b.origin) : joined(a.origin, b.origin),
  }
}

function union(a: readonly string[] | undefined, b: readonly string[] | undefined): readonly string[] | undefined {
  if (a === undefined || b === undefined) return a ?? b
  return [...new Set([...a, ...b])].sort()
}

/** Longest text that says where an entry comes from. */
const ORIGIN_MAX = 100

function joined(a: string, b: string): string {
  return a.length + b.length < ORIGIN_MAX ? `${a}, ${b}` : a.endsWith('…') ? a : `${a}, …`
}

// Names that a line can hold: without blanks, commas, controls.
const otherName = /^[^\s,\p{Cc}\ufffd]+$/u

function checkEntry(entry: AclEntry): void {
  const read = parseIdentifier(formatIdentifier(entry))
  if (read === undefined || read.kind !== entry.kind || read.name !== entry.name)
    throw new AclError('ACL_BAD_IDENTIFIER', `${JSON.stringify(formatIdentifier(entry))} is no identifier`)
  for (const rights of [entry.rights, entry.denied])
    if (rights !== undefined && !(rights >= 0 && rights <= ALL_RIGHTS && rights % 1 === 0))
      throw new RangeError(`${rights} are no rights`)
  for (const names of [entry.otherRights ?? [], entry.otherDenied ?? []])
    for (const name of names)
      if (!otherName.test(name) || rightOfName(name) !== 0)
        throw new AclError('ACL_BAD_RIGHTS', `${shown(name)} is no name of an unknown right`)
}

/** `replace` sets them, `add` and `remove` change what is there, `clear` removes the whole half. As `+` and `-` of SETACL. */
export type AclChangeMode = 'replace' | 'add' | 'remove' | 'clear'

export interface AclChange {
  readonly identifier: Identifier
  /** Of the rights that are denied, not of those that are given. (default false) */
  readonly negative?: boolean
  readonly mode: AclChangeMode
  /** (default: none) */
  readonly rights?: number
}

/**
 * The list with one half of one entry changed, as SETACL and DELETEACL do. An entry stays with no rights when they were replaced or
 * removed (it takes away what entries before it give), and goes with `clear`. To remove from what is not there changes nothing. Broken
 * lines of the identifier go with the first change of it. Throws ACL_BAD_IDENTIFIER and ACL_LIMIT.
 */
export function changeAcl(list: AclList, change: AclChange): AclList {
  const { identifier, negative = false, mode, rights = 0 } = change
  const { kind } = identifier
  const name = isNamed(kind) ? identifier.name : ''
  const now = list.entries.find((entry) => entry.kind === kind && entry.name === name)
  const half = negative ? now?.denied : now?.rights
  const next =
    mode === 'clear'
      ? undefined
      : mode === 'replace'
        ? rights
        : mode === 'add'
          ? (half ?? 0) | rights
          : half === undefined
            ? undefined
            : half & ~rights
  const other = mode === 'add' || mode === 'remove'
  const changed: AclEntry = negative
    ? {
        kind,
        name,
        rights: now?.rights,
        otherRights: now?.otherRights,
        denied: next,
        otherDenied: other ? now?.otherDenied : undefined,
      }
    : {
        kind,
        name,
        denied: now?.denied,
        otherDenied: now?.otherDenied,
        rights: next,
        otherRights: other ? now?.otherRights : undefined,
      }
  return aclList(
    [...list.entries.filter((entry) => entry !== now), changed],
    list.broken.filter(({ effect }) => effect.kind !== kind || effect.name !== name),
  )
}

/** The list without any of its broken lines: what they denied is not denied any more. */
export function withoutBroken(list: AclList): AclList {
  return { entries: list.entries, broken: [] }
}

/**
 * What a new mailbox begins with: a copy of what its nearest existing ancestor has, and without one of what the default mailbox has
 * (as Dovecot: an ancestor without entries gives none, and later changes of either do not reach the copy).
 */
export function inheritedAcl(ancestor: AclList | undefined, defaults: AclList = EMPTY_ACL): AclList {
  return ancestor ?? defaults
}
