/**
 * Who may do what in one mailbox: the precedence of Dovecot, exactly.
 *
 * 1. The lists of a mailbox are asked one after another: global ones of negative precedence, its own, other global ones by precedence.
 * 2. In a list, entries count in the order anyone, authenticated, domain, group, owner, user, group-override, groups by name.
 * 3. The owner begins with every right, and of lists that are not strong (`global`) only entries from `owner` on concern him. Others begin with
 *    nothing.
 * 4. What an entry gives replaces what was given before, and what it denies what was denied, each only if it says it. Entries
 *    of several groups of the subject are merged: only the first of a kind replaces. (If that first one says only what is denied, the others
 *    of its kind add to what was given before it. So does Dovecot.)
 * 5. The first entry of each strong list that applies clears what was denied before.
 * 6. Rights are what is given without what is denied. If no entry applies to somebody who is not the owner, the default mailbox is asked.
 *
 * Broken lines are applied with the rest (list.ts): those of an identifier as an entry of it, illegible ones to everybody but the
 * owner. In a list with an illegible line, what is denied adds up and is not replaced, since that line may be the reason.
 *
 * INVARIANTS
 *   1. `rightsFor` is pure, and allocates nothing.
 *   2. No reading of a broken line gives anybody fewer rights than `rightsFor` does, but for the owner and illegible lines.
 */
import { type AclLayer, type CompiledLayer, compileLayer, UNSAID } from './layer.ts'
import { type AclList, EMPTY_ACL } from './list.ts'
import { ALL_RIGHTS } from './rights.ts'
import type { Subject } from './subject.ts'

export interface AclOptions {
  /** Who has every right from the start, and whom `owner` means: the user's name in a private namespace. (default: nobody) */
  readonly owner?: string | undefined
  /** The mailbox's own list. (default: it says nothing) */
  readonly local?: AclList | undefined
  /** Lists of the global file for this mailbox, by precedence: those before the mailbox's own are not `global`. (default: none) */
  readonly global?: readonly AclLayer[] | undefined
  /** Asked for anybody but the owner to whom no entry applies: the list of a namespace, or INBOX. (default: they have no rights) */
  readonly defaults?: Acl | undefined
}

export class Acl {
  readonly owner: string | undefined
  readonly local: AclList
  readonly defaults: Acl | undefined
  /** In the order in which they are asked; those that say nothing are left out. */
  readonly layers: readonly CompiledLayer[]

  constructor(options: AclOptions = {}) {
    const { owner, local = EMPTY_ACL, global = [], defaults } = options
    if (owner === '') throw new TypeError('an owner has a name')
    this.owner = owner
    this.local = local
    this.defaults = defaults
    const lists = [
      ...global.filter((layer) => !layer.global),
      { list: local, global: false, label: 'local' },
      ...global.filter((layer) => layer.global),
    ]
    this.layers = lists.filter(({ list }) => list.entries.length > 0 || list.broken.length > 0).map(compileLayer)
  }

  /** Whether the subject is the owner. */
  isOwner(subject: Subject): boolean {
    return this.owner !== undefined && subject.user === this.owner
  }

  /** Everything the subject may do, as a mask of rights. */
  rightsFor(subject: Subject): number {
    const { layers } = this
    const owner = this.isOwner(subject)
    walk.begin(owner)
    for (let at = 0; at < layers.length; at++) ask(layers[at]!, subject, owner)
    const { applied, rights, denied, limit } = walk
    if (applied) return rights & ~denied
    return this.defaults === undefined ? 0 : this.defaults.rightsFor(subject) & limit & ~denied
  }
}

/** The state of the one evaluation under way: evaluations never wait, and the defaults are asked after the rest. */
class Walk {
  applied = false
  rights = 0
  denied = 0
  /** What illegible lines leave of the defaults. */
  limit = ALL_RIGHTS
  /** The number of the kind that was applied last in this list; 0 before the first. */
  #kind = 0
  #layer: CompiledLayer | undefined

  begin(owner: boolean): void {
    this.applied = owner
    this.rights = owner ? ALL_RIGHTS : 0
    this.denied = 0
    this.limit = ALL_RIGHTS
  }

  enter(layer: CompiledLayer): void {
    this.#layer = layer
    this.#kind = 0
  }

  take(at: number, kind: number): void {
    const layer = this.#layer!
    const rights = layer.rights[at]!
    const denied = layer.denied[at]!
    if (this.#kind === 0 && layer.global) this.denied = 0
    const first = this.#kind !== kind
    this.#kind = kind
    this.applied = true
    if (rights !== UNSAID) this.rights = first ? rights : this.rights | rights
    if (denied !== UNSAID) this.denied = first && !layer.illegible ? denied : this.denied | denied
  }

  takeGroups(entries: ReadonlyMap<string, number>, groups: readonly string[], kind: number): void {
    for (let i = 0; i < groups.length; i++) {
      const at = entries.get(groups[i]!)
      if (at !== undefined) this.take(at, kind)
    }
  }
}

const walk: Walk = new Walk()

function ask(layer: CompiledLayer, subject: Subject, owner: boolean): void {
  walk.enter(layer)
  if (!owner || layer.global) {
    if (layer.anyone >= 0) walk.take(layer.anyone, 1)
    if (layer.authenticated >= 0 && subject.user !== '') walk.take(layer.authenticated, 2)
    if (layer.domains !== undefined && subject.domain !== '') {
      const at = layer.domains.get(subject.domain)
      if (at !== undefined) walk.take(at, 3)
    }
    if (layer.groups !== undefined) walk.takeGroups(layer.groups, subject.groups, 4)
  }
  if (owner && layer.owner >= 0) walk.take(layer.owner, 5)
  if (layer.users !== undefined && subject.user !== '') {
    const at = layer.users.get(subject.user)
    if (at !== undefined) walk.take(at, 6)
  }
  if (layer.illegible && !owner) {
    walk.rights &= layer.limit
    walk.limit &= layer.limit
  }
  if (layer.overrides !== undefined) walk.takeGroups(layer.overrides, subject.groups, 7)
  if (layer.illegible && !owner) walk.denied |= layer.illegibleDenied
}
