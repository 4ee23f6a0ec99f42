/**
 * `mailstead acl`: the access control lists of a user's mailboxes, or of those of a public namespace, as whoever runs the server sees them.
 *
 * Entries are written as in files: `user=bob lrs`, `group=team lr`, `-anyone w`. A running server has what is changed here at once. The
 * mailbox '' is the store itself: its list counts for whom the others say nothing of.
 */
import { join } from 'node:path'
import { Command } from 'commander'
import {
  type Acl,
  AclError,
  type AclExplanation,
  type AclList,
  changeAcl,
  EMPTY_ACL,
  encodeAcl,
  explainAcl,
  formatIdentifier,
  formatRights,
  type Identifier,
  LOOKUP,
  parseIdentifier,
  parseRightNames,
  parseRights,
  subjectOf,
} from '@mailstead/acl'
import {
  accessOptions,
  type Config,
  globalAcl,
  type Mounts,
  type NamespaceConfig,
  openMounts,
  openUserStore,
  publicConfig,
  publicUser,
  registryFs,
} from '@mailstead/app-server'
import { fullNames, mailboxAcl, readAcl, Sharing, userDirectory, userKey, whatIsShared } from '@mailstead/server'
import type { StoreSession } from '@mailstead/store'
import { Exit } from './exit.ts'
import { isThere, mustFindUser, readUsers, type Where, type WhereFlags, whereOf } from './find-user.ts'
import { mustBeThere } from './subjects.ts'

export interface AclFlags extends WhereFlags {
  readonly user?: string
  readonly namespace?: string
  readonly for?: string
  readonly json?: boolean
}

type PublicNamespace = Extract<NamespaceConfig, { readonly kind: 'public' }>

/** The store that a command is about. */
interface Subject {
  readonly where: Where
  readonly mounts: Mounts
  readonly session: StoreSession
  readonly config: Config
  /** Whose lists they are; undefined: a public namespace's. */
  readonly owner: string | undefined
  readonly namespace: PublicNamespace | undefined
}

export function aclCommand(): Command {
  const command = new Command('acl').description('who may do what with which mailbox')
  command.addCommand(
    withFlags(new Command('get').description('the entries of a list').argument('<mailbox>')).action(
      (mailbox: string, flags: AclFlags) => inStore(flags, { write: false }, (subject) => get(subject, mailbox, flags)),
    ),
  )
  command.addCommand(
    withFlags(
      new Command('set')
        .description('give or, with a - before the identifier, deny rights: `set Work user=bob +lrs`')
        .argument('<mailbox>')
        .argument('<identifier>')
        .argument('<rights>', 'letters, or names with commas; + adds, - removes, else they are replaced'),
    )
      .allowUnknownOption()
      .action((mailbox: string, identifier: string, rights: string, flags: AclFlags) =>
        inStore(flags, { write: true }, (subject) => set(subject, mailbox, identifier, rights)),
      ),
  )
  command.addCommand(
    withFlags(
      new Command('delete')
        .description('take the entry of an identifier away')
        .argument('<mailbox>')
        .argument('<identifier>'),
    )
      .allowUnknownOption()
      .action((mailbox: string, identifier: string, flags: AclFlags) =>
        inStore(flags, { write: true }, (subject) => change(subject, mailbox, identifier, 'clear', 0)),
      ),
  )
  command.addCommand(
    withFor(new Command('rights').description('the rights of a user, as letters').argument('<mailbox>')).action(
      (mailbox: string, flags: AclFlags) =>
        inStore(flags, { write: false }, async (subject) => {
          const { rights } = (await explained(subject, mailbox, flags)).explanation
          print(flags, formatRights(rights), () => formatRights(rights))
        }),
    ),
  )
  command.addCommand(
    withFor(
      new Command('explain').description('which entry gives or denies each right to a user').argument('<mailbox>'),
    ).action((mailbox: string, flags: AclFlags) =>
      inStore(flags, { write: false }, async (subject) => {
        const { explanation, names } = await explained(subject, mailbox, flags)
        print(flags, { ...explanation, names }, () => explanationText(explanation, names))
      }),
    ),
  )
  command.addCommand(
    withFor(new Command('debug').description('why a user sees a mailbox, or does not').argument('<mailbox>')).action(
      (mailbox: string, flags: AclFlags) =>
        inStore(flags, { write: false }, (subject) => debug(subject, mailbox, flags)),
    ),
  )
  return command
}

/** `mailstead share list`: what the registry says of who shares with whom. */
export function shareCommand(): Command {
  const list = withWhere(new Command('list').description('who lets whom see something')).action(
    async (flags: AclFlags) => {
      const where = whereOf(flags)
      await using mounts = await openMounts(where.config.state)
      await mustBeThere(where, mounts)
      await using fs = await registryFs(where.data, mounts)
      await using sharing = await Sharing.open(fs, { readOnly: true })
      const entries = (await sharing?.entries()) ?? []
      print(flags, entries, () => entries.flatMap((one) => one.with.map((name) => `${one.owner} ${name}`)).join('\n'))
    },
  )
  return new Command('share').description('what users share with each other').addCommand(list)
}

function withWhere(command: Command): Command {
  return command
    .option('--data <dir>', 'data directory')
    .option('--users <file>', 'users file (default: users.passwd in the data directory)')
    .option('--config <file>', 'configuration file')
    .option('--json', 'one JSON value')
}

export function withFlags(command: Command): Command {
  return withWhere(command)
    .option('--user <name>', 'whose mailbox it is')
    .option('--namespace <prefix>', 'of which public namespace it is')
}

function withFor(command: Command): Command {
  return withFlags(command).requiredOption('--for <name>', 'whose rights are asked for')
}

export function print(flags: AclFlags, value: unknown, text: () => string): void {
  const shown = flags.json === true ? JSON.stringify(value) : text()
  process.stdout.write(shown === '' ? '' : `${shown}\n`)
}

export async function inStore(
  flags: AclFlags,
  { write }: { readonly write: boolean },
  work: (subject: Subject) => Promise<void> | void,
): Promise<void> {
  if ((flags.user === undefined) === (flags.namespace === undefined))
    throw new Exit(2, 'say whose mailbox it is: --user NAME, or --namespace PREFIX')
  const where = whereOf(flags)
  await using mounts = await openMounts(where.config.state)
  await mustBeThere(where, mounts)
  const namespace = flags.namespace === undefined ? undefined : publicNamespace(where.config, flags.namespace)
  const user = namespace === undefined ? mustFindUser(where, flags.user!) : publicUser(namespace)
  const config = namespace === undefined ? where.config : publicConfig(where.config, namespace)
  if (!write && !isThere(join(where.data, userDirectory(user))))
    throw new Exit(1, `${flags.user ?? flags.namespace!} has no store yet`)
  await using opened = await openUserStore(where.data, user, {
    settings: config,
    ...(write ? { create: true } : { readOnly: true }),
  })
  const session = opened.store.as({ name: 'mailstead', unrestricted: true })
  const owner = namespace === undefined ? user.name : undefined
  try {
    await work({ where, mounts, session, config, owner, namespace })
  } catch (error) {
    if (error instanceof AclError) throw new Exit(2, error.message)
    throw error
  }
}

function publicNamespace({ namespaces }: Config, prefix: string): PublicNamespace {
  const wanted = prefix.endsWith('/') ? prefix : `${prefix}/`
  const found = namespaces.find((one) => one.kind === 'public' && one.prefix === wanted)
  if (found?.kind !== 'public') throw new Exit(2, `the configuration has no public namespace ${wanted}`)
  return found
}

function listOf(session: StoreSession, mailbox: string): AclList {
  const value = session.acl(mailbox)
  return value === undefined ? EMPTY_ACL : readAcl(value)
}

function get({ session }: Subject, mailbox: string, flags: AclFlags): void {
  const { entries, broken } = listOf(session, mailbox)
  const lines: { identifier: string; rights: string }[] = []
  for (const { kind, name, rights, denied } of entries) {
    const identifier = formatIdentifier({ kind, name })
    if (rights !== undefined) lines.push({ identifier, rights: formatRights(rights) })
    if (denied !== undefined) lines.push({ identifier: `-${identifier}`, rights: formatRights(denied) })
  }
  print(flags, lines, () =>
    [
      ...lines.map(({ identifier, rights }) => `${identifier} ${rights}`.trimEnd()),
      ...broken.map(({ text, problem }) => `# broken: ${text} (${problem})`),
    ].join('\n'),
  )
}

async function set(subject: Subject, mailbox: string, identifier: string, text: string): Promise<void> {
  const sign = text[0]
  const mode = sign === '+' ? 'add' : sign === '-' ? 'remove' : 'replace'
  const what = mode === 'replace' ? text : text.slice(1)
  const names = what.split(/[\s,]+/).filter((name) => name !== '')
  const byName =
    names.length > 1 || /^[a-z]+-[a-z]+$|^(?:lookup|read|write|insert|post|expunge|create|delete|admin)$/.test(what)
  await change(subject, mailbox, identifier, mode, byName ? parseRightNames(names) : parseRights(what))
}

async function change(
  subject: Subject,
  mailbox: string,
  text: string,
  mode: 'replace' | 'add' | 'remove' | 'clear',
  rights: number,
): Promise<void> {
  const { session, where, mounts, owner, namespace, config } = subject
  const negative = text.startsWith('-')
  const identifier = identifierOf(negative ? text.slice(1) : text)
  await session.changeAcl(mailbox, (value) => {
    const list = changeAcl(value === undefined ? EMPTY_ACL : readAcl(value), { identifier, negative, mode, rights })
    return list.entries.length === 0 && list.broken.length === 0 ? undefined : encodeAcl(list)
  })
  if (where.config.namespaces.length === 0) return
  // A server that has this store closed hears of it by the registry.
  await using fs = await registryFs(where.data, mounts)
  await using sharing = await Sharing.open(fs)
  const global = await globalAcl(config)
  try {
    const options = accessOptions(config, namespace ?? { owner: owner! }, global?.file)
    await sharing.learn(namespace === undefined ? owner! : publicUser(namespace).name, whatIsShared(session, options))
  } finally {
    await global?.fs[Symbol.asyncDispose]()
  }
}

function identifierOf(text: string): Identifier {
  const identifier = parseIdentifier(text)
  if (identifier === undefined)
    throw new Exit(
      2,
      `${JSON.stringify(text)} names nobody: write anyone, authenticated, owner, user=NAME, group=NAME, group-override=NAME or domain=NAME`,
    )
  return identifier.kind === 'user' ? { kind: 'user', name: userKey(identifier.name) } : identifier
}

interface Explained {
  readonly acl: Acl
  readonly explanation: AclExplanation
  readonly groups: readonly string[]
  /** By which the global file was asked; none: there is no such file. */
  readonly names: readonly string[]
}

async function explained(subject: Subject, mailbox: string, flags: AclFlags): Promise<Explained> {
  const { session, config, owner, namespace, where } = subject
  const name = userKey(flags.for!)
  const groups = readUsers(where)?.users.get(name)?.groups ?? []
  const own = session.acl(mailbox)
  const global = await globalAcl(config)
  try {
    const options = accessOptions(config, namespace ?? { owner: owner! }, global?.file)
    const inbox = options.defaultsFromInbox === true ? session.acl('INBOX') : undefined
    const toOwner = name === owner
    const acl = mailboxAcl(options, { name: mailbox, own, fallback: inbox ?? session.acl('') }, toOwner)
    const of = namespace ?? { owner: owner! }
    const names = global === undefined ? [] : fullNames(config.namespaces, of, { name: mailbox, toOwner })
    return { acl, explanation: explainAcl(acl, subjectOf(name, groups)), groups, names }
  } finally {
    await global?.fs[Symbol.asyncDispose]()
  }
}

function explanationText(
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

async function debug(subject: Subject, mailbox: string, flags: AclFlags): Promise<void> {
  const { session, owner, namespace, where, mounts } = subject
  const { explanation, groups, names } = await explained(subject, mailbox, flags)
  const name = userKey(flags.for!)
  const shared = where.config.namespaces.find(({ kind }) => kind === 'shared')
  const prefix = namespace?.prefix ?? (name === owner ? '' : shared?.prefix.replace('%user', owner!))
  const lines = [
    `mailbox ${mailbox}: ${session.mailbox(mailbox) === undefined ? 'is not there' : 'is there'}`,
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
    explanationText(explanation, names),
  )
  print(flags, { lines, explanation }, () => lines.join('\n'))
}
