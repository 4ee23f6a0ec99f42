/** `mailstead acl explain` and `debug`: what decides, and what a user sees of a mailbox. */
import { type Acl, type AclExplanation, explainAcl, formatRights, LOOKUP, subjectOf } from '@mailstead/acl'
import { accessOptions, globalAcl, registryFs } from '@mailstead/app-server'
import { fullNames, mailboxAcl, Sharing, userKey } from '@mailstead/server'
import { type AclFlags, CLOSED, listOf, print, type Subject } from './acl-store.ts'
import { readUsers } from './find-user.ts'

interface Explained {
  readonly acl: Acl
  readonly explanation: AclExplanation
  readonly groups: readonly string[]
  /** By which the global file was asked; none: there is no such file. */
  readonly names: readonly string[]
  readonly isClosed: boolean
}

/** The rights of whom `--for` names, and why. */
export async function explained(subject: Subject, mailbox: string, flags: AclFlags): Promise<Explained> {
  const { session, config, owner, namespace, where } = subject
  const name = userKey(flags.for!)
  const groups = readUsers(where)?.users.get(name)?.groups ?? []
  const own = session.acl(mailbox)
  const global = await globalAcl(config)
  try {
    const options = accessOptions(config, namespace ?? { owner: owner! }, global?.file)
    const inbox = options.defaultsFromInbox === true ? session.acl('INBOX') : undefined
    const toOwner = name === owner
    // As it is kept, which is not always as it was typed: INBOX is itself in any case.
    const kept = session.mailbox(mailbox)?.name ?? mailbox
    const acl = mailboxAcl(options, { name: kept, own, fallback: inbox ?? session.acl('') }, toOwner)
    const of = namespace ?? { owner: owner! }
    const names = global === undefined ? [] : fullNames(config.namespaces, of, { name: kept, toOwner })
    const explanation = explainAcl(acl, subjectOf(name, groups))
    // As the store has it: whatever lists say.
    const isClosed = session.isClosed(mailbox) || (own === undefined && session.isClosed(''))
    if (!isClosed || explanation.owner) return { acl, explanation, groups, names, isClosed }
    const decisions = explanation.decisions.map((one) => ({ ...one, granted: false, by: 'nothing' as const }))
    return { acl, explanation: { ...explanation, rights: 0, decisions }, groups, names, isClosed }
  } finally {
    await global?.fs[Symbol.asyncDispose]()
  }
}

export function explanationText(
  { rights, owner, byDefault, steps, decisions }: AclExplanation,
  names: readonly string[],
): string {
  const lines = [
    `rights ${formatRights(rights) || '(none)'}${owner ? ', as the owner' : ''}${byDefault ? ', by default' : ''}`,
  ]
  if (names.length > 0)
    lines.push(`  the global file is asked for ${names.map((name) => JSON.stringify(name)).join(' and ')}`)
  for (const { list, text, origin, problem, effect } of steps)
    lines.push(
      `  ${effect}: ${list}${origin === undefined ? '' : ` (${origin})`}: ${text.replaceAll('\n', ' / ')}${problem === undefined ? '' : `  # ${problem}`}`,
    )
  for (const { right, granted, by } of decisions) {
    const why =
      by === 'owner'
        ? 'the owner has it'
        : by === 'nothing'
          ? 'no entry gives it'
          : `${by.list}: ${by.text.replaceAll('\n', ' / ')}`
    lines.push(`  ${granted ? 'yes' : 'no '} ${right}: ${why}`)
  }
  return lines.join('\n')
}

/** Entries that nobody has: of somebody who was removed, or misspelt. They are for whoever gets the name. */
function unknownNames({ session, where }: Subject, mailbox: string): string[] {
  const users = readUsers(where)?.users
  if (users === undefined) return []
  const groups = new Set([...users.values()].flatMap((user) => user.groups))
  return listOf(session, mailbox).entries.flatMap(({ kind, name }) =>
    kind === 'user' && !users.has(name)
      ? [`user=${name} is nobody in the users file: its rights are for whoever gets that name`]
      : (kind === 'group' || kind === 'group-override') && !groups.has(name)
        ? [`${kind}=${name}: nobody in the users file is in it`]
        : [],
  )
}

/** Why a user sees a mailbox, or does not. */
export async function debug(subject: Subject, mailbox: string, flags: AclFlags): Promise<void> {
  const { session, owner, namespace, where, mounts } = subject
  const { explanation, groups, names, isClosed } = await explained(subject, mailbox, flags)
  const name = userKey(flags.for!)
  const shared = where.config.namespaces.find(({ kind }) => kind === 'shared')
  const prefix = namespace?.prefix ?? (name === owner ? '' : shared?.prefix.replace('%user', owner!))
  const lines = [
    `mailbox ${mailbox}: ${session.mailbox(mailbox) === undefined ? 'is not there' : 'is there'}`,
    ...unknownNames(subject, mailbox),
    `${name} is in ${groups.length === 0 ? 'no group' : `the groups ${groups.join(', ')}`}${readUsers(where)?.users.has(name) === false ? ', and not in the users file' : ''}`,
    prefix === undefined
      ? 'no shared namespace is configured, so nobody else can name this mailbox'
      : `${name} knows it as ${prefix}${mailbox}`,
  ]
  if (owner !== undefined && shared !== undefined && name !== owner) {
    await using fs = await registryFs(where.data, mounts)
    await using sharing = await Sharing.open(fs, { readOnly: true })
    const found = (await sharing?.sharers({ name, home: undefined, groups }))?.includes(owner) === true
    lines.push(`the registry ${found ? 'says' : 'does not say'} that ${owner} shares something with ${name}`)
  }
  lines.push(
    (explanation.rights & LOOKUP) === 0 ? `without l it does not exist for ${name}` : `${name} sees it in LIST`,
    ...(isClosed ? [CLOSED] : []),
    explanationText(explanation, names),
  )
  print(flags, { lines, explanation }, () => lines.join('\n'))
}
