/** Access control lists as IMAP shows and changes them (RFC 4314), over the lists that stores keep. */
import {
  Acl,
  AclError,
  type AclLayer,
  type AclList,
  ADMIN,
  changeAcl,
  CREATE,
  DELETE,
  EMPTY_ACL,
  encodeAcl,
  formatImapIdentifier,
  formatRights,
  type Identifier,
  type ImapIdentifier,
  INSERT,
  LOOKUP,
  parseImapIdentifier,
  parseRights,
  READ,
  RIGHT_LETTERS,
  subjectOf,
} from '@mailstead/acl'
import { type AclEntry, type AclRights, type AclSession, ImapError, type RightsChange } from '@mailstead/imap'
import { ALL_RIGHTS } from '@mailstead/store'
import { readAcl } from './access-control.ts'
import type { Place } from './namespaces.ts'
import { userKey } from './users-file.ts'

/** What the owner always has: whoever gives these away could never have them back (RFC 4314 §3.4). */
const OWNER_HAS: number = LOOKUP | ADMIN
/** One of these lets somebody know his rights (RFC 4314 §4). With others alone he is told that there is no mailbox. */
const TELLING: number = LOOKUP | READ | INSERT | CREATE | DELETE | ADMIN

export interface ImapAclOptions {
  /** Runs `work` with the store that a name is of, and the name in it. Failures become the client's. */
  readonly in: <T>(name: string, work: (place: Place, local: string) => Promise<T>) => Promise<T>
  /** Rights may be given to everybody. */
  readonly anyone: boolean
  readonly groupsOf: (user: string) => readonly string[]
  /** What the global file says of a mailbox of the store that the pool knows by this name. (default: nothing) */
  readonly globalFor?: ((store: string, name: string) => readonly AclLayer[]) | undefined
}

export class ImapAcl implements AclSession {
  readonly #options: ImapAclOptions

  constructor(options: ImapAclOptions) {
    this.#options = options
  }

  async getAcl(mailbox: string): Promise<readonly AclEntry[]> {
    return this.#options.in(mailbox, async ({ store, owner, key }, local) => {
      await store.refresh('')
      const value = store.acl(local)
      const list = value === undefined ? EMPTY_ACL : readAcl(value)
      const shown: AclEntry[] = []
      // Like Dovecot: the owner by name, also where no entry says what he has.
      const ownerEntry = list.entries.find(({ kind, rights }) => kind === 'owner' && rights !== undefined)
      if (owner !== undefined && ownerEntry === undefined)
        shown.push({
          identifier: formatImapIdentifier({ kind: 'user', name: owner }),
          rights: formatRights(ALL_RIGHTS),
        })
      const show = ({ entries }: AclList, global: boolean): void => {
        for (const { kind, name, rights, denied } of entries) {
          const whom: Identifier =
            kind === 'owner' && owner !== undefined ? { kind: 'user', name: owner } : { kind, name }
          for (const [negative, of] of [
            [false, rights],
            [true, denied],
          ] as const)
            if (of !== undefined)
              shown.push({ identifier: formatImapIdentifier(whom, { negative, global }), rights: formatRights(of) })
        }
      }
      show(list, false)
      // Like Dovecot: what the global file says is shown, and cannot be changed here.
      const name = store.mailbox(local)?.name ?? local
      for (const layer of this.#options.globalFor?.(key, name) ?? []) show(layer.list, true)
      return shown
    })
  }

  async setAcl(mailbox: string, identifier: string, { mode, rights }: RightsChange): Promise<void> {
    await this.#change(mailbox, { identifier, takes: mode === 'remove' }, (list, whom) => {
      let mask = parseRights(rights)
      if (whom.kind === 'owner' && whom.negative && mode !== 'remove' && (mask & OWNER_HAS) !== 0)
        throw new ImapError('CANNOT', 'The owner always has the rights l and a')
      if (whom.kind === 'owner' && !whom.negative)
        mask = mode === 'remove' ? mask & ~OWNER_HAS : mode === 'replace' ? mask | OWNER_HAS : mask
      const isForAll = whom.kind === 'anyone' || whom.kind === 'authenticated'
      // To take something away is always possible: whoever runs the server may have given it.
      if (!this.#options.anyone && isForAll && !whom.negative && mode !== 'remove' && mask !== 0)
        throw new ImapError('NOPERM', 'Rights for everybody are not given here')
      return changeAcl(list, { identifier: whom, negative: whom.negative, mode, rights: mask })
    })
  }

  async deleteAcl(mailbox: string, identifier: string): Promise<void> {
    await this.#change(mailbox, { identifier, takes: true }, (list, whom) =>
      changeAcl(list, { identifier: whom, negative: whom.negative, mode: 'clear' }),
    )
  }

  async listRights(mailbox: string, identifier: string): Promise<AclRights> {
    return this.#options.in(mailbox, async ({ store, owner }, local) => {
      await store.refresh('')
      store.acl(local)
      const required = identifierOf(identifier, owner).kind === 'owner' ? OWNER_HAS : 0
      const others = Array.from(RIGHT_LETTERS).filter((letter) => (parseRights(letter) & required) === 0)
      return { required: formatRights(required), optional: others }
    })
  }

  async myRights(mailbox: string): Promise<string> {
    return this.#options.in(mailbox, async ({ store }, local) => {
      await store.refresh('')
      const rights = store.mailbox(local)?.rights ?? 0
      if ((rights & TELLING) === 0) throw new ImapError('NONEXISTENT', 'No such mailbox')
      return formatRights(rights)
    })
  }

  async #change(
    mailbox: string,
    { identifier, takes }: { readonly identifier: string; readonly takes: boolean },
    change: (list: AclList, whom: ImapIdentifier) => AclList,
  ): Promise<void> {
    await this.#options.in(mailbox, async ({ store, owner }, local) => {
      await store.changeAcl(local, (value) => {
        const before = value === undefined ? EMPTY_ACL : readAcl(value)
        const whom = (takes ? entryOf(before, identifier) : undefined) ?? identifierOf(identifier, owner)
        if (whom.global) throw new ImapError('CANNOT', 'This entry is not of the mailbox alone')
        try {
          const list = change(before, whom)
          if (whom.kind === 'group-override' && this.#ownerHas(before, owner) && !this.#ownerHas(list, owner))
            throw new ImapError('CANNOT', 'The owner is in this group, and always has the rights l and a')
          return list.entries.length === 0 && list.broken.length === 0 ? undefined : encodeAcl(list)
        } catch (error) {
          throw aclProblem(error)
        }
      })
    })
  }

  /** Entries of groups that come before those of users are the only ones that could take it from him. */
  #ownerHas(local: AclList, owner: string | undefined): boolean {
    if (owner === undefined) return true
    const rights = new Acl({ owner, local }).rightsFor(subjectOf(owner, this.#options.groupsOf(owner)))
    return (rights & OWNER_HAS) === OWNER_HAS
  }
}

/** Of a list from elsewhere, a user who cannot log in as he is written there: such an entry can be taken away as it is shown. */
function entryOf({ entries }: AclList, text: string): ImapIdentifier | undefined {
  const whom = parsed(text)
  const isThere = whom.kind === 'user' && entries.some(({ kind, name }) => kind === 'user' && name === whom.name)
  return isThere && userKey(whom.name) !== whom.name ? whom : undefined
}

/** Whom a client means. The owner by name is the owner; users are compared as they are when they log in. */
function identifierOf(text: string, owner: string | undefined): ImapIdentifier {
  const whom = parsed(text)
  if (whom.kind !== 'user') return whom
  const name = userKey(whom.name)
  return name === owner ? { ...whom, kind: 'owner', name: '' } : { ...whom, name }
}

function parsed(text: string): ImapIdentifier {
  try {
    return parseImapIdentifier(text)
  } catch (error) {
    throw aclProblem(error)
  }
}

function aclProblem(error: unknown): unknown {
  if (!(error instanceof AclError)) return error
  return new ImapError(error.code === 'ACL_LIMIT' ? 'LIMIT' : 'CANNOT', error.message, { cause: error })
}
