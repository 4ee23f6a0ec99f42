/**
 * `mailstead check`: looks for damage, changes nothing.
 *
 * Exit codes: 0 nothing is wrong (notes do not count), 1 there are findings, 2 something could not be looked at: a store that
 * cannot be opened for want of permission, a missing mount, another version; a users file that cannot be read.
 */
import { Command } from 'commander'
import { hasUserIndex, openUserStore } from '@mailstead/app-server'
import { StoreError } from '@mailstead/store'
import { Exit } from './exit.ts'
import type { WhereFlags } from './find-user.ts'
import { finding, lookAt, subjects, type UserFinding, withoutIndex } from './subjects.ts'

interface CheckFlags extends WhereFlags {
  readonly user?: string
  readonly json?: boolean
}

export function checkCommand(): Command {
  return new Command('check')
    .description('look for damage in the stores; nothing is changed')
    .option('--data <dir>', 'data directory')
    .option('--user <name>', 'only this user (default: all)')
    .option('--users <file>', 'users file (default: users.passwd in the data directory)')
    .option('--config <file>', 'configuration file')
    .option('--json', 'findings as one JSON value')
    .action(async (flags: CheckFlags) => reportFindings(flags, await checkStores(flags)))
}

export interface Checked {
  readonly findings: readonly UserFinding[]
  readonly failures: readonly { readonly user: string; readonly message: string }[]
  /** Stores. */
  readonly looked: number
}

/** Looks at all stores, or one user's. */
export async function checkStores(flags: CheckFlags): Promise<Checked> {
  const where = await lookAt(flags)
  const findings: UserFinding[] = []
  const failures: { user: string; message: string }[] = []
  let looked = 0
  for (const user of subjects(where, flags.user, findings)) {
    try {
      await using opened = await openUserStore(where.data, user, { readOnly: true, settings: where.config })
      looked++
      try {
        for await (const page of opened.store.check())
          for (const finding of page) findings.push({ user: user.name, ...finding })
      } catch (error) {
        if (isDamage(error)) findings.push(finding(user.name, 'damage', 'unreadable', error.message, error.mailbox))
        else failures.push({ user: user.name, message: `not all was looked at: ${(error as Error).message}` })
      }
    } catch (error) {
      const code = error instanceof StoreError ? error.code : undefined
      // What is away, or another volume, has no index either.
      const isGone = code !== undefined && code !== 'STORE_UNAVAILABLE' && !hasUserIndex(where.data, user, where.config)
      // A store that a crash left half made has no index either, though perhaps the directory for it.
      const isUnmade = flags.user === undefined && (isGone || code === 'STORE_NOT_FOUND')
      if (isUnmade || (isGone && code === 'STORE_CORRUPT')) findings.push(withoutIndex(where.data, user))
      else if (isDamage(error))
        findings.push(finding(user.name, 'damage', 'store-unopenable', error.message, error.mailbox))
      else failures.push({ user: user.name, message: (error as Error).message })
    }
  }
  return { findings, failures, looked }
}

function isDamage(error: unknown): error is StoreError {
  return error instanceof StoreError && (error.code === 'STORE_CORRUPT' || error.code === 'STORE_DAMAGED')
}

/** Prints what was found, and ends with the exit code of that. */
export function reportFindings(flags: CheckFlags, checked: Checked): void {
  print(flags, checked)
  if (checked.failures.length > 0) throw new Exit(2)
  if (checked.findings.some(({ severity }) => severity === 'damage')) throw new Exit(1)
}

function print(flags: CheckFlags, { findings, failures, looked }: Checked): void {
  if (flags.json === true) {
    process.stdout.write(`${JSON.stringify({ stores: looked, findings, failures })}\n`)
    return
  }
  for (const { user, severity, kind, message, ...where } of findings) {
    const place = [
      where.mailbox === undefined ? '' : ` mailbox ${where.mailbox}`,
      where.uid === undefined ? '' : ` UID ${where.uid}`,
      where.file === undefined ? '' : ` ${where.file}`,
      where.offset === undefined ? '' : ` at ${where.offset}`,
    ].join('')
    process.stdout.write(`${user}: ${severity}: ${kind}${place}: ${message}\n`)
  }
  for (const { user, message } of failures) process.stderr.write(`mailstead: ${user}: ${message}\n`)
  const damage = findings.filter(({ severity }) => severity === 'damage').length
  process.stdout.write(`${looked} stores, ${damage} findings, ${findings.length - damage} notes\n`)
}
