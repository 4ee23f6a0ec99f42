/**
 * Rights of users in a mailbox, beside the same list walked entry by entry as Dovecot does: medians of interleaved runs, in evaluations a
 * second. One evaluation is what a command costs; it allocates nothing (`allocated`: bytes of heap for each, the least of the rounds).
 */
import {
  Acl,
  type AclEntry,
  aclList,
  ANONYMOUS,
  explainAcl,
  formatRights,
  type Subject,
  subjectOf,
} from '@mailstead/acl'
import { GlobalAcl } from '@mailstead/acl/file'
import { readBaseline, updateBaseline, WORSE } from './lib/baseline.ts'
import { human, median } from './lib/statistics.ts'

export interface AclCase {
  readonly row: string
  /** Asked in turn. */
  readonly subjects: readonly Subject[]
  readonly acl: Acl
  /** Evaluations of one timed run. */
  readonly count: number
}

interface AclFigure {
  readonly row: string
  /** Evaluations a second, medians. */
  readonly speed: { readonly ours: number; readonly walked: number }
  readonly ratio: number
  /** Bytes of heap for one evaluation. */
  readonly allocated: number
}

export interface AclBenchOptions {
  readonly rounds: number
  readonly wanted: (row: string) => boolean
  readonly machine: string
  readonly update: boolean
}

/** Rounds before those that count. */
const WARM_ROUNDS = 3
const KINDS = ['anyone', 'authenticated', 'domain', 'group', 'owner', 'user', 'group-override']

function users(count: number): AclEntry[] {
  return Array.from({ length: count }, (_, at) => ({ kind: 'user', name: `user${at}@example.org`, rights: 0x0f }))
}

const few: readonly AclEntry[] = [
  { kind: 'anyone', name: '', rights: 1 },
  { kind: 'group', name: 'editors', rights: 0x3f },
  { kind: 'user', name: 'user7@example.org', rights: 0x7ff, denied: 0x80 },
]
const groups = Array.from({ length: 8 }, (_, at) => (at === 3 ? 'editors' : `group${at}`))
const subjects: readonly Subject[] = [
  subjectOf('ann@example.org'),
  subjectOf('user7@example.org', groups),
  subjectOf('user99@example.org', groups.slice(0, 4)),
  ANONYMOUS,
]
const owner = 'ann@example.org'

export const ACL_CASES: readonly AclCase[] = [
  { row: 'acl rights 3 entries', subjects, acl: new Acl({ owner, local: aclList(few) }), count: 1_000_000 },
  {
    row: 'acl rights 100 entries, global',
    subjects,
    acl: new Acl({
      owner,
      local: aclList([...few, ...users(97)]),
      global: new GlobalAcl(Buffer.from('* authenticated lrs\n* -group=group5 w\nPublic/* anyone lr')).layersFor(
        'Public/x',
      ),
    }),
    count: 500_000,
  },
  {
    row: 'acl rights 100k entries',
    subjects,
    acl: new Acl({ owner, local: aclList([...few, ...users(99_997)]) }),
    count: 500_000,
  },
]

export function ours({ acl, subjects: list }: AclCase, count: number): number {
  let sum = 0
  for (let i = 0; i < count; i++) sum += acl.rightsFor(list[i % list.length]!)
  return sum
}

/** The entries of each list in order, each asked whether it is the subject's. */
export function walked({ acl, subjects: list }: AclCase, count: number): number {
  let sum = 0
  for (let i = 0; i < count; i++) sum += walk(acl, list[i % list.length]!)
  return sum
}

function walk(acl: Acl, subject: Subject): number {
  const isOwner = acl.isOwner(subject)
  let rights = isOwner ? 0x7ff : 0
  let denied = 0
  let before = ''
  for (const { list, global } of acl.layers) {
    let first = true
    for (const entry of list.entries) {
      const { kind, name } = entry
      if (isOwner && !global && KINDS.indexOf(kind) < 4) continue
      const mine =
        kind === 'anyone' ||
        (kind === 'authenticated' && subject.user !== '') ||
        (kind === 'domain' && subject.domain === name) ||
        (kind === 'owner' && isOwner) ||
        (kind === 'user' && subject.user === name) ||
        ((kind === 'group' || kind === 'group-override') && subject.groups.includes(name))
      if (!mine) continue
      if (first && global) denied = 0
      const replaces = first || before !== kind
      if (entry.rights !== undefined) rights = replaces ? entry.rights : rights | entry.rights
      if (entry.denied !== undefined) denied = replaces ? entry.denied : denied | entry.denied
      first = false
      before = kind
    }
  }
  return rights & ~denied
}

/** Measures the rows that are wanted, prints them, and returns what is worse than the baseline. */
export function aclBench(options: AclBenchOptions): readonly string[] {
  const cases = ACL_CASES.filter(({ row }) => options.wanted(row))
  if (cases.length === 0) return []
  process.stdout.write(
    `\n${'row'.padEnd(34)} ${'ours /s'.padStart(12)} ${'walked /s'.padStart(12)}   ratio  bytes each\n`,
  )
  const figures = cases.map((one) => measure(one, options.rounds))
  if (options.update) updateBaseline('acl', figures, options)
  const before = readBaseline<AclFigure>('acl')
  return figures.flatMap(({ row, ratio }) => {
    const was = before.get(row)?.ratio
    return was !== undefined && was / ratio > WORSE ? [`${row}: ratio ${ratio.toFixed(2)}, was ${was.toFixed(2)}`] : []
  })
}

function measure(one: AclCase, rounds: number): AclFigure {
  const rates = { ours: [] as number[], walked: [] as number[] }
  // A walk takes as long as its list is.
  const entries = one.acl.layers.reduce((sum, { list }) => sum + list.entries.length, 0)
  let allocated = Infinity
  const counts = { ours: one.count, walked: Math.max(100, Math.round(one.count / entries)) }
  for (let round = -WARM_ROUNDS; round < rounds; round++)
    for (const side of round % 2 === 0 ? (['ours', 'walked'] as const) : (['walked', 'ours'] as const)) {
      const heap = process.memoryUsage().heapUsed
      const started = performance.now()
      if (side === 'ours') ours(one, counts.ours)
      else walked(one, counts.walked)
      const ms = performance.now() - started
      // A collection in between makes it less than nothing.
      const grown = process.memoryUsage().heapUsed - heap
      if (round < 0) continue
      rates[side].push((counts[side] * 1000) / ms)
      if (side === 'ours' && grown >= 0) allocated = Math.min(allocated, grown / counts.ours)
    }
  const speed = { ours: median(rates.ours), walked: median(rates.walked) }
  const figure = { row: one.row, speed, ratio: speed.ours / speed.walked, allocated: Number(allocated.toFixed(3)) }
  process.stdout.write(
    `${one.row.padEnd(34)} ${human(speed.ours).padStart(12)} ${human(speed.walked).padStart(12)} ${figure.ratio.toFixed(2).padStart(7)} ${figure.allocated.toFixed(3).padStart(11)}\n`,
  )
  return figure
}

/** For the test: what each subject gets, by each side and by an explanation. */
export function sides(one: AclCase): readonly (readonly string[])[] {
  return one.subjects.map((subject) => [
    formatRights(one.acl.rightsFor(subject)),
    formatRights(walk(one.acl, subject)),
    formatRights(explainAcl(one.acl, subject).rights),
  ])
}
