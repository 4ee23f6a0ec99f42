/** The stores whose access control lists commands show and change: of a user, or of a public namespace. */
import { join } from 'node:path'
import type { Command } from 'commander'
import { AclError, type AclList, EMPTY_ACL } from '@mailstead/acl'
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
import { readAcl, Sharing, userDirectory, whatIsShared } from '@mailstead/server'
import type { StoreSession } from '@mailstead/store'
import { Exit } from './exit.ts'
import { isThere, mustFindUser, type Where, type WhereFlags, whereOf } from './find-user.ts'
import { mustBeThere } from './subjects.ts'

export interface AclFlags extends WhereFlags {
  readonly user?: string
  readonly namespace?: string
  readonly for?: string
  readonly json?: boolean
}

/** A public namespace of the configuration. */
export type PublicNamespace = Extract<NamespaceConfig, { readonly kind: 'public' }>

/** The store that a command is about. */
export interface Subject {
  readonly where: Where
  readonly mounts: Mounts
  readonly session: StoreSession
  readonly config: Config
  /** Whose lists they are; undefined: a public namespace's. */
  readonly owner: string | undefined
  readonly namespace: PublicNamespace | undefined
}

/** Flags that say where the mail is. */
export function withWhere(command: Command): Command {
  return command
    .option('--data <dir>', 'data directory')
    .option('--users <file>', 'users file (default: users.passwd in the data directory)')
    .option('--config <file>', 'configuration file')
    .option('--json', 'one JSON value')
}

/** And whose. */
export function withFlags(command: Command): Command {
  return withWhere(command)
    .option('--user <name>', 'whose mailbox it is')
    .option('--namespace <prefix>', 'of which public namespace it is')
}

export function print(flags: AclFlags, value: unknown, text: () => string): void {
  const shown = flags.json === true ? JSON.stringify(value) : text()
  process.stdout.write(shown === '' ? '' : `${shown}\n`)
}

/** Opens the store that the flags name, for whoever runs the server. */
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

/** What is said of a mailbox that a rebuild closed. */
export const CLOSED =
  'closed by a rebuild, which did not know who might see it: nobody but its owner, until this list is changed'

/** The public namespace of this prefix, with or without its last "/". Exit 2 if there is none. */
export function publicNamespace({ namespaces }: Config, prefix: string): PublicNamespace {
  const wanted = prefix.endsWith('/') ? prefix : `${prefix}/`
  const found = namespaces.find((one) => one.kind === 'public' && one.prefix === wanted)
  if (found?.kind !== 'public') throw new Exit(2, `the configuration has no public namespace ${wanted}`)
  return found
}

/** The list of a mailbox; empty if it has none. */
export function listOf(session: StoreSession, mailbox: string): AclList {
  const value = session.acl(mailbox)
  return value === undefined ? EMPTY_ACL : readAcl(value)
}

/** Tells the registry what the lists of a store say now: a server that has it closed hears of it there. */
export async function learnLists(
  { data, config }: Where,
  of: { readonly owner: string } | PublicNamespace,
  session: Pick<StoreSession, 'acls' | 'mailboxes' | 'isClosed'>,
): Promise<void> {
  if (config.namespaces.length === 0) return
  await using mounts = await openMounts(config.state)
  await using fs = await registryFs(data, mounts)
  await using sharing = await Sharing.open(fs, {
    onEvent: ({ message }) => process.stderr.write(`mailstead: ${message}\n`),
  })
  const global = await globalAcl(config)
  try {
    const shared = whatIsShared(session, accessOptions(config, of, global?.file))
    await sharing.learn('owner' in of ? of.owner : publicUser(of).name, shared)
  } finally {
    await global?.fs[Symbol.asyncDispose]()
  }
}
