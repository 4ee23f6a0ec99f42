/**
 * `mailstead rebuild`: makes a store whole again from what is left of its index and its messages, while nobody has it open.
 *
 * Exit codes: 0 there was nothing to do (notes do not count), 1 something was changed, or would be, or messages are damaged,
 * 2 the store could not be rebuilt, or not all of it: somebody has it open, it cannot be read, its second tier is away or not
 * configured (then nothing is written), or damage remains.
 */
import { Command } from 'commander'
import { rebuildUserStore } from '@mailstead/app-server'
import { type RebuildRecord, StoreError } from '@mailstead/store'
import { Exit } from './exit.ts'
import type { WhereFlags } from './find-user.ts'
import { lookAt, subjects } from './subjects.ts'

interface RebuildFlags extends WhereFlags {
  readonly user: string
  readonly dryRun?: boolean
  readonly json?: boolean
}

export function rebuildCommand(): Command {
  return new Command('rebuild')
    .description('rebuild a store that nobody has open from what is left of its index and its messages')
    .requiredOption('--user <name>', 'whose store')
    .option('--data <dir>', 'data directory')
    .option('--users <file>', 'users file (default: users.passwd in the data directory)')
    .option('--config <file>', 'configuration file')
    .option('--dry-run', 'say what would be done, and change nothing')
    .option('--json', 'records as one JSON value')
    .action(async (flags: RebuildFlags) => {
      const where = await lookAt(flags)
      const [user] = subjects(where, flags.user, [])
      const records: RebuildRecord[] = []
      try {
        for await (const page of rebuildUserStore(where.data, user!, {
          dryRun: flags.dryRun === true,
          settings: where.config,
        }))
          if (flags.json === true) records.push(...page)
          else for (const one of page) print(one, records)
      } catch (error) {
        throw new Exit(2, messageOf(user!.name, error))
      }
      if (flags.json === true)
        process.stdout.write(`${JSON.stringify({ user: user!.name, dryRun: flags.dryRun === true, records })}\n`)
      else summary(flags, records)
      if (records.some(({ kind }) => kind === 'remains')) throw new Exit(2)
      if (records.some(({ kind }) => kind !== 'note')) throw new Exit(1)
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
