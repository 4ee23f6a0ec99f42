/**
 * The global file: lists for mailboxes by patterns of their names, which beat what mailboxes say themselves.
 *
 * A mailbox may have several names, by whom it is reached. All lines whose pattern matches one of them apply. Those of one precedence make one list; 0 and more come after the mailbox's own list, and bind the
 * owner too (0 is Dovecot's global file), negative ones before it: what mailboxes have that say nothing else.
 *
 * Lines with a plain name are found by it, others by the text before their first wildcard. So a name costs what lines may match it
 * cost, however many others there are. Any bytes are a file; broken lines are reported, and deny (global-line.ts).
 */
import { createHash } from 'node:crypto'
import { type AclFinding, Findings, keepBroken, linesOf, oddity } from './acl-file.ts'
import {
  bindEntry,
  captureLevels,
  type GlobalLine,
  type GlobalPattern,
  parseGlobalLine,
  PRECEDENCE_MAX,
  UNREAD_LINES,
} from './global-line.ts'
import type { AclLayer } from './layer.ts'
import { ACL_ENTRIES_MAX, type AclEntry, aclList, type BrokenLine } from './list.ts'
import { MatchedName } from './pattern.ts'

/** Lists that are kept for the next mailbox to which the same lines apply. */
const KEPT_MAX = 1000
/** Lists of more lines are not kept. */
const KEPT_LINES_MAX = 64

interface NumberedLine extends GlobalLine {
  readonly number: number
  readonly origin: string
}

export class GlobalAcl {
  /** What somebody should look at, in the order of the lines. */
  readonly findings: readonly AclFinding[]
  /** Lines that say something, broken ones included. */
  readonly size: number
  /** The same for files that say the same, also after a restart. */
  readonly digest: string
  readonly #exact = new Map<string, NumberedLine[]>()
  readonly #byPrefix = new Map<string, NumberedLine[]>()
  /** Lengths of the keys of #byPrefix, ascending. */
  readonly #lengths: readonly number[]
  readonly #kept = new Map<string, readonly AclLayer[]>()

  /** Reads a file's bytes. Never fails. `name` is what entries say they come from. (default `global-acl`) */
  constructor(bytes: Uint8Array, name = 'global-acl') {
    this.digest = createHash('sha256').update(bytes).digest('hex').slice(0, 32)
    const report = new Findings(name)
    let size = 0
    for (const { line: number, text } of linesOf(bytes, report)) {
      const origin = `${name}:${number}`
      if (size === ACL_ENTRIES_MAX) {
        report.add(number, text, `it has more than ${ACL_ENTRIES_MAX} lines`, 'broken')
        this.#add({ ...UNREAD_LINES, number, origin })
        break
      }
      size++
      const line = parseGlobalLine(text)
      this.#add({ ...line, number, origin })
      const odd = line.entry === undefined ? undefined : (oddity(line.entry) ?? unbound(line.entry, line.pattern))
      if (line.broken !== undefined) report.add(number, text, line.broken.problem, 'broken')
      else if (odd !== undefined) report.add(number, text, odd, 'odd')
    }
    if (report.cut) this.#add({ ...UNREAD_LINES, number: Number.MAX_SAFE_INTEGER, origin: name })
    this.size = size
    this.findings = report.list
    this.#lengths = [...new Set(Array.from(this.#byPrefix.keys(), (prefix) => prefix.length))].sort((a, b) => a - b)
  }

  #add(line: NumberedLine): void {
    const { prefix, exact } = line.pattern
    const lines = exact ? this.#exact : this.#byPrefix
    const same = lines.get(prefix)
    if (same === undefined) lines.set(prefix, [line])
    else same.push(line)
  }

  /**
   * What the file says of a mailbox, for `AclOptions.global`: lists by precedence, none that says nothing. The names are whole and as
   * clients see them, the prefix of the namespace included; of a mailbox that clients know by several names all of them. A line that
   * matches more than one applies once (with variables: once for each of what they stand for). Mailboxes to which the same lines apply get
   * the same lists.
   */
  layersFor(...names: readonly string[]): readonly AclLayer[] {
    const lines = this.#matching(names)
    if (lines.length === 0) return []
    const plain = lines.length <= KEPT_LINES_MAX && lines.every(({ line }) => line.pattern.levels.length === 0)
    const key = plain ? lines.map(({ line }) => line.number).join() : ''
    const kept = plain ? this.#kept.get(key) : undefined
    if (kept !== undefined) return kept
    const layers = layersOf(lines)
    if (plain) {
      if (this.#kept.size === KEPT_MAX) this.#kept.clear()
      this.#kept.set(key, layers)
    }
    return layers
  }

  #matching(names: readonly string[]): Match[] {
    const found: Match[] = []
    for (const name of names) this.#addMatching(name, found)
    if (names.length > 1) dropSame(found)
    return found.sort((a, b) => a.line.number - b.line.number)
  }

  #addMatching(name: string, found: Match[]): void {
    for (const line of this.#exact.get(name) ?? []) found.push({ line, values: NONE })
    let matched: MatchedName | undefined
    for (const length of this.#lengths) {
      if (length > name.length) break
      for (const line of this.#byPrefix.get(name.slice(0, length)) ?? []) {
        const { pattern } = line
        if (pattern.levels.length === 0) {
          matched ??= new MatchedName(name)
          if (matched.matches(pattern.whole)) found.push({ line, values: NONE })
          continue
        }
        const captured = captureLevels(pattern, name)
        if (captured === undefined || !new MatchedName(name.slice(captured.at)).matches(pattern.rest)) continue
        found.push({ line, values: captured.values })
      }
    }
  }
}

const NONE: ReadonlyMap<string, string> = new Map()

/** Leaves one of each line for what its variables stand for. */
function dropSame(matches: Match[]): void {
  const seen = new Set<string>()
  let kept = 0
  for (const match of matches) {
    const { line, values } = match
    const key = values.size === 0 ? `${line.number}` : `${line.number} ${JSON.stringify([...values])}`
    if (seen.has(key)) continue
    seen.add(key)
    matches[kept++] = match
  }
  matches.length = kept
}

interface Match {
  readonly line: NumberedLine
  readonly values: ReadonlyMap<string, string>
}

function layersOf(matches: readonly Match[]): AclLayer[] {
  const byPrecedence = new Map<number, { entries: AclEntry[]; broken: BrokenLine[] }>()
  for (const { line, values } of matches) {
    const { precedence, origin } = line
    let list = byPrecedence.get(precedence)
    if (list === undefined) byPrecedence.set(precedence, (list = { entries: [], broken: [] }))
    if (line.broken !== undefined) keepBroken(list.broken, { ...line.broken, origin })
    const entry = line.entry === undefined ? undefined : bindEntry(line.entry, values)
    if (entry !== undefined) list.entries.push({ ...entry, origin })
  }
  return [...byPrecedence]
    .sort(([a], [b]) => a - b)
    .map(([precedence, { entries, broken }]) => ({
      list: aclList(entries, broken),
      global: precedence >= 0,
      label: precedence === 0 ? 'global' : precedence > PRECEDENCE_MAX ? 'global, broken' : `global @${precedence}`,
    }))
    .filter(({ list }) => list.entries.length > 0 || list.broken.length > 0)
}

/** A variable in an identifier for which the pattern has no value: nobody is called so, as a rule. */
function unbound({ name }: AclEntry, { levels }: GlobalPattern): string | undefined {
  const text = name.match(/%[und]/g)?.find((one) => levels.every(({ variable }) => one !== `%${variable}`))
  return text === undefined ? undefined : `${text} is no level of the pattern, and part of the name here`
}
