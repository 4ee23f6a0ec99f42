/**
 * `mailstead check`: looks for damage, changes nothing.
 *
 * Exit codes: 0 nothing is wrong (notes do not count), 1 there are findings, 2 something could not be looked at: a store that
 * cannot be opened for want of permission, a missing mount, another version; a users file that cannot be read.
 */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { type StoreFinding, StoreError } from '@mailstead/store'
import { checkDataDirectory, openUserStore, STORAGE, storeDirectories } from '@mailstead/app-server'
import { userDirectory } from '@mailstead/server'
import { Exit } from './exit.ts'
import { findUser, isThere, readUsers, whereOf, type Where, type WhereFlags } from './find-user.ts'

interface CheckFlags extends WhereFlags {
  readonly user?: string
  readonly json?: boolean
}

export interface UserFinding extends StoreFinding {
  readonly user: string
}

export interface Subject {
  readonly name: string
  readonly home: string | undefined
}

export function checkCommand(): Command {
  return new Command('check')
    .description('look for damage in the stores; nothing is changed')
    .option('--data <dir>', 'data directory')
    .option('--user <name>', 'only this user (default: all)')
    .option('--users <file>', 'users file (default: users.passwd in the data directory)')
    .option('--config <file>', 'configuration file')
    .option('--json', 'findings as one JSON value')
    .action(async (flags: CheckFlags) => {
      const where = whereOf(flags)
      try {
        await checkDataDirectory(where.data)
      } catch (error) {
        throw new Exit(2, (error as Error).message)
      }
      const findings: UserFinding[] = []
      const failures: { user: string; message: string }[] = []
      let looked = 0
      for (const user of subjects(where, flags.user, findings)) {
        try {
          await using opened = await openUserStore(where.data, user, { readOnly: true })
          looked++
          try {
            for await (const page of opened.store.check())
              for (const finding of page) findings.push({ user: user.name, ...finding })
          } catch (error) {
            if (isDamage(error)) findings.push(finding(user.name, 'damage', 'unreadable', error.message, error.mailbox))
            else failures.push({ user: user.name, message: `not all was looked at: ${(error as Error).message}` })
          }
        } catch (error) {
          if (error instanceof StoreError && error.code === 'STORE_NOT_FOUND' && flags.user === undefined)
            findings.push(withoutIndex(where.data, user))
          else if (isDamage(error))
            findings.push(finding(user.name, 'damage', 'store-unopenable', error.message, error.mailbox))
          else failures.push({ user: user.name, message: (error as Error).message })
        }
      }
      report(flags, { findings, failures, looked })
      if (failures.length > 0) throw new Exit(2)
      if (findings.some(({ severity }) => severity === 'damage')) throw new Exit(1)
    })
}

/** Users of the file who have a directory, and directories that nobody in the file has. */
export function subjects(where: Where, only: string | undefined, notes: UserFinding[]): Subject[] {
  const { data, users: file } = where
  if (only !== undefined) {
    const user = findUser(where, only) ?? { name: only, home: undefined }
    if (!isThere(join(data, userDirectory(user)))) throw new Exit(2, `${only} has no store in ${data}`)
    return [user]
  }
  const parsed = readUsers(where)
  const users = [...(parsed?.users.values() ?? [])].map((user) => ({ user, home: userDirectory(user) }))
  for (const { line, message } of parsed?.problems ?? [])
    notes.push(
      finding(
        '-',
        'note',
        'users-line',
        `${file}:${line}: ${message}; the line is disabled, and a home= in it not known`,
      ),
    )
  const others: Subject[] = []
  for (const name of directoriesOf(data)) {
    const home = `users/${name}`
    if (users.some((each) => each.home === home || each.home.startsWith(`${home}/`))) continue
    others.push({ name, home })
    if (parsed !== undefined) notes.push(finding(name, 'note', 'no-user', `nobody in ${file} has the store ${home}`))
  }
  return [...users.filter(({ home }) => isThere(join(data, home))).map(({ user }) => user), ...others]
}

function directoriesOf(data: string): string[] {
  try {
    return storeDirectories(data)
  } catch (error) {
    throw new Exit(2, `the directory of the stores cannot be read: ${(error as Error).message}`)
  }
}

function isDamage(error: unknown): error is StoreError {
  return error instanceof StoreError && (error.code === 'STORE_CORRUPT' || error.code === 'STORE_DAMAGED')
}

function finding(
  user: string,
  severity: 'note' | 'damage',
  kind: string,
  message: string,
  mailbox?: string,
): UserFinding {
  return { user, severity, kind, file: undefined, offset: undefined, mailbox, uid: undefined, message }
}

/** A store is made directory first: one that is empty is what a crash then left. Messages without an index are another matter. */
export function withoutIndex(data: string, user: Subject): UserFinding {
  const directory = join(data, userDirectory(user), STORAGE)
  const messages = isThere(directory) && readdirSync(directory).some((name) => /^m\.\d+$/.test(name))
  return messages
    ? finding(user.name, 'damage', 'index-missing', 'there are messages, but no index')
    : finding(user.name, 'note', 'store-empty', 'the directory holds no store yet')
}

function report(
  flags: CheckFlags,
  {
    findings,
    failures,
    looked,
  }: { findings: UserFinding[]; failures: { user: string; message: string }[]; looked: number },
): void {
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
