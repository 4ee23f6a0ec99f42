/**
 * Writing the users file: anew as a whole and durably, so that a crash leaves the old one or the new one; owner and mode stay. Others who
 * write it meanwhile wait: they hold the same lock.
 */
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
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, resolve, sep } from 'node:path'
import {
  checkDataDirectory,
  emptyConfig,
  lockBeside,
  mayBeMade,
  mustBeMounted,
  openMounts,
  stateDirectory,
} from '@mailstead/app-server'
import { type ParsedUsers, parseUsers, userKey } from '@mailstead/server'
import { Exit } from './exit.ts'
import { readIfThere, type Where, whereOf, type WhereFlags } from './find-user.ts'

/** How long somebody else who writes the file is waited for, in milliseconds. */
const LOCK_WAIT_MS = 10_000

export interface UsersFlags extends WhereFlags {
  readonly state?: string
}

/** The file to write, and where the mail is, if that was said. Nothing is made without marker, or where something must be mounted. */
export async function usersFileOf(
  flags: UsersFlags,
): Promise<{ readonly file: string; readonly where: Where | undefined }> {
  const alone = flags.users !== undefined && flags.data === undefined && flags.config === undefined
  const where = alone ? undefined : whereOf(flags)
  const file = where?.users ?? flags.users!
  await using mounts = await openMounts(stateDirectory(flags.state, where?.config ?? emptyConfig))
  await mustBeMounted(dirname(resolve(file)), mounts)
  await mayBeMade(dirname(resolve(file)), mounts)
  // What it leads to, if it is a link.
  if (existsSync(file)) await mustBeMounted(dirname(realpathSync(file)), mounts)
  if (where !== undefined && resolve(file).startsWith(`${resolve(where.data)}${sep}`))
    await checkDataDirectory(where.data, mounts)
  return { file, where }
}

export interface UsersLines extends ParsedUsers {
  /** Without line ends. */
  readonly lines: readonly string[]
}

/** Replaces the lines by what `change` makes of them; undefined: the file stays as it is. */
export async function changeLines(
  named: string,
  change: (now: UsersLines) => readonly string[] | undefined,
): Promise<void> {
  const file = existsSync(named) ? realpathSync(named) : named
  await using _lock = await lockBeside(file, LOCK_WAIT_MS)
  const old = statSync(file, { throwIfNoEntry: false })
  const before = readIfThere(file) ?? ''
  const lines = before === '' ? [] : before.replace(/\r?\n$/, '').split('\n')
  const after = change({ ...parseUsers(before), lines })
  if (after === undefined) return
  const temporary = `${file}.new`
  // Left by a process that was killed: nobody else is here now.
  rmSync(temporary, { force: true })
  const out = openSync(temporary, 'wx', 0o600)
  try {
    try {
      if (old !== undefined) {
        const { uid, gid } = fstatSync(out)
        if (uid !== old.uid || gid !== old.gid) fchownSync(out, old.uid, old.gid)
        fchmodSync(out, old.mode & 0o777)
      }
      writeFileSync(out, after.map((line) => `${line}\n`).join(''))
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
}

/** Whether a line is that of the user of this key, be it readable or not. */
export function isLineOf(line: string, key: string): boolean {
  return !line.startsWith('#') && userKey(line.slice(0, Math.max(0, line.indexOf(':')))) === key
}

/** A line that cannot be read may name a store all the same: Exit 1 if that is the user's. */
export function mustBeReadable(file: string, { users, problems, lines }: UsersLines, key: string): void {
  if (users.has(key) || !lines.some((line) => isLineOf(line, key) && /[:\s](?:home|groups)=/.test(line))) return
  const bad = problems.findLast(({ line }) => isLineOf(lines[line - 1]!, key))!
  throw new Exit(1, `${file}:${bad.line}: ${bad.message}. Mend or remove the line first: it has home= or groups=`)
}

/** In front of what says that somebody's mail is being removed: a comment to everybody else. */
const REMOVAL = '# being removed: '

/** The comment that stands for a user whose mail is being removed. */
export function removalLine(name: string, home: string | undefined): string {
  return `${REMOVAL}${name}${home === undefined ? '' : ` home=${encodeURIComponent(home)}`}`
}

/** Whose removal a line says has begun; undefined: nobody's. */
export function removalOf(line: string): { readonly name: string; readonly home: string | undefined } | undefined {
  if (!line.startsWith(REMOVAL)) return undefined
  const [name = '', field] = line.slice(REMOVAL.length).trimEnd().split(' ')
  return {
    name,
    home: field?.startsWith('home=') === true ? decodeURIComponent(field.slice('home='.length)) : undefined,
  }
}
