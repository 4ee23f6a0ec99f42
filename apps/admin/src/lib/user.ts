import {
  closeSync,
  existsSync,
  fchmodSync,
  fchownSync,
  fstatSync,
  fsyncSync,
  openSync,
  realpathSync,
  renameSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, resolve, sep } from 'node:path'
import { Command, Option } from 'commander'
import {
  badUserName,
  formatUserLine,
  hashSecret,
  parseUserLine,
  parseUsers,
  SECRET_SCHEMES,
  type SecretScheme,
  type UserEntry,
  userKey,
} from '@mailstead/server'
import {
  checkDataDirectory,
  emptyConfig,
  lockBeside,
  mayBeMade,
  mustBeMounted,
  openMounts,
  stateDirectory,
} from '@mailstead/app-server'
import { Exit } from './exit.ts'
import { readIfThere, whereOf, type WhereFlags } from './find-user.ts'
import { secretLine } from './input.ts'

/** How long another `user add` is waited for, in milliseconds. */
const LOCK_WAIT_MS = 10_000

interface AddFlags extends WhereFlags {
  readonly scheme: SecretScheme
  readonly state?: string
  readonly home?: string
  readonly groups?: string
}

/** `mailstead user add NAME`. */
export function userCommand(): Command {
  const add = new Command('add')
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
      const file = await usersFileOf(flags)
      const secret = await hashSecret(flags.scheme, await secretLine(`Password of ${name}`))
      const outcome = await putUser(file, name, (before) => {
        const line = formatUserLine({
          name,
          secret,
          home: flags.home ?? before?.home,
          groups: flags.groups?.split(',').filter((group) => group !== '') ?? before?.groups,
        })
        const read = parseUserLine(line)
        if (typeof read === 'string') throw new Exit(2, read)
        return line
      })
      process.stdout.write(outcome === 'added' ? `${name} was added.\n` : `${name} has a new line.\n`)
    })
  return new Command('user').description('the users file').addCommand(add)
}

/** The file to write. Nothing is made in a data directory without marker, or where something must be mounted. */
async function usersFileOf(flags: AddFlags): Promise<string> {
  const alone = flags.users !== undefined && flags.data === undefined && flags.config === undefined
  const { data, users, config } = alone ? { data: undefined, users: flags.users!, config: emptyConfig } : whereOf(flags)
  await using mounts = await openMounts(stateDirectory(flags.state, config))
  await mustBeMounted(dirname(resolve(users)), mounts)
  await mayBeMade(dirname(resolve(users)), mounts)
  // What it leads to, if it is a link.
  if (existsSync(users)) await mustBeMounted(dirname(realpathSync(users)), mounts)
  if (data !== undefined && resolve(users).startsWith(`${resolve(data)}${sep}`)) await checkDataDirectory(data, mounts)
  return users
}

/**
 * Writes the file anew, durably, so that a crash leaves the old one or the new one; owner and mode stay. Others that add users
 * meanwhile wait: they hold the same lock.
 */
async function putUser(
  named: string,
  name: string,
  lineOf: (before: UserEntry | undefined) => string,
): Promise<'added' | 'replaced'> {
  const key = userKey(name)
  const file = existsSync(named) ? realpathSync(named) : named
  await using _lock = await lockBeside(file, LOCK_WAIT_MS)
  const old = statSync(file, { throwIfNoEntry: false })
  const before = readIfThere(file) ?? ''
  const lines = before === '' ? [] : before.replace(/\r?\n$/, '').split('\n')
  const { users, problems } = parseUsers(before)
  const ownLine = (each: string): boolean =>
    !each.startsWith('#') && userKey(each.slice(0, Math.max(0, each.indexOf(':')))) === key
  // A line that cannot be read may name a store all the same.
  if (!users.has(key) && lines.some((each) => ownLine(each) && /[:\s](?:home|groups)=/.test(each))) {
    const bad = problems.findLast(({ line }) => ownLine(lines[line - 1]!))!
    throw new Exit(1, `${file}:${bad.line}: ${bad.message}. Mend or remove the line first: it has home= or groups=`)
  }
  const line = lineOf(users.get(key))
  const kept = lines.filter((each) => !ownLine(each))
  const temporary = `${file}.${process.pid}.new`
  const out = openSync(temporary, 'wx', 0o600)
  try {
    try {
      if (old !== undefined) {
        const { uid, gid } = fstatSync(out)
        if (uid !== old.uid || gid !== old.gid) fchownSync(out, old.uid, old.gid)
        fchmodSync(out, old.mode & 0o777)
      }
      writeFileSync(out, `${[...kept, line].join('\n')}\n`)
      fsyncSync(out)
    } finally {
      closeSync(out)
    }
    renameSync(temporary, file)
  } catch (error) {
    unlinkSync(temporary)
    throw error
  }
  const directory = openSync(dirname(file), 'r')
  try {
    fsyncSync(directory)
  } finally {
    closeSync(directory)
  }
  return users.has(key) ? 'replaced' : 'added'
}
