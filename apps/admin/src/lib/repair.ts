/**
 * `mailstead repair`: makes the index of stores whole again from what is left of it, while nobody has them open.
 *
 * Exit codes: 0 there was nothing to do (notes do not count), 1 something was repaired, or would be, 2 a store could not be
 * repaired, or not all of it: somebody has it open, it cannot be read, or the check still finds damage.
 */
import { Command } from 'commander'
import { hasUserIndex } from '@mailstead/app-server'
import { type RebuildRecord, StoreError } from '@mailstead/store'
import { Exit } from './exit.ts'
import type { FoundUser, Where, WhereFlags } from './find-user.ts'
import { rebuildWith } from './rebuild.ts'
import { lookAt, subjects, type UserFinding, withoutIndex } from './subjects.ts'

interface RepairFlags extends WhereFlags {
  readonly user?: string
  readonly dryRun?: boolean
  readonly json?: boolean
}

interface UserRecord extends RebuildRecord {
  readonly user: string
}

export function repairCommand(): Command {
  return new Command('repair')
    .description('repair the index of stores that nobody has open; what is replaced is copied first')
    .option('--data <dir>', 'data directory')
    .option('--user <name>', 'only this user (default: all)')
    .option('--users <file>', 'users file (default: users.passwd in the data directory)')
    .option('--config <file>', 'configuration file')
    .option('--dry-run', 'say what would be done, and change nothing')
    .option('--json', 'records as one JSON value')
    .action(async (flags: RepairFlags) => reportRecords(flags, await repairStores(flags)))
}

export interface Repaired {
  readonly records: readonly UserRecord[]
  readonly failures: readonly { readonly user: string; readonly message: string }[]
  /** Stores. */
  readonly looked: number
}

/** Repairs all stores, or one user's. */
export async function repairStores(flags: RepairFlags): Promise<Repaired> {
  const where = await lookAt(flags)
  const records: UserRecord[] = []
  const failures: { user: string; message: string }[] = []
  let looked = 0
  const notes: UserFinding[] = []
  for (const user of subjects(where, flags.user, notes)) {
    if (!hasUserIndex(where.data, user, where.config)) {
      // A store that was never used has nothing to repair; messages alone do not say whose mailboxes they were in.
      const { severity, message } = withoutIndex(where.data, user)
      if (severity === 'damage') failures.push({ user: user.name, message: `${message}: nothing is left to repair` })
      continue
    }
    try {
      await repairStore(where, user, flags.dryRun === true, (one) => records.push({ user: user.name, ...one }))
      looked++
    } catch (error) {
      failures.push({ user: user.name, message: messageOf(error) })
    }
  }
  return { records, failures, looked }
}

/** Prints what was done, and ends with the exit code of that. */
export function reportRecords(flags: RepairFlags, repaired: Repaired): void {
  print(flags, repaired)
  if (repaired.failures.length > 0 || repaired.records.some(({ kind }) => kind === 'remains')) throw new Exit(2)
  if (repaired.records.some(({ kind }) => kind !== 'note')) throw new Exit(1)
}

/**
 * By way of a rebuild, which repairs the index and then asks the messages: a repair of the index alone counts no uses of messages
 * whose rows are lost, and a purge would take them.
 */
async function repairStore(
  where: Where,
  user: FoundUser,
  dryRun: boolean,
  onRecord: (record: RebuildRecord) => void,
): Promise<void> {
  for await (const page of rebuildWith(where, user, dryRun)) for (const one of page) onRecord(one)
}

function messageOf(error: unknown): string {
  if (error instanceof StoreError && (error.cause as { code?: unknown } | undefined)?.code === 'INDEX_LOCKED')
    return 'the store is open: stop the server, and whoever else uses it, first'
  return (error as Error).message
}

function print(flags: RepairFlags, { records, failures, looked }: Repaired): void {
  if (flags.json === true) {
    process.stdout.write(`${JSON.stringify({ stores: looked, dryRun: flags.dryRun === true, records, failures })}\n`)
    return
  }
  for (const { user, kind, file, mailbox, uid, field, message, ...value } of records) {
    const place = [
      file === undefined ? '' : ` ${file}`,
      mailbox === undefined ? '' : ` mailbox ${mailbox}`,
      uid === undefined ? '' : ` UID ${uid}`,
    ].join('')
    const values = value.old === '' && value.new === '' ? '' : ` ${value.old} -> ${value.new}`
    process.stdout.write(`${user}: ${kind}:${place}: ${field}${values}: ${message}\n`)
  }
  for (const { user, message } of failures) process.stderr.write(`mailstead: ${user}: ${message}\n`)
  const count = (kind: RebuildRecord['kind']): number => records.filter((one) => one.kind === kind).length
  const changes = `${count('changed')} ${flags.dryRun === true ? 'would be changed' : 'changed'}`
  process.stdout.write(`${looked} stores, ${changes}, ${count('lost')} lost, ${count('remains')} remain\n`)
}
