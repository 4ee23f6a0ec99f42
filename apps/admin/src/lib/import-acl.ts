/**
 * The access control lists of a Dovecot store, for an import: who might see what there may see it here, and nobody else.
 *
 * RULES
 *   1. A mailbox that comes brings the list of its `dovecot-acl`; one without brings none, and inherits none from where it comes to.
 *   2. A list that is here stays: of a mailbox that is here, of an unused one whose place is taken, of the store itself.
 *   3. What cannot be read gives nothing: a line counts for whom it names as one without rights, a file denies everything to everybody
 *      but the owner. Of storage that is away nothing is said: FS_UNAVAILABLE.
 *   4. The default list (Dovecot's for all mailboxes without entries) becomes that of the store if the store has none and nothing else is in
 *      it. Otherwise mailboxes without a list bring Dovecot's, and the store's own opens none of those that come.
 *   5. Users are in lower case here. An entry that gives something to `Bob` gave nothing to bob as far as anybody knows: it gives nothing,
 *      and stands for bob. One that denies something denies it to bob.
 */
import {
  type AclEntry,
  AclError,
  type AclList,
  aclList,
  ALL_RIGHTS,
  EMPTY_ACL,
  encodeAcl,
  formatIdentifier,
} from '@mailstead/acl'
import { ACL_FILE_MAX, parseAclFile } from '@mailstead/acl/file'
import { FsError } from '@mailstead/fs'
import type { DovecotDirectory, DovecotFault, DovecotMailbox, DovecotStore } from '@mailstead/mdbox/dovecot'
import { userKey } from '@mailstead/server'

const ACL_FILE = 'dovecot-acl'
/** Everybody but the owner is denied everything, whatever the default says. */
const NOBODY: AclList = aclList([{ kind: 'anyone', name: '', rights: 0, denied: ALL_RIGHTS }])

/** What the store has that the mail comes to. */
export interface ListsHere {
  /** For whom the lists of mailboxes say nothing; undefined: nobody has said anything. */
  readonly defaults: AclList | undefined
  /** Whether it has mail that is not from the same source. */
  readonly inUse: boolean
}

export interface DovecotLists {
  /** What becomes the default list of the store. Undefined: it stays as it is. */
  readonly defaults: Uint8Array | undefined
  /** What a mailbox brings. Undefined: no list. */
  of(mailbox: DovecotMailbox): Promise<Uint8Array | undefined>
}

/** Reads the default list at once, the others when they are asked for. What is wrong with them is told. */
export async function dovecotLists(
  from: DovecotStore,
  here: ListsHere,
  tell: (fault: DovecotFault) => void,
): Promise<DovecotLists> {
  const there = from.defaults === undefined ? undefined : await read(from.defaults, undefined, tell)
  const defaults = there === undefined || saysNothing(there) ? undefined : there
  const same = here.defaults !== undefined && defaults !== undefined && equal(here.defaults, defaults)
  const free = here.defaults === undefined && !here.inUse
  const apart = (here.defaults !== undefined && !same) || (defaults !== undefined && !same && !free)
  if (apart)
    tell({
      ...nowhere,
      kind: 'acl-default',
      file: from.defaults === undefined || defaults === undefined ? undefined : shownIn(from.defaults),
      message:
        here.defaults === undefined
          ? 'the store has other mail: it gets no default list, and each mailbox that comes without a list brings this one'
          : 'the store has another default list, which stays and opens nothing of what comes: `acl set MAILBOX …` opens a mailbox, `acl delete MAILBOX anyone` to whom that list names',
    })
  return {
    defaults: apart || same || defaults === undefined ? undefined : encoded(defaults, tell),
    async of(mailbox) {
      const own =
        mailbox.directory === undefined
          ? // It may have been lost with the mailbox's directory.
            defaults === undefined && here.defaults === undefined
            ? undefined
            : NOBODY
          : await read(mailbox.directory, mailbox.name, tell)
      let list = own ?? (apart && defaults !== undefined ? forOthers(defaults) : undefined)
      if (apart && here.defaults !== undefined) list = closed(list ?? EMPTY_ACL)
      return list === undefined || saysNothing(list) ? undefined : encoded(list, tell, mailbox.name)
    },
  }
}

const nowhere = { file: undefined, offset: undefined, mailbox: undefined, uid: undefined } as const

function shownIn({ shown }: DovecotDirectory): string {
  return shown === '' ? ACL_FILE : `${shown}/${ACL_FILE}`
}

function saysNothing({ entries, broken }: AclList): boolean {
  return entries.length === 0 && broken.length === 0
}

function equal(a: AclList, b: AclList): boolean {
  return Buffer.compare(encodeAcl(a), encodeAcl(b)) === 0
}

/** Undefined: there is no such file. */
async function read(
  directory: DovecotDirectory,
  mailbox: string | undefined,
  tell: (fault: DovecotFault) => void,
): Promise<AclList | undefined> {
  const { fs, path } = directory
  const place = { ...nowhere, mailbox, file: shownIn(directory) }
  let bytes: Uint8Array
  try {
    bytes = await fs.readFile(path === '' ? ACL_FILE : `${path}/${ACL_FILE}`, { end: ACL_FILE_MAX + 1 })
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
    // What is away for now says nothing: the import ends, and goes on when it is run again.
    if (error instanceof FsError && error.code === 'FS_UNAVAILABLE') throw error
    const message = `it cannot be read, so nobody but the owner has rights: ${(error as Error).message}`
    tell({ ...place, kind: 'acl-unreadable', message })
    return NOBODY
  }
  return dovecotAcl(bytes, (message) => tell({ ...place, kind: 'acl-line', message }))
}

/** The list in the bytes of a `dovecot-acl`. What is wrong with a line is told, and gives nothing. */
export function dovecotAcl(bytes: Uint8Array, tell: (message: string) => void): AclList {
  const { list, findings } = parseAclFile(bytes)
  for (const { line, text, problem, kind } of findings)
    tell(`line ${line}: ${JSON.stringify(text)}: ${problem}${kind === 'broken' ? '; it gives nothing' : ''}`)
  return folded(list, tell)
}

/** The list with users as they are called here. */
function folded(list: AclList, tell: (message: string) => void): AclList {
  const isOther = ({ kind, name }: Pick<AclEntry, 'kind' | 'name'>): boolean =>
    kind === 'user' && userKey(name) !== name
  const others = [
    ...list.entries,
    ...list.broken.flatMap(({ effect: { kind, ...effect } }) => (kind === 'user' ? [{ ...effect, kind }] : [])),
  ].filter(isOther)
  if (others.length === 0) return list
  const entries = new Map(
    list.entries.filter((entry) => !isOther(entry)).map((entry) => [formatIdentifier(entry), entry]),
  )
  for (const other of others) {
    const name = userKey(other.name)
    const here = `user=${name}`
    tell(`${formatIdentifier(other)}: users are in lower case here, so it gives nothing, and denies what it denied`)
    const now = entries.get(here) ?? { kind: 'user', name }
    // What neither of them says stays unsaid: it would replace what entries before it say.
    entries.set(here, {
      ...now,
      rights: now.rights ?? (other.rights === undefined ? undefined : 0),
      denied: other.denied === undefined ? now.denied : (now.denied ?? 0) | other.denied,
    })
  }
  return aclList(entries.values(), list.broken)
}

/** A default list says nothing of the owner, whose rights it does not change. */
function forOthers({ entries, broken }: AclList): AclList {
  return aclList(
    entries.filter(({ kind }) => kind !== 'owner'),
    broken,
  )
}

/** The list, so that nobody for whom it says nothing is asked of any other. */
function closed(list: AclList): AclList {
  if (list.entries.some(({ kind, rights }) => kind === 'anyone' && rights !== undefined)) return list
  return aclList([...list.entries, { kind: 'anyone', name: '', rights: 0 }], list.broken)
}

function encoded(list: AclList, tell: (fault: DovecotFault) => void, mailbox?: string): Uint8Array {
  try {
    return encodeAcl(list)
  } catch (error) {
    if (!(error instanceof AclError && error.code === 'ACL_LIMIT')) throw error
    const message = `${error.message}: nobody but the owner has rights`
    tell({ ...nowhere, mailbox, kind: 'acl-too-large', message })
    return encodeAcl(NOBODY)
  }
}
