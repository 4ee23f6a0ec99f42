/**
 * `mailstead user remove`: takes a user out of the users file, and, if it is asked for, his rights in lists of others, and his mail.
 *
 * ORDER    The users file first: from then on nobody is told that mail for him was taken, and what he shared is shown to nobody. Then
 *          rights, the registry of what is shared, and his mail at the end (remove-store.ts). Where mail is to be removed a comment in
 *          the users file says so, and where it is, until it is gone: whenever this is cut short, the same command goes on.
 *
 * Exit codes: 0 done, 1 there is nobody of that name, or his store is in use, 2 misused, or something could not be looked at.
 */
import { join } from 'node:path'
import { type AclList, changeAcl, encodeAcl } from '@mailstead/acl'
import { mustHaveRoots, notAStore, openMounts, overlap, registryFs, removeUserStore } from '@mailstead/app-server'
import { FsError } from '@mailstead/fs'
import { readAcl, Sharing, userDirectory, userKey } from '@mailstead/server'
import { Command } from 'commander'
import { learnLists } from './acl-store.ts'
import { eachStore, type Failure, tell } from './each-store.ts'
import { Exit } from './exit.ts'
import { isThere, readUsers, type Where } from './find-user.ts'
import { namedBy, names } from './named-by.ts'
import { lookAt } from './subjects.ts'
import {
  changeLines,
  isLineOf,
  mustBeReadable,
  removalLine,
  removalOf,
  usersFileOf,
  type UsersFlags,
} from './users-lines.ts'

interface RemoveFlags extends UsersFlags {
  readonly deleteMail?: string
  readonly home?: string
  readonly revoke?: boolean
}

export function removeCommand(): Command {
  return new Command('remove')
    .description('take a user out of the users file; his mail stays unless it is to be deleted')
    .argument('<name>')
    .option('--users <file>', 'users file (default: users.passwd in the data directory)')
    .option('--data <dir>', 'data directory')
    .option('--config <file>', 'configuration file')
    .option('--state <dir>', 'directory of what is known of mounts')
    .option('--revoke', 'take his name out of the lists of all others, and of public namespaces')
    .option('--delete-mail <name>', 'delete his mail for good: say the name again')
    .option('--home <path>', 'where the mail of somebody is who is not in the users file any more')
    .action(remove)
}

async function remove(name: string, flags: RemoveFlags): Promise<void> {
  const key = userKey(name)
  const deletes = flags.deleteMail !== undefined
  if (deletes && userKey(flags.deleteMail!) !== key)
    throw new Exit(2, `--delete-mail ${flags.deleteMail!} is not ${name}: nothing was done`)
  const { file, where } = await usersFileOf(flags)
  if (where === undefined && (deletes || flags.revoke === true))
    throw new Exit(2, 'say where the mail is: --data DIR, or --config FILE')
  // Before anything is changed: what is away is not gone.
  if (where !== undefined) await lookAt(flags)
  if (where !== undefined && deletes)
    await mustHaveRoots(where.data, where.config).catch((error: unknown) => {
      throw new Exit(2, (error as Error).message)
    })
  const user = await takeOut(file, key, flags, where)
  if (user.was === 'listed')
    say(`${name} was removed: nobody can log in by that name, it gets no mail, and what it shared is not shown.`)
  if (where === undefined) return
  const failures: Failure[] = flags.revoke === true ? await revoke(where, flags, key) : await warn(where, key)
  if (deletes) await removeMail(where, file, user)
  else if (isThere(join(where.data, userDirectory(user))))
    say(`The mail stays in ${join(where.data, userDirectory(user))}.`)
  tell(failures)
}

interface Removed {
  readonly name: string
  readonly home: string | undefined
  /** `begun`: by an earlier run; `absent`: nobody has the name. */
  readonly was: 'listed' | 'begun' | 'absent'
}

/** The line goes, and, where mail is to be removed, a comment comes. */
async function takeOut(file: string, key: string, flags: RemoveFlags, where: Where | undefined): Promise<Removed> {
  const deletes = flags.deleteMail !== undefined
  let user: Removed | undefined
  await changeLines(file, (now) => {
    mustBeReadable(file, now, key)
    const begun = now.lines.map(removalOf).find((one) => one?.name === key)
    const was = now.lines.some((line) => isLineOf(line, key)) ? 'listed' : begun === undefined ? 'absent' : 'begun'
    user = { name: key, home: now.users.get(key)?.home ?? begun?.home ?? flags.home, was }
    if (was === 'absent' && !deletes && flags.revoke !== true) throw new Exit(1, `there is no user ${key} in ${file}`)
    if (!deletes && begun !== undefined)
      throw new Exit(1, `the mail of ${key} is being removed: say --delete-mail ${key} again, to finish that`)
    const wrong = deletes ? notAStore(where!.data, user, where!.config) : undefined
    if (wrong !== undefined) throw new Exit(2, `${wrong}: nothing was done`)
    if (deletes)
      for (const other of now.users.values())
        if (other.name !== key && overlap(userDirectory(other), userDirectory(user)))
          throw new Exit(
            1,
            `${other.name} has the same store, ${userDirectory(other)}, or one inside: nothing was done`,
          )
    if (was === 'absent' && !deletes) return undefined
    const others = now.lines.filter((line) => !isLineOf(line, key) && removalOf(line)?.name !== key)
    return deletes ? [...others, removalLine(key, user.home)] : others
  })
  return user!
}

/** What is left of him in lists is told: who gets the name next has it. */
async function warn(where: Where, key: string): Promise<Failure[]> {
  const { found, failures } = await namedBy(where, key)
  for (const { place } of found)
    process.stderr.write(
      `mailstead: ${key} is still named by ${place}: a new user of that name has these rights (--revoke)\n`,
    )
  return [...failures]
}

/** His name goes out of every list in a store that can be opened. */
async function revoke(where: Where, flags: RemoveFlags, key: string): Promise<Failure[]> {
  const owners = readUsers(where)?.users
  const unread: Failure[] = []
  const { failures } = await eachStore(flags, { readOnly: false }, async (owner, store) => {
    const session = store.as({ name: 'mailstead', unrestricted: true })
    let count = 0
    for (const [mailbox, value] of session.acls()) {
      const list = readAcl(value)
      if (list.broken.some(({ text }) => text === ''))
        unread.push({ user: owner, message: `the list of ${JSON.stringify(mailbox)} cannot be read` })
      if (!names(list, key)) continue
      await session.changeAcl(mailbox, (now) => without(now, key))
      count++
    }
    if (count === 0) return
    say(`${owner}: ${count} ${count === 1 ? 'list does' : 'lists do'} not name ${key} any more.`)
    if (owners?.has(owner) === true) await learnLists(where, { owner }, session)
  })
  for (const { place } of (await namedBy(where, key)).found)
    process.stderr.write(`mailstead: ${key} is still named by ${place}: change that yourself\n`)
  if (flags.config === undefined)
    process.stderr.write('mailstead: no configuration was given, so no public namespace is known\n')
  return [...failures, ...unread]
}

function without(value: Uint8Array | undefined, key: string): Uint8Array | undefined {
  if (value === undefined) return undefined
  let list: AclList = readAcl(value)
  const spellings = new Set(
    [...list.entries, ...list.broken.map(({ effect }) => effect)].flatMap(({ kind, name }) =>
      kind === 'user' && userKey(name) === key ? [name] : [],
    ),
  )
  for (const name of spellings)
    for (const negative of [false, true])
      list = changeAcl(list, { identifier: { kind: 'user', name }, negative, mode: 'clear' })
  return list.entries.length === 0 && list.broken.length === 0 ? undefined : encodeAcl(list)
}

/** What he shared is looked for nowhere any more. While his mail is kept this stays, for when he comes back. */
async function forget({ data, config }: Where, key: string): Promise<void> {
  if (config.namespaces.length === 0) return
  await using mounts = await openMounts(config.state)
  await using fs = await registryFs(data, mounts)
  await using sharing = await Sharing.open(fs, {
    onEvent: ({ message }) => process.stderr.write(`mailstead: ${message}\n`),
  })
  await sharing.learn(key, { with: undefined, mailboxes: undefined })
}

async function removeMail(where: Where, file: string, user: Removed): Promise<void> {
  const { data, config } = where
  await forget(where, user.name)
  let done: 'removed' | 'absent'
  try {
    done = await removeUserStore(data, user, {
      settings: config,
      onWait: () => say(`The store of ${user.name} is in use: waiting until it is let go of.`),
    })
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_LOCKED') throw new Exit(1, error.message)
    throw error
  }
  await changeLines(file, ({ lines }) => lines.filter((line) => removalOf(line)?.name !== user.name))
  if (done === 'absent' && user.was === 'absent')
    throw new Exit(1, `there is no user ${user.name} in ${file}, and no mail in ${join(data, userDirectory(user))}`)
  say(done === 'removed' ? `The mail of ${user.name} was deleted.` : `${user.name} had no mail.`)
}

function say(text: string): void {
  process.stdout.write(`${text}\n`)
}
