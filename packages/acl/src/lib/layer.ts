/**
 * A list compiled for evaluation: what each identifier says, found without looking at the others.
 *
 * So an evaluation costs as many lookups as the subject has groups, however long the list is, and allocates nothing.
 */
import type { AclEntry, AclList } from './list.ts'
import { ALL_RIGHTS } from './rights.ts'

/** A list and how it stands among others of the same mailbox. */
export interface AclLayer {
  readonly list: AclList
  /** Beats the lists before it: its first entry that applies clears what they denied, and it binds the owner wholly. */
  readonly global: boolean
  /** For people, where it stands: `local`, `global`, `global @10`. */
  readonly label: string
}

/** In the place of what an entry does not say. */
export const UNSAID = -1

export class CompiledLayer {
  readonly list: AclList
  readonly global: boolean
  readonly label: string
  /** By number of entry: rights given and denied, UNSAID for none. */
  readonly rights: Int16Array
  readonly denied: Int16Array
  /** Numbers of entries; -1: none. */
  readonly anyone: number
  readonly authenticated: number
  readonly owner: number
  /** Undefined where there is none, which is known faster than that a map is empty. */
  readonly domains: ReadonlyMap<string, number> | undefined
  readonly groups: ReadonlyMap<string, number> | undefined
  readonly users: ReadonlyMap<string, number> | undefined
  readonly overrides: ReadonlyMap<string, number> | undefined
  /** What lines that are illegible leave of the rights before `group-override`, and what they deny. */
  readonly illegible: boolean
  readonly limit: number
  readonly illegibleDenied: number

  constructor({ list, global, label }: AclLayer) {
    this.list = list
    this.global = global
    this.label = label
    const numbers = new Map<string, Map<string, number>>()
    const size = list.entries.length + list.broken.length
    const rights = new Int16Array(size).fill(UNSAID)
    const denied = new Int16Array(size).fill(UNSAID)
    let count = 0
    const add = (entry: Pick<AclEntry, 'name' | 'rights' | 'denied'> & { readonly kind: string }): void => {
      let names = numbers.get(entry.kind)
      if (names === undefined) numbers.set(entry.kind, (names = new Map()))
      let at = names.get(entry.name)
      if (at === undefined) names.set(entry.name, (at = count++))
      if (entry.rights !== undefined) rights[at] = Math.max(0, rights[at]!) | entry.rights
      if (entry.denied !== undefined) denied[at] = Math.max(0, denied[at]!) | entry.denied
    }
    let illegible = false
    let limit = ALL_RIGHTS
    let illegibleDenied = 0
    for (const entry of list.entries) add(entry)
    for (const { effect } of list.broken)
      if (effect.kind === 'illegible') {
        illegible = true
        limit &= effect.rights ?? ALL_RIGHTS
        illegibleDenied |= effect.denied ?? 0
      } else {
        // As a second line that denies it also says that nothing is given (list.ts). What a second line that gives would say, that nothing
        // is denied, is left out: a line that is broken gives nobody more.
        const double = numbers.get(effect.kind)?.get(effect.name)
        if (double !== undefined && effect.denied !== undefined) rights[double] = Math.max(0, rights[double]!)
        add(effect)
      }
    this.rights = rights
    this.denied = denied
    this.anyone = numbers.get('anyone')?.get('') ?? -1
    this.authenticated = numbers.get('authenticated')?.get('') ?? -1
    this.owner = numbers.get('owner')?.get('') ?? -1
    this.domains = numbers.get('domain')
    this.groups = numbers.get('group')
    this.users = numbers.get('user')
    this.overrides = numbers.get('group-override')
    this.illegible = illegible
    this.limit = limit
    this.illegibleDenied = illegibleDenied
  }
}

const compiled = new WeakMap<AclLayer, CompiledLayer>()

/** The layer compiled, once for all mailboxes that have it. */
export function compileLayer(layer: AclLayer): CompiledLayer {
  let known = compiled.get(layer)
  if (known === undefined) compiled.set(layer, (known = new CompiledLayer(layer)))
  return known
}
