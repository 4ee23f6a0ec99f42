/**
 * `mailstead check`: looks for damage, changes nothing.
 *
 * Exit codes: 0 nothing is wrong (notes do not count), 1 there are findings, 2 something could not be looked at: a store that
 * cannot be opened for want of permission, a missing mount, another version.
 */
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { type StoreFinding, StoreError } from '@mailstead/store'
import { checkDataDirectory, openUserStore, STORAGE, storeDirectories } from '@mailstead/app-server'
import { userDirectory } from '@mailstead/server'
import { Exit } from './exit.ts'
import { allUsers, findUser, whereOf, type WhereFlags } from './find-user.ts'

interface CheckFlags extends WhereFlags {
  readonly user?: string
  readonly json?: boolean
}

interface UserFinding extends StoreFinding {
  readonly user: string
}

interface Subject {
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
      for (const user of subjects(flags)) {
        try {
          findings.push(...(await findingsOf(where.data, user)))
          looked++
        } catch (error) {
          if (error instanceof StoreError && error.code === 'STORE_NOT_FOUND' && flags.user === undefined)
            findings.push(withoutIndex(where.data, user))
          else if (error instanceof StoreError && (error.code === 'STORE_CORRUPT' || error.code === 'STORE_DAMAGED'))
            findings.push(unopenable(user.name, error))
          else failures.push({ user: user.name, message: (error as Error).message })
        }
      }
      report(flags, { findings, failures, looked })
      if (failures.length > 0) throw new Exit(2)
      if (findings.some(({ severity }) => severity === 'damage')) throw new Exit(1)
    })
}

/** Users of the file, and stores that nobody in the file has. */
function subjects(flags: CheckFlags): Subject[] {
  const where = whereOf(flags)
  if (flags.user !== undefined) {
    const user = findUser(where, flags.user) ?? { name: flags.user, home: undefined }
    if (!existsSync(join(where.data, userDirectory(user))))
      throw new Exit(2, `${flags.user} has no store in ${where.data}`)
    return [user]
  }
  const users = allUsers(where).filter((user) => existsSync(join(where.data, userDirectory(user))))
  const seen = new Set(users.map((user) => userDirectory(user)))
  const others = storeDirectories(where.data).map((name) => ({ name, home: `users/${name}` }))
  return [...users, ...others.filter(({ home }) => !seen.has(home))]
}

async function findingsOf(data: string, user: Subject): Promise<UserFinding[]> {
  await using opened = await openUserStore(data, user, { readOnly: true })
  const findings: UserFinding[] = []
  for await (const page of opened.store.check())
    for (const finding of page) findings.push({ user: user.name, ...finding })
  return findings
}

function unopenable(user: string, error: StoreError): UserFinding {
  return {
    user,
    severity: 'damage',
    kind: 'store-unopenable',
    file: undefined,
    offset: undefined,
    mailbox: error.mailbox,
    uid: undefined,
    message: error.message,
  }
}

/** A store is made directory first: one that is empty is what a crash then left. Messages without an index are another matter. */
function withoutIndex(data: string, user: Subject): UserFinding {
  const directory = join(data, userDirectory(user), STORAGE)
  const messages = existsSync(directory) && readdirSync(directory).some((name) => /^m\.\d+$/.test(name))
  return {
    user: user.name,
    severity: messages ? 'damage' : 'note',
    kind: messages ? 'index-missing' : 'store-empty',
    file: undefined,
    offset: undefined,
    mailbox: undefined,
    uid: undefined,
    message: messages ? 'there are messages, but no index' : 'the directory holds no store yet',
  }
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
    process.stdout.write(`${user}: ${severity}: ${kind}:${place}: ${message}\n`)
  }
  for (const { user, message } of failures) process.stderr.write(`mailstead: ${user}: ${message}\n`)
  const damage = findings.filter(({ severity }) => severity === 'damage').length
  process.stdout.write(`${looked} stores, ${damage} findings, ${findings.length - damage} notes\n`)
}
