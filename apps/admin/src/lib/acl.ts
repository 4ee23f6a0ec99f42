/**
 * `mailstead acl`: the access control lists of a user's mailboxes, or of those of a public namespace, as whoever runs the server sees them.
 *
 * Entries are written as in files: `user=bob lrs`, `group=team lr`, `-anyone w`. A running server has what is changed here at once. The
 * mailbox '' is the store itself: its list counts for whom the others say nothing of.
 */
import { readFileSync } from 'node:fs'
import { Command } from 'commander'
import {
  type AclList,
  changeAcl,
  EMPTY_ACL,
  encodeAcl,
  formatIdentifier,
  formatRights,
  type Identifier,
  parseIdentifier,
  parseRightNames,
  parseRights,
} from '@mailstead/acl'
import { formatAclFile } from '@mailstead/acl/file'
import { openMounts, registryFs } from '@mailstead/app-server'
import { readAcl, Sharing, userKey } from '@mailstead/server'
import { debug, explained, explanationText } from './acl-explain.ts'
import {
  type AclFlags,
  CLOSED,
  inStore,
  learnLists,
  listOf,
  print,
  type Subject,
  withFlags,
  withWhere,
} from './acl-store.ts'
import { Exit } from './exit.ts'
import { readUsers, whereOf } from './find-user.ts'
import { dovecotAcl } from './import-acl.ts'
import { mustBeThere } from './subjects.ts'

export function aclCommand(): Command {
  const command = new Command('acl').description('who may do what with which mailbox')
  command.addCommand(
    withFlags(new Command('get').description('the entries of a list').argument('<mailbox>'))
      .option('--dovecot', 'as a file dovecot-acl, which `set --file` reads, broken lines included')
      .action((mailbox: string, flags: AclFlags & { readonly dovecot?: boolean }) =>
        inStore(flags, { write: false }, (subject) => get(subject, mailbox, flags)),
      ),
  )
  command.addCommand(
    withFlags(
      new Command('set')
        .description('give or, with a - before the identifier, deny rights: `set Work user=bob +lrs`')
        .argument('<mailbox>')
        .argument('[identifier]')
        .argument('[rights]', 'letters, or names with commas; + adds, - removes, else they are replaced'),
    )
      .option('--file <path>', 'instead: replace the whole list by a file dovecot-acl (- is standard input)')
      .allowUnknownOption()
      .action(
        (
          mailbox: string,
          identifier: string | undefined,
          rights: string | undefined,
          flags: AclFlags & { readonly file?: string },
        ) => {
          const { file } = flags
          if (file !== undefined ? identifier !== undefined : rights === undefined)
            throw new Exit(2, 'say an identifier and rights, or --file FILE')
          const content = file === undefined ? undefined : readInput(file)
          return inStore(flags, { write: true }, (subject) =>
            content === undefined
              ? set(subject, mailbox, identifier!, rights!)
              : setFile(subject, mailbox, content, file!),
          )
        },
      ),
  )
  command.addCommand(
    withFlags(
      new Command('delete')
        .description('take the entry of an identifier away')
        .argument('<mailbox>')
        .argument('<identifier>'),
    )
      .allowUnknownOption()
      .action((mailbox: string, identifier: string, flags: AclFlags) =>
        inStore(flags, { write: true }, (subject) => change(subject, mailbox, identifier, 'clear', 0)),
      ),
  )
  command.addCommand(
    withFor(new Command('rights').description('the rights of a user, as letters').argument('<mailbox>')).action(
      (mailbox: string, flags: AclFlags) =>
        inStore(flags, { write: false }, async (subject) => {
          const { rights } = (await explained(subject, mailbox, flags)).explanation
          print(flags, formatRights(rights), () => formatRights(rights))
        }),
    ),
  )
  command.addCommand(
    withFor(
      new Command('explain').description('which entry gives or denies each right to a user').argument('<mailbox>'),
    ).action((mailbox: string, flags: AclFlags) =>
      inStore(flags, { write: false }, async (subject) => {
        const { explanation, names, isClosed } = await explained(subject, mailbox, flags)
        const why = (): string => `${isClosed ? `${CLOSED}\n` : ''}${explanationText(explanation, names)}`
        print(flags, { ...explanation, names }, why)
      }),
    ),
  )
  command.addCommand(
    withFor(new Command('debug').description('why a user sees a mailbox, or does not').argument('<mailbox>')).action(
      (mailbox: string, flags: AclFlags) =>
        inStore(flags, { write: false }, (subject) => debug(subject, mailbox, flags)),
    ),
  )
  return command
}

/** `mailstead share list`: what the registry says of who shares with whom. */
export function shareCommand(): Command {
  const list = withWhere(new Command('list').description('who lets whom see something')).action(
    async (flags: AclFlags) => {
      const where = whereOf(flags)
      await using mounts = await openMounts(where.config.state)
      await mustBeThere(where, mounts)
      await using fs = await registryFs(where.data, mounts)
      await using sharing = await Sharing.open(fs, { readOnly: true })
      // What is left of users who were removed is shown to nobody.
      const users = readUsers(where)?.users
      const entries = ((await sharing?.entries()) ?? []).filter(({ owner }) => users?.has(owner) !== false)
      if (entries.length === 0 && sharing?.isComplete !== true)
        process.stderr.write('mailstead: not every store was looked at yet: a server does that when it starts\n')
      print(flags, entries, () => entries.flatMap((one) => one.with.map((name) => `${one.owner} ${name}`)).join('\n'))
    },
  )
  return new Command('share').description('what users share with each other').addCommand(list)
}

function withFor(command: Command): Command {
  return withFlags(command).requiredOption('--for <name>', 'whose rights are asked for')
}

function get({ session }: Subject, mailbox: string, flags: AclFlags & { readonly dovecot?: boolean }): void {
  const list = listOf(session, mailbox)
  const { entries, broken } = list
  if (flags.dovecot === true) {
    const text = Buffer.from(formatAclFile(list)).toString()
    print(flags, text, () => text.replace(/\n$/, ''))
    return
  }
  const lines: { identifier: string; rights: string }[] = []
  for (const { kind, name, rights, denied } of entries) {
    const identifier = formatIdentifier({ kind, name })
    if (rights !== undefined) lines.push({ identifier, rights: formatRights(rights) })
    if (denied !== undefined) lines.push({ identifier: `-${identifier}`, rights: formatRights(denied) })
  }
  print(flags, lines, () =>
    [
      ...lines.map(({ identifier, rights }) => `${identifier} ${rights}`.trimEnd()),
      ...broken.map(({ text, problem }) => `# broken: ${text} (${problem})`),
      ...(session.isClosed(mailbox) ? [`# ${CLOSED}`] : []),
    ].join('\n'),
  )
  // Nothing on standard output is what scripts expect of a list without entries.
  if (flags.json !== true && session.acl(mailbox) === undefined && !session.isClosed(mailbox))
    process.stderr.write(
      'mailstead: no list of its own: defaults and the global file decide (acl explain --for NAME)\n',
    )
}

async function set(subject: Subject, mailbox: string, identifier: string, text: string): Promise<void> {
  const sign = text[0]
  const mode = sign === '+' ? 'add' : sign === '-' ? 'remove' : 'replace'
  const what = mode === 'replace' ? text : text.slice(1)
  const names = what.split(/[\s,]+/).filter((name) => name !== '')
  const byName =
    names.length > 1 || /^[a-z]+-[a-z]+$|^(?:lookup|read|write|insert|post|expunge|create|delete|admin)$/.test(what)
  await change(subject, mailbox, identifier, mode, byName ? parseRightNames(names) : parseRights(what))
}

/** The file becomes the list, as an import reads it: exit code 1 if a line of it gives nothing because it is broken. */
async function setFile(subject: Subject, mailbox: string, content: Uint8Array, file: string): Promise<void> {
  const told: string[] = []
  const list = dovecotAcl(content, (message) => told.push(message))
  await put(subject, mailbox, () => list)
  for (const message of told) process.stderr.write(`mailstead: ${file}: ${message}\n`)
  if (told.length > 0) throw new Exit(1)
}

function readInput(file: string): Uint8Array {
  try {
    return readFileSync(file === '-' ? 0 : file)
  } catch (error) {
    throw new Exit(2, `${file} cannot be read: ${(error as Error).message}`)
  }
}

async function change(
  subject: Subject,
  mailbox: string,
  text: string,
  mode: 'replace' | 'add' | 'remove' | 'clear',
  rights: number,
): Promise<void> {
  const negative = text.startsWith('-')
  const identifier = identifierOf(negative ? text.slice(1) : text)
  await put(subject, mailbox, (list) => changeAcl(list, { identifier, negative, mode, rights }))
}

async function put(subject: Subject, mailbox: string, make: (list: AclList) => AclList): Promise<void> {
  const { session } = subject
  await session.changeAcl(mailbox, (value) => {
    const list = make(value === undefined ? EMPTY_ACL : readAcl(value))
    return list.entries.length === 0 && list.broken.length === 0 ? undefined : encodeAcl(list)
  })
  await learnLists(subject.where, subject.namespace ?? { owner: subject.owner! }, session)
}

function identifierOf(text: string): Identifier {
  const identifier = parseIdentifier(text)
  if (identifier === undefined)
    throw new Exit(
      2,
      `${JSON.stringify(text)} names nobody: write anyone, authenticated, owner, user=NAME, group=NAME, group-override=NAME or domain=NAME`,
    )
  return identifier.kind === 'user' ? { kind: 'user', name: userKey(identifier.name) } : identifier
}
