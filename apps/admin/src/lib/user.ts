import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs'
import { dirname } from 'node:path'
import { Command, Option } from 'commander'
import {
  badUserName,
  formatUserLine,
  hashSecret,
  parseUserLine,
  parseUsers,
  SECRET_SCHEMES,
  type SecretScheme,
  userKey,
} from '@mailstead/server'
import { Exit } from './exit.ts'
import { whereOf, type WhereFlags } from './find-user.ts'
import { secretLine } from './input.ts'

interface AddFlags extends WhereFlags {
  readonly scheme: SecretScheme
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
    .addOption(
      new Option('--scheme <scheme>', 'how the password is kept').choices([...SECRET_SCHEMES]).default('ARGON2ID'),
    )
    .option('--home <path>', 'directory of the store, below the data directory')
    .option('--groups <names>', 'groups, separated by commas')
    .action(async (name: string, flags: AddFlags) => {
      const file = flags.users ?? whereOf(flags).users
      const wrong = badUserName(name)
      if (wrong !== undefined) throw new Exit(2, `${JSON.stringify(name)}: ${wrong}`)
      const secret = await hashSecret(flags.scheme, await secretLine(`Password of ${name}`))
      const line = formatUserLine({
        name,
        secret,
        home: flags.home,
        groups: flags.groups?.split(',').filter((group) => group !== ''),
      })
      const read = parseUserLine(line)
      if (typeof read === 'string') throw new Exit(2, read)
      const outcome = putUser(file, userKey(name), line)
      process.stdout.write(outcome === 'added' ? `${name} was added.\n` : `${name} has a new line.\n`)
    })
  return new Command('user').description('the users file').addCommand(add)
}

/** Writes the file anew, durably, so that a crash leaves the old one or the new one. */
function putUser(file: string, key: string, line: string): 'added' | 'replaced' {
  const before = existsSync(file) ? readFileSync(file, 'utf8') : ''
  const lines = before === '' ? [] : before.replace(/\r?\n$/, '').split('\n')
  const had = parseUsers(before).users.has(key)
  const kept = lines.filter(
    (each) => each.startsWith('#') || userKey(each.slice(0, Math.max(0, each.indexOf(':')))) !== key,
  )
  const mode = existsSync(file) ? statSync(file).mode & 0o777 : 0o600
  const temporary = `${file}.${process.pid}.new`
  const out = openSync(temporary, 'wx', mode)
  try {
    writeSync(out, `${[...kept, line].join('\n')}\n`)
    fsyncSync(out)
  } catch (error) {
    unlinkSync(temporary)
    throw error
  } finally {
    closeSync(out)
  }
  renameSync(temporary, file)
  const directory = openSync(dirname(file), 'r')
  try {
    fsyncSync(directory)
  } finally {
    closeSync(directory)
  }
  return had ? 'replaced' : 'added'
}
