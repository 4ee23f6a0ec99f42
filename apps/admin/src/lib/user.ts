/** `mailstead user`: who there is. */
import { join } from 'node:path'
import { Command, Option } from 'commander'
import {
  badUserName,
  formatUserLine,
  hashSecret,
  parseUserLine,
  SECRET_SCHEMES,
  type SecretScheme,
  type UserEntry,
  userDirectory,
  userKey,
} from '@mailstead/server'
import { Exit } from './exit.ts'
import { isThere, readUsers, type Where, whereOf, type WhereFlags } from './find-user.ts'
import { secretLine } from './input.ts'
import { namedBy } from './named-by.ts'
import { lookAt } from './subjects.ts'
import { removeCommand } from './user-remove.ts'
import { changeLines, isLineOf, mustBeReadable, removalOf, usersFileOf, type UsersFlags } from './users-lines.ts'

interface AddFlags extends UsersFlags {
  readonly scheme: SecretScheme
  readonly home?: string
  readonly groups?: string
}

export function userCommand(): Command {
  return new Command('user')
    .description('the users file')
    .addCommand(addCommand())
    .addCommand(listCommand())
    .addCommand(removeCommand())
}

/** `mailstead user add NAME`. */
function addCommand(): Command {
  return new Command('add')
    .description('add a user, or give one a new password; the password is read from standard input')
    .argument('<name>')
    .option('--users <file>', 'users file (default: users.passwd in the data directory)')
    .option('--data <dir>', 'data directory')
    .option('--config <file>', 'configuration file')
    .option('--state <dir>', 'directory of what is known of mounts: nothing is made where something must be mounted')
    .addOption(
      new Option('--scheme <scheme>', 'how the password is kept').choices([...SECRET_SCHEMES]).default('ARGON2ID'),
    )
    .option('--home <path>', 'directory of the store, below the data directory')
    .option('--groups <names>', 'groups, separated by commas')
    .action(async (name: string, flags: AddFlags) => {
      const wrong = badUserName(name)
      if (wrong !== undefined) throw new Exit(2, `${JSON.stringify(name)}: ${wrong}`)
      const { file, where } = await usersFileOf(flags)
      const secret = await hashSecret(flags.scheme, await secretLine(`Password of ${name}`))
      const { outcome, user } = await putUser(file, name, (before) => ({
        name,
        secret,
        home: flags.home ?? before?.home,
        groups: flags.groups?.split(',').filter((group) => group !== '') ?? before?.groups,
      }))
      process.stdout.write(outcome === 'added' ? `${name} was added.\n` : `${name} has a new line.\n`)
      if (outcome === 'added' && where !== undefined) await tellOfEarlier(where, user)
    })
}

async function putUser(
  file: string,
  name: string,
  userOf: (before: UserEntry | undefined) => Parameters<typeof formatUserLine>[0],
): Promise<{ readonly outcome: 'added' | 'replaced'; readonly user: UserEntry }> {
  const key = userKey(name)
  let outcome: 'added' | 'replaced' = 'added'
  let user: UserEntry | undefined
  await changeLines(file, (now) => {
    mustBeReadable(file, now, key)
    if (now.lines.some((line) => removalOf(line)?.name === key))
      throw new Exit(1, `the mail of ${name} is being removed: finish that first, with mailstead user remove`)
    const before = now.users.get(key)
    if (before !== undefined) outcome = 'replaced'
    const line = formatUserLine(userOf(before))
    const read = parseUserLine(line)
    if (typeof read === 'string') throw new Exit(2, read)
    user = read
    return [...now.lines.filter((each) => !isLineOf(each, key)), line]
  })
  return { outcome, user: user! }
}

/** Somebody may have had the name before: what waits for him is told to who adds him. */
async function tellOfEarlier(where: Where, user: UserEntry): Promise<void> {
  const home = userDirectory(user)
  if (isThere(join(where.data, home)))
    process.stderr.write(`mailstead: ${join(where.data, home)} was there before: what is in it is ${user.name}'s now\n`)
  for (const { place } of (await namedBy(where, user.name)).found)
    process.stderr.write(`mailstead: ${user.name} is named by ${place}: these rights are his now\n`)
}

/** `mailstead user list`. */
function listCommand(): Command {
  return new Command('list')
    .description('who is in the users file')
    .option('--users <file>', 'users file (default: users.passwd in the data directory)')
    .option('--data <dir>', 'data directory')
    .option('--config <file>', 'configuration file')
    .option('--json', 'one JSON value')
    .action(async (flags: WhereFlags & { readonly json?: boolean }) => {
      const alone = flags.users !== undefined && flags.data === undefined && flags.config === undefined
      const where = alone ? whereOf({ data: '.', ...flags }) : await lookAt(flags)
      const parsed = readUsers({ ...where, usersNamed: true })!
      const users = [...parsed.users.values()].map(({ name, home, groups }) => ({ name, home, groups }))
      for (const { line, message } of parsed.problems)
        process.stderr.write(`mailstead: ${where.users}:${line}: ${message}; the line is disabled\n`)
      const text = users.map(({ name, home, groups }) =>
        [
          name,
          ...(home === undefined ? [] : [`home=${home}`]),
          ...(groups.length === 0 ? [] : [`groups=${groups.join(',')}`]),
        ].join(' '),
      )
      if (flags.json === true) process.stdout.write(`${JSON.stringify(users)}\n`)
      else process.stdout.write(text.map((line) => `${line}\n`).join(''))
    })
}
