/**
 * Why somebody may do something: the same walk as in acl.ts, entry by entry, keeping what each did.
 *
 * For people, and for tests: that it ends with the rights `rightsFor` finds is checked in each.
 */
import type { Acl } from './acl.ts'
import { compareNames, formatIdentifier, IDENTIFIER_KINDS, type Identifier, type IdentifierKind } from './identifier.ts'
import type { CompiledLayer } from './layer.ts'
import { formatEntry } from './line.ts'
import { ALL_RIGHTS, RIGHT_NAMES, type RightName } from './rights.ts'
import type { Subject } from './subject.ts'

/** What an entry did. */
export type AclStepEffect =
  /** What it says took the place of what was said before. */
  | 'replaced'
  /** What it says was added to that of entries of the same kind. */
  | 'added'
  /** It is of somebody else. */
  | 'no match'
  /** Only an entry from `owner` on, or of a global list, concerns the owner. */
  | 'owner is exempt'
  /** The line cannot be read: it may mean anybody but the owner, who gets no more than it says. */
  | 'limited'

export interface AclStep {
  /** The list it is of: `local`, `global`, `global @10`; of the default mailbox with `default: ` before it. */
  readonly list: string
  /** As a file has it: lines of the entry, or the broken line. */
  readonly text: string
  /** Where it stands, as `dovecot-acl:3`, if that is known. */
  readonly origin: string | undefined
  /** What is wrong with the line, if it is broken. */
  readonly problem: string | undefined
  readonly effect: AclStepEffect
}

export interface AclDecision {
  readonly right: RightName
  readonly granted: boolean
  /**
   * The step that gave, denied or took it away; `owner`: it comes with the mailbox; `nothing`: no entry that applies gives it.
   */
  readonly by: AclStep | 'owner' | 'nothing'
}

export interface AclExplanation {
  readonly rights: number
  readonly owner: boolean
  /** No entry of the mailbox applied, and the default mailbox decided. */
  readonly byDefault: boolean
  /** Every entry in the order in which they count. */
  readonly steps: readonly AclStep[]
  /** One for each right, in the order of RIGHT_NAMES. */
  readonly decisions: readonly AclDecision[]
}

/** One thing to apply: an entry with the broken lines of its identifier, or an illegible line. */
interface Part extends Identifier {
  readonly order: number
  readonly rights: number | undefined
  readonly denied: number | undefined
  readonly illegible: boolean
  readonly text: string
  readonly origin: string | undefined
  readonly problem: string | undefined
}

type By = AclStep | 'owner' | 'nothing'

/** Says for each entry whether it applied to the subject, and for each right what decided it. */
export function explainAcl(acl: Acl, subject: Subject): AclExplanation {
  const owner = acl.isOwner(subject)
  const steps: AclStep[] = []
  let applied = owner
  let rights = owner ? ALL_RIGHTS : 0
  let denied = 0
  let limit = ALL_RIGHTS
  const by: By[] = RIGHT_NAMES.map(() => (owner ? 'owner' : 'nothing'))
  const deniedBy: By[] = RIGHT_NAMES.map(() => 'nothing')
  const limitedBy: By[] = RIGHT_NAMES.map(() => 'nothing')
  const mark = (list: By[], mask: number, step: AclStep): void => {
    for (let bit = 0; bit < list.length; bit++) if ((mask & (1 << bit)) !== 0) list[bit] = step
  }
  for (const layer of acl.layers) {
    const merges = layer.list.broken.some(({ effect }) => effect.kind === 'illegible')
    let before: Part | undefined
    for (const part of partsOf(layer)) {
      const effect = effectOf(part, before, { layer, subject, owner })
      const step: AclStep = { list: layer.label, text: part.text, origin: part.origin, problem: part.problem, effect }
      steps.push(step)
      if (effect === 'limited') {
        const left = part.rights ?? ALL_RIGHTS
        mark(by, rights & ~left, step)
        mark(limitedBy, limit & ~left, step)
        rights &= left
        limit &= left
        denied |= part.denied ?? 0
        mark(deniedBy, part.denied ?? 0, step)
      }
      if (effect !== 'replaced' && effect !== 'added') continue
      if (before === undefined && layer.global) denied = 0
      before = part
      applied = true
      if (part.rights !== undefined) {
        const next = effect === 'replaced' ? part.rights : rights | part.rights
        mark(by, (rights & ~next) | part.rights, step)
        rights = next
      }
      if (part.denied !== undefined) {
        denied = effect === 'replaced' && !merges ? part.denied : denied | part.denied
        mark(deniedBy, part.denied, step)
      }
    }
  }
  if (!applied && acl.defaults !== undefined)
    return byDefault(acl.defaults, subject, { steps, limit, denied, limitedBy, deniedBy })
  const final = rights & ~denied
  return {
    rights: final,
    owner,
    byDefault: false,
    steps,
    decisions: RIGHT_NAMES.map((right, bit) => ({
      right,
      granted: (final & (1 << bit)) !== 0,
      by: (rights & denied & (1 << bit)) === 0 ? by[bit]! : deniedBy[bit]!,
    })),
  }
}

interface Undecided {
  readonly steps: readonly AclStep[]
  readonly limit: number
  readonly denied: number
  readonly limitedBy: readonly By[]
  readonly deniedBy: readonly By[]
}

function byDefault(defaults: Acl, subject: Subject, undecided: Undecided): AclExplanation {
  const { steps, limit, denied, limitedBy, deniedBy } = undecided
  const asked = explainAcl(defaults, subject)
  const renamed = new Map(asked.steps.map((step) => [step, { ...step, list: `default: ${step.list}` }]))
  const rights = asked.rights & limit & ~denied
  return {
    rights,
    owner: false,
    byDefault: true,
    steps: [...steps, ...renamed.values()],
    decisions: asked.decisions.map(({ right, granted, by }, bit) => {
      const of = typeof by === 'string' ? by : renamed.get(by)!
      const taken = granted && (rights & (1 << bit)) === 0
      return {
        right,
        granted: granted && !taken,
        by: !taken ? of : (limit & (1 << bit)) === 0 ? limitedBy[bit]! : deniedBy[bit]!,
      }
    }),
  }
}

/** What a list has, in the order in which it counts. An illegible line is two parts: what it limits, and what it denies. */
function partsOf({ list }: CompiledLayer): Part[] {
  const parts = new Map<string, Part>()
  const add = (part: Part): void => {
    const key = part.illegible ? `${parts.size}` : formatIdentifier(part)
    const same = parts.get(key)
    parts.set(
      key,
      same === undefined
        ? part
        : {
            ...same,
            // A second line that denies says that nothing is given, too (layer.ts).
            rights: either(same.rights, part.denied === undefined ? part.rights : (part.rights ?? 0)),
            denied: either(same.denied, part.denied),
            text: `${same.text}\n${part.text}`,
            origin:
              same.origin === undefined
                ? part.origin
                : part.origin === undefined
                  ? same.origin
                  : `${same.origin}, ${part.origin}`,
            problem: same.problem ?? part.problem,
          },
    )
  }
  for (const entry of list.entries) {
    const { kind, name, rights, denied, origin } = entry
    const text = formatEntry(entry).join('\n')
    add({ kind, name, order: orderOf(kind), rights, denied, illegible: false, text, origin, problem: undefined })
  }
  for (const { text, problem, effect, origin } of list.broken) {
    const { kind, name, rights, denied } = effect
    if (kind !== 'illegible') {
      add({ kind, name, order: orderOf(kind), rights, denied, illegible: false, text, origin, problem })
      continue
    }
    const part = { kind: 'anyone', name: '', illegible: true, text, origin, problem } as const
    if (rights !== undefined) add({ ...part, order: orderOf('group-override') - 0.5, rights, denied: undefined })
    if (denied !== undefined) add({ ...part, order: orderOf('group-override') + 0.5, rights: undefined, denied })
  }
  return [...parts.values()].sort((a, b) => a.order - b.order || compareNames(a.name, b.name))
}

function either(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined ? b : b === undefined ? a : a | b
}

function orderOf(kind: IdentifierKind): number {
  return IDENTIFIER_KINDS.indexOf(kind)
}

interface Asked {
  readonly layer: CompiledLayer
  readonly subject: Subject
  readonly owner: boolean
}

function effectOf(part: Part, before: Part | undefined, { layer, subject, owner }: Asked): AclStepEffect {
  if (part.illegible) return owner ? 'owner is exempt' : 'limited'
  if (!isMeant(part, subject, owner)) return 'no match'
  if (owner && !layer.global && part.order < orderOf('owner')) return 'owner is exempt'
  return before?.kind === part.kind ? 'added' : 'replaced'
}

function isMeant({ kind, name }: Identifier, { user, domain, groups }: Subject, owner: boolean): boolean {
  switch (kind) {
    case 'anyone':
      return true
    case 'authenticated':
      return user !== ''
    case 'domain':
      return domain !== '' && domain === name
    case 'group':
    case 'group-override':
      return groups.includes(name)
    case 'owner':
      return owner
    case 'user':
      return user !== '' && user === name
  }
}
