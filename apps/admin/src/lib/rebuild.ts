/**
 * `mailstead rebuild`: makes a store whole again from what is left of its index and its messages, while nobody has it open.
 *
 * Exit codes: 0 there was nothing to do (notes do not count), 1 something was changed, or would be, or messages are damaged,
 * 2 the store could not be rebuilt, or not all of it: somebody has it open, it cannot be read, its second tier is away or not
 * configured (then nothing is written), or damage remains.
 */
import { join } from 'node:path'
import { Command } from 'commander'
import { accessOptions, globalAcl, publicConfig, publicUser, rebuildUserStore } from '@mailstead/app-server'
import { userDirectory } from '@mailstead/server'
import { type RebuildRecord, StoreError } from '@mailstead/store'
import { Exit } from './exit.ts'
import { publicNamespace } from './acl-store.ts'
import { type FoundUser, isThere, type Where, type WhereFlags } from './find-user.ts'
import { lookAt, subjects } from './subjects.ts'

interface RebuildFlags extends WhereFlags {
  readonly user?: string
  readonly namespace?: string
  readonly dryRun?: boolean
  readonly json?: boolean
}

export function rebuildCommand(): Command {
  return new Command('rebuild')
    .description('rebuild a store that nobody has open from what is left of its index and its messages')
    .option('--user <name>', 'whose store')
    .option('--namespace <prefix>', 'the store of which public namespace')
    .option('--data <dir>', 'data directory')
    .option('--users <file>', 'users file (default: users.passwd in the data directory)')
    .option('--config <file>', 'configuration file')
    .option('--dry-run', 'say what would be done, and change nothing')
    .option('--json', 'records as one JSON value')
    .action(async (flags: RebuildFlags) => {
      const where = await lookAt(flags)
      const user = storeOf(where, flags)
      const records: RebuildRecord[] = []
      try {
        for await (const page of rebuildWith(where, user, flags.dryRun === true))
          if (flags.json === true) records.push(...page)
          else for (const one of page) print(one, records)
      } catch (error) {
        throw new Exit(2, messageOf(user.name, error))
      }
      if (flags.json === true)
        process.stdout.write(`${JSON.stringify({ user: user.name, dryRun: flags.dryRun === true, records })}\n`)
      else summary(flags, records)
      if (records.some(({ kind }) => kind === 'remains')) throw new Exit(2)
      if (records.some(({ kind }) => kind !== 'note')) throw new Exit(1)
    })
}

function storeOf(where: Where, { user, namespace }: RebuildFlags): FoundUser {
  if ((user === undefined) === (namespace === undefined))
    throw new Exit(2, 'say whose store it is: --user NAME, or --namespace PREFIX')
  if (user !== undefined) return subjects(where, user, [])[0]!
  const found = publicUser(publicNamespace(where.config, namespace!))
  if (!isThere(join(where.data, userDirectory(found)))) throw new Exit(2, `${namespace} has no store in ${where.data}`)
  return found
}

/** A rebuild that knows between which mailboxes the global file makes a difference; between all, if it cannot be read. */
export async function* rebuildWith(
  where: Where,
  user: FoundUser,
  dryRun: boolean,
): AsyncGenerator<readonly RebuildRecord[], void, undefined> {
  const { data, config } = where
  const space = config.namespaces.find((each) => each.kind === 'public' && each.home === user.home)
  const of = space?.kind === 'public' ? space : { owner: user.name }
  const global = await globalAcl(config).catch(() => 'unknown' as const)
  await using held = new AsyncDisposableStack()
  if (typeof global === 'object') held.use(global.fs)
  const { globalFor, defaults, defaultsFromInbox } = accessOptions(
    config,
    of,
    typeof global === 'object' ? global.file : undefined,
  )
  const linesOf = (name: string): string => JSON.stringify([true, false].map((toOwner) => globalFor?.(name, toOwner)))
  yield* rebuildUserStore(data, user, {
    dryRun,
    settings: space?.kind === 'public' ? publicConfig(config, space) : config,
    namesDiffer: (one, other) => global === 'unknown' || linesOf(one) !== linesOf(other),
    isOwners: (name) =>
      space === undefined &&
      global !== 'unknown' &&
      defaults === undefined &&
      defaultsFromInbox !== true &&
      (globalFor?.(name, false) ?? []).length === 0,
  })
}

function messageOf(user: string, error: unknown): string {
  if (error instanceof StoreError && (error.cause as { code?: unknown } | undefined)?.code === 'INDEX_LOCKED')
    return `${user}: the store is open: stop the server, and whoever else uses it, first`
  return `${user}: ${(error as Error).message}`
}

function print(one: RebuildRecord, records: RebuildRecord[]): void {
  records.push(one)
  const place = [
    one.mailbox === undefined ? '' : ` mailbox ${one.mailbox}`,
    one.uid === undefined ? '' : ` UID ${one.uid}`,
    one.file === undefined ? '' : ` ${one.file}`,
  ].join('')
  const values = one.old === '' && one.new === '' ? '' : ` ${one.old} -> ${one.new}`
  process.stdout.write(`${one.kind}:${place}: ${one.field}${values}: ${one.message}\n`)
}

function summary(flags: RebuildFlags, records: readonly RebuildRecord[]): void {
  const count = (kind: RebuildRecord['kind']): number => records.filter((one) => one.kind === kind).length
  const changes = `${count('changed')} ${flags.dryRun === true ? 'would be changed' : 'changed'}`
  process.stdout.write(
    `${changes}, ${count('lost')} lost, ${count('damaged')} messages damaged, ${count('remains')} remain\n`,
  )
}
