import fc from 'fast-check'
import { describe, test } from 'vitest'
import { depth, say } from '../../../../tests/support/depth.ts'
import { Acl } from './acl.ts'
import { parseLine } from './line.ts'
import { type AclEntry, type AclList, aclList, type BrokenLine } from './list.ts'
import { formatRights, parseRights } from './rights.ts'
import { ANONYMOUS, type Subject, subjectOf } from './subject.ts'

/** A line of a list as text, and the list it is of: `local`, or `global`. */
interface Line {
  readonly text: string
  readonly global: boolean
}

/**
 * An evaluator that shares nothing with the engine: it takes lines apart by itself, sorts them, and walks them with sets of
 * letters, as the description of Dovecot's algorithm goes.
 */
function bruteForce(
  lines: readonly Line[],
  subject: Subject,
  owner: boolean,
  fallback = new Set<string>(),
): Set<string> {
  const order = ['anyone', 'authenticated', 'domain', 'group', 'owner', 'user', 'group-override']
  interface Row {
    readonly global: boolean
    readonly kind: number
    readonly name: string
    give: Set<string> | undefined
    deny: Set<string> | undefined
  }
  const rows: Row[] = []
  for (const { text, global } of lines) {
    const [first, letters] = text.split(' ') as [string, string]
    const negative = first.startsWith('-')
    const [kindName, name = ''] = (negative ? first.slice(1) : first).split('=') as [string, string?]
    const kind = order.indexOf(kindName)
    let row = rows.find((one) => one.global === global && one.kind === kind && one.name === name)
    if (row === undefined) rows.push((row = { global, kind, name, give: undefined, deny: undefined }))
    const half = negative ? 'deny' : 'give'
    row[half] = new Set([...(row[half] ?? []), ...letters.split('')])
  }
  rows.sort(
    (a, b) =>
      Number(a.global) - Number(b.global) || a.kind - b.kind || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0),
  )
  let start = 0
  let given: Set<string> | undefined
  let denied = new Set<string>()
  if (owner) {
    while (start < rows.length && rows[start]!.kind < 4 && !rows[start]!.global) start++
    given = new Set('lrwstipekxa'.split(''))
  }
  let before: Row | undefined
  let seenGlobal = false
  for (const row of rows.slice(start)) {
    const { user } = subject
    const matches = [
      true,
      user !== '',
      user.includes('@') && user.split('@')[1] === row.name,
      subject.groups.includes(row.name),
      owner,
      user !== '' && user === row.name,
      subject.groups.includes(row.name),
    ][row.kind]
    if (matches !== true) continue
    const replaces = before === undefined || before.kind !== row.kind || before.global !== row.global
    before = row
    given ??= new Set()
    if (row.global && !seenGlobal) {
      seenGlobal = true
      denied = new Set()
    }
    if (row.give !== undefined) given = replaces ? row.give : new Set([...given, ...row.give])
    if (row.deny !== undefined) denied = replaces ? row.deny : new Set([...denied, ...row.deny])
  }
  return new Set([...(given ?? fallback)].filter((right) => !denied.has(right)))
}

const IDENTIFIERS = [
  'anyone',
  'authenticated',
  'domain=d',
  'owner',
  'user=a@d',
  'user=b',
  'group=g',
  'group=h',
  'group-override=g',
  'group-override=h',
]

interface Asker {
  readonly subject: Subject
  readonly owned: boolean
}

/** Both users and nobody, in every set of groups; a@d owns the mailbox, or nobody does. */
const ASKERS: readonly Asker[] = [false, true].flatMap((owned) => [
  { subject: ANONYMOUS, owned },
  ...['a@d', 'b'].flatMap((user) =>
    [[], ['g'], ['h'], ['g', 'h']].map((groups) => ({ subject: subjectOf(user, groups), owned })),
  ),
])

function linesOf(letters: readonly string[]): Line[] {
  return [false, true].flatMap((global) =>
    IDENTIFIERS.flatMap((identifier) =>
      ['', '-'].flatMap((sign) => letters.map((rights) => ({ text: `${sign}${identifier} ${rights}`, global }))),
    ),
  )
}

function listOf(lines: readonly string[]): AclList {
  const entries: AclEntry[] = []
  const broken: BrokenLine[] = []
  for (const text of lines) {
    const read = parseLine(text)
    if ('entry' in read) entries.push(read.entry)
    else broken.push({ text, ...read.broken })
  }
  return aclList(entries, broken)
}

function aclOf(lines: readonly Line[], owner?: string, defaults?: Acl): Acl {
  const texts = (global: boolean): string[] => lines.filter((line) => line.global === global).map(({ text }) => text)
  return new Acl({
    owner,
    local: listOf(texts(false)),
    global: [{ list: listOf(texts(true)), global: true, label: 'global' }],
    defaults,
  })
}

/** Every set of up to `size` of them. */
function* sets(lines: readonly Line[], size: number, from = 0): Generator<Line[]> {
  yield []
  if (size === 0) return
  for (let at = from; at < lines.length; at++)
    for (const rest of sets(lines, size - 1, at + 1)) yield [lines[at]!, ...rest]
}

function agree(lines: readonly Line[]): number {
  const acls = [aclOf(lines), aclOf(lines, 'a@d')]
  for (const { subject, owned } of ASKERS) {
    const owner = owned && subject.user === 'a@d'
    const rights = acls[Number(owned)]!.rightsFor(subject)
    const expected = parseRights([...bruteForce(lines, subject, owner)].join(''))
    if (rights !== expected)
      throw new Error(
        `${JSON.stringify(lines)} for ${JSON.stringify(subject)}${owner ? ' (owner)' : ''}: ${formatRights(rights)}, not ${formatRights(expected)}`,
      )
  }
  return ASKERS.length
}

describe('the engine', () => {
  test('agrees with another evaluator on every list of a small world', () => {
    const deep = depth() !== 'normal'
    let lists = 0
    let evaluations = 0
    // All subsets of two rights in short lists, and one right in longer ones.
    for (const [lines, size] of [
      [linesOf(['', 'l', 'r', 'lr']), deep ? 3 : 2],
      [linesOf(['l']), deep ? 4 : 3],
    ] as const)
      for (const list of sets(lines, size)) {
        evaluations += agree(list)
        lists++
      }
    say(`access lists: ${lists} lists, ${evaluations} evaluations agree`)
  })

  test('agrees with another evaluator on long lists', () => {
    const line = fc.constantFrom(...linesOf(['', 'l', 'r', 'w', 'lr', 'lw', 'rw', 'lrw']))
    fc.assert(
      fc.property(fc.array(line, { maxLength: 20 }), (lines) => {
        agree(lines)
      }),
      { numRuns: depth() === 'normal' ? 2000 : 20_000 },
    )
  })
})
