import { getHeapStatistics } from 'node:v8'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { depth, runSeed, sample, say, seeded } from '../../../../tests/support/depth.ts'
import { Acl } from './acl.ts'
import { type AclDecision, explainAcl } from './explain.ts'
import { parseLine } from './line.ts'
import { type AclEntry, type AclList, aclList, type BrokenLine } from './list.ts'
import { ALL_RIGHTS, formatRights, LOOKUP, parseRights, READ, WRITE } from './rights.ts'
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
    else {
      // Merging two lines makes lists of both halves.
      row.give ??= new Set()
      row.deny ??= new Set()
    }
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

/** What an explanation says, as one line for each right that anything decided. */
function decided(decisions: readonly AclDecision[]): string[] {
  return decisions
    .filter(({ by }) => by !== 'nothing')
    .map(({ right, granted, by }) => {
      const step = typeof by === 'string' ? by : `${by.list} ${by.text.replaceAll('\n', ' | ')}`
      return `${granted ? '+' : '-'}${right}: ${step}`
    })
}

/** The letters that every one of these lists gives. */
function meet(readings: readonly (readonly Line[])[], subject: Subject, owner: boolean): number {
  let rights = ALL_RIGHTS
  for (const lines of readings) rights &= parseRights([...bruteForce(lines, subject, owner)].join(''))
  return rights
}

/** A broken line, and every line that it may have been. */
interface Damage {
  readonly text: string
  readonly readings: readonly string[]
}

function damagesOf(): Damage[] {
  const letters = ['', 'l', 'r', 'lr']
  const everybody = [...IDENTIFIERS, 'group=0', 'group-override=0', 'user=nobody']
  const damages: Damage[] = []
  for (const sign of ['', '-']) {
    for (const identifier of IDENTIFIERS)
      damages.push({
        text: `${sign}${identifier} lQ`,
        readings: letters.map((rights) => `${sign}${identifier} ${rights}`),
      })
    for (const rights of letters)
      damages.push({ text: `${sign}usr=x ${rights}`, readings: everybody.map((who) => `${sign}${who} ${rights}`) })
    damages.push({
      text: `${sign}usr=x lQ`,
      readings: everybody.flatMap((who) => letters.map((rights) => `${sign}${who} ${rights}`)),
    })
  }
  // A dash that is none, and a quote that is not closed.
  damages.push({
    text: '\u2013user=x l',
    readings: everybody.flatMap((who) => [`${who} l`, `-${who} l`]),
  })
  damages.push({
    text: '"-user=x l',
    readings: everybody.flatMap((who) => letters.map((rights) => `-${who} ${rights}`)),
  })
  return damages
}

describe('the engine', () => {
  test('agrees with another evaluator on every list of a small world', () => {
    let lists = 0
    let evaluations = 0
    // All subsets of two rights in short lists, fewer in longer ones.
    const [most, some, least] = { normal: [2, 2, 3], ci: [2, 3, 4], soak: [3, 4, 5] }[depth()] as [
      number,
      number,
      number,
    ]
    for (const [lines, size] of [
      [linesOf(['', 'l', 'r', 'lr']), most],
      [linesOf(['l', 'lr']), some],
      [linesOf(['l']), least],
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

  test('explains each right as it decides it', () => {
    const line = fc.constantFrom(...linesOf(['', 'l', 'r', 'w', 'lr', 'lw', 'rw', 'lrw']))
    const broken = fc.constantFrom(...damagesOf().map(({ text }) => ({ text, global: false })))
    fc.assert(
      fc.property(
        fc.array(fc.oneof(line, line, line, broken), { maxLength: 12 }),
        fc.array(line, { maxLength: 3 }),
        (lines, defaults) => {
          const fallback = aclOf(defaults)
          const acls = [aclOf(lines, undefined, fallback), aclOf(lines, 'a@d', fallback)]
          for (const { subject, owned } of ASKERS) {
            const acl = acls[Number(owned)]!
            const explained = explainAcl(acl, subject)
            expect(explained.rights).toBe(acl.rightsFor(subject))
            for (const [bit, { granted, by }] of explained.decisions.entries()) {
              expect(granted).toBe((explained.rights & (1 << bit)) !== 0)
              if (granted) expect(by).not.toBe('nothing')
            }
          }
        },
      ),
      { numRuns: depth() === 'normal' ? 300 : 5000 },
    )
  })

  test('says which line decided', () => {
    const acl = new Acl({
      owner: 'ann',
      local: listOf(['anyone lr', 'group=staff lrws', '-user=bob w', 'user=eve lrQ']),
      global: [{ list: listOf(['authenticated lr', '-group=staff r']), global: true, label: 'global' }],
      defaults: new Acl({ local: listOf(['anyone l']) }),
    })
    expect(decided(explainAcl(acl, subjectOf('bob', ['staff'])).decisions)).toEqual([
      '+lookup: global authenticated lr',
      '-read: global -group=staff r',
      '-write: global authenticated lr',
      '-write-seen: global authenticated lr',
    ])
    expect(
      decided(explainAcl(new Acl({ owner: 'ann', local: acl.local }), subjectOf('bob', ['staff'])).decisions),
    ).toEqual([
      '+lookup: local group=staff lrws',
      '+read: local group=staff lrws',
      '-write: local -user=bob w',
      '+write-seen: local group=staff lrws',
    ])
    const eve = explainAcl(new Acl({ local: acl.local }), subjectOf('eve'))
    expect(eve.rights).toBe(0)
    expect(decided(eve.decisions)).toEqual(['-lookup: local user=eve lrQ', '-read: local user=eve lrQ'])
    expect(eve.steps.at(-1)).toMatchObject({ effect: 'replaced', problem: '"Q" is no right' })
    const byDefault = explainAcl(new Acl({ local: listOf(['user=bob lr']), defaults: acl.defaults }), ANONYMOUS)
    expect(byDefault.byDefault).toBe(true)
    expect(decided(byDefault.decisions)).toEqual(['+lookup: default: local anyone l'])
    expect(decided(explainAcl(acl, subjectOf('ann')).decisions).slice(0, 3)).toEqual([
      '+lookup: global authenticated lr',
      '+read: global authenticated lr',
      '-write: global authenticated lr',
    ])
  })

  test('asks the default mailbox only where no entry applies, and never for the owner', () => {
    const defaults = new Acl({ owner: 'ann', local: listOf(['anyone lr', 'owner l']) })
    const acl = new Acl({ owner: 'ann', local: listOf(['user=bob lw', '-user=eve r']), defaults })
    expect(acl.rightsFor(subjectOf('bob'))).toBe(LOOKUP | WRITE)
    expect(acl.rightsFor(subjectOf('eve'))).toBe(0)
    expect(acl.rightsFor(subjectOf('dan'))).toBe(LOOKUP | READ)
    expect(acl.rightsFor(ANONYMOUS)).toBe(LOOKUP | READ)
    expect(acl.rightsFor(subjectOf('ann'))).toBe(ALL_RIGHTS)
  })

  test('asks global lists by their precedence, those below zero before the mailbox', () => {
    const global = [
      { list: listOf(['anyone l', 'user=bob lrw']), global: false, label: 'global @-1' },
      { list: listOf(['-user=eve l']), global: true, label: 'global' },
      { list: listOf(['user=eve r']), global: true, label: 'global @5' },
    ]
    const acl = new Acl({ owner: 'ann', local: listOf(['user=bob r', '-user=bob l']), global })
    expect(formatRights(acl.rightsFor(subjectOf('bob')))).toBe('r')
    // Cleared by the list above, which gives only r.
    expect(formatRights(acl.rightsFor(subjectOf('eve')))).toBe('r')
    expect(formatRights(acl.rightsFor(subjectOf('dan')))).toBe('l')
    expect(acl.rightsFor(subjectOf('ann'))).toBe(ALL_RIGHTS)
  })

  test('gives nobody more than every repair of a broken line would', () => {
    const random = seeded(runSeed())
    const bases =
      depth() === 'normal'
        ? [...sets(linesOf(['lr']), 1)]
        : [...sets(linesOf(['l', 'lr']), 1), ...sample([...sets(linesOf(['', 'l', 'lr']), 3)], 50, random)]
    let evaluations = 0
    let equal = 0
    for (const { text, readings } of damagesOf())
      for (const global of [false, true])
        for (const base of bases) {
          const damaged = [...base, { text, global }]
          const acls = [aclOf(damaged), aclOf(damaged, 'a@d')]
          // A second line of the same identifier and sign would also say that the other half is empty: no repair one looks for.
          const doubles = (reading: string): boolean =>
            base.some((line) => line.global === global && line.text.split(' ')[0] === reading.split(' ')[0])
          const repaired = readings
            .filter((reading) => !/usr|user=x/.test(text) || !doubles(reading))
            .map((reading) => [...base, { text: reading, global }])
          for (const { subject, owned } of ASKERS) {
            const owner = owned && subject.user === 'a@d'
            if (owner && /usr|user=x/.test(text)) continue
            const rights = acls[Number(owned)]!.rightsFor(subject)
            const allowed = meet(repaired, subject, owner)
            evaluations++
            if (rights === allowed) equal++
            if ((rights & ~allowed) !== 0)
              throw new Error(
                `${JSON.stringify(damaged)} for ${JSON.stringify(subject)}: ${formatRights(rights)}, at most ${formatRights(allowed)}`,
              )
          }
        }
    say(`broken lines: ${evaluations} evaluations, ${equal} of them exactly what every repair gives`)
    expect(equal).toBeGreaterThan(evaluations * 0.8)
  })

  test('keeps what an owner has when a line does not say whom it means', () => {
    const acl = new Acl({ owner: 'ann', local: listOf(['anyone lr', 'owner lrw', 'usr=bob l', '"', '-']) })
    expect(formatRights(acl.rightsFor(subjectOf('ann')))).toBe('lrw')
    expect(acl.rightsFor(subjectOf('bob'))).toBe(0)
  })

  test('allocates nothing', () => {
    const many = Array.from({ length: 500 }, (_, at) => `user=user${at} lrws`)
    const acl = new Acl({
      owner: 'ann',
      local: listOf([
        'anyone l',
        'group=a lr',
        'group=b lrw',
        'domain=x.org lr',
        '-group-override=b s',
        'usr=x lrws',
        ...many,
      ]),
      global: [{ list: listOf(['authenticated lrs', '-group=c w']), global: true, label: 'global' }],
      defaults: new Acl({ local: listOf(['anyone lr', 'group=a lrw']) }),
    })
    const subjects = [
      subjectOf('ann'),
      subjectOf('user7@x.org', ['a', 'b', 'c']),
      subjectOf('user499', ['b']),
      ANONYMOUS,
      subjectOf('dan'),
    ]
    const evaluations = 1_000_000
    const run = (): number => {
      let sum = 0
      for (let i = 0; i < evaluations; i++) sum += acl.rightsFor(subjects[i % subjects.length]!)
      return sum
    }
    run()
    // The least of some runs: something else in the process may allocate meanwhile, and only more.
    let least = Infinity
    for (let i = 0; i < 3; i++) {
      const before = getHeapStatistics()
      run()
      const after = getHeapStatistics()
      const collected = after.used_heap_size < before.used_heap_size
      if (!collected) least = Math.min(least, after.used_heap_size - before.used_heap_size)
    }
    say(`rights evaluation: ${least} bytes of heap in ${evaluations} evaluations`)
    // One object for each, the smallest, would be 16 MB.
    expect(least).toBeLessThan(1_000_000)
  })
})
