/** What access control lists mean to a store: the values of its log, read by the engine of `@mailstead/acl`. */
import { Acl, type AclLayer, type AclList, ALL_RIGHTS, decodeAcl, type Subject, subjectOf } from '@mailstead/acl'
import type { AccessControl, AccessSubject, MailboxAccess } from '@mailstead/store'

export interface AccessControlOptions {
  /** Whose store it is: has every right that no list takes away. (default: nobody's) */
  readonly owner?: string | undefined
  /** The mailboxes without an entry for somebody ask INBOX's list, not the store's. (default false) */
  readonly defaultsFromInbox?: boolean | undefined
  /** For whom a mailbox's list says nothing, where the store has no list for that. (default: nothing) */
  readonly defaults?: AclList | undefined
  /**
   * What the global file says of a mailbox of this name in the store: to the owner, by the name that he knows it by, or to others, by
   * that and theirs. (default: nothing)
   */
  readonly globalFor?: ((name: string, toOwner: boolean) => readonly AclLayer[]) | undefined
  /** Another whenever `globalFor` says something else. (default: it never does) */
  readonly globalVersion?: (() => number) | undefined
  /** Calls when the version changed. */
  readonly watchGlobal?: ((onChange: () => void) => Disposable) | undefined
}

/** The list of a value, or one that denies all to everybody but the owner where it cannot be read. */
export function readAcl(value: Uint8Array): AclList {
  try {
    return decodeAcl(value)
  } catch (error) {
    const problem = (error as Error).message
    return {
      entries: [],
      broken: [{ text: '', problem, effect: { kind: 'illegible', name: '', rights: 0, denied: ALL_RIGHTS } }],
    }
  }
}

/** The lists that count for a mailbox: its own, and the one for whom that says nothing. */
export interface MailboxLists {
  readonly name: string
  readonly own: Uint8Array | undefined
  readonly fallback: Uint8Array | undefined
}

/** The engine for one mailbox, as it counts for the owner, or for others. */
export function mailboxAcl(
  options: AccessControlOptions,
  { name, own, fallback }: MailboxLists,
  toOwner: boolean,
  defaults: Acl | undefined = defaultsOf(options, fallback),
): Acl {
  return new Acl({
    owner: options.owner,
    local: own === undefined ? undefined : readAcl(own),
    global: options.globalFor?.(name, toOwner),
    defaults,
  })
}

function defaultsOf({ defaults }: AccessControlOptions, fallback: Uint8Array | undefined): Acl | undefined {
  const local = fallback === undefined ? defaults : readAcl(fallback)
  return local === undefined ? undefined : new Acl({ local })
}

interface Prepared {
  readonly groups: readonly string[]
  readonly subject: Subject
}

export function accessControl(options: AccessControlOptions = {}): AccessControl {
  const prepared = new WeakMap<AccessSubject, Prepared>()
  const subjectFor = (who: AccessSubject): Subject => {
    const { groups } = who
    let known = prepared.get(who)
    if (known?.groups !== groups) {
      known = { groups, subject: subjectOf(who.name, groups) }
      prepared.set(who, known)
    }
    return known.subject
  }
  // One for all mailboxes: it may be long, and they many.
  let common: { readonly fallback: Uint8Array | undefined; readonly defaults: Acl | undefined } | undefined
  const { globalVersion, watchGlobal } = options
  return {
    get version() {
      return globalVersion?.() ?? 0
    },
    defaultsFromInbox: options.defaultsFromInbox ?? false,
    access(name, own, fallback): MailboxAccess {
      if (common === undefined || common.fallback !== fallback)
        common = { fallback, defaults: defaultsOf(options, fallback) }
      const { defaults } = common
      const lists = { name, own, fallback }
      let forOwner: Acl | undefined
      let forOthers: Acl | undefined
      return {
        rightsFor(who) {
          const acl = who.owner
            ? (forOwner ??= mailboxAcl(options, lists, true, defaults))
            : (forOthers ??= mailboxAcl(options, lists, false, defaults))
          return acl.rightsFor(subjectFor(who))
        },
      }
    },
    ...(watchGlobal === undefined ? {} : { watch: watchGlobal }),
  }
}
