/**
 * Access lists beside a real Dovecot with its ACL plugin: random `dovecot-acl` files and global files, the rights of users as Dovecot's
 * MYRIGHTS tells them, what GETACL shows, and the file that SETACL leaves.
 *
 * Dovecot's imap process is run by itself on its input, once for each user; nothing listens.
 */
import { spawnSync } from 'node:child_process'
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  Acl,
  type AclChange,
  changeAcl,
  formatImapIdentifier,
  formatImapRights,
  formatRights,
  parseRights,
  POST,
  RIGHT_LETTERS,
  RIGHT_NAMES,
  subjectOf,
} from '@mailstead/acl'
import { formatAclFile, GlobalAcl, parseAclFile } from '@mailstead/acl/file'
import { describe, expect } from 'vitest'
import { below, deep, type Lack, runSeed, say, seeded } from '../support/depth.ts'
import { testUnless } from '../support/test-unless.ts'
import { dovecotLack, temporaryDirectory } from './lib/servers.ts'
import { parseValues, textOf } from './lib/values.ts'

const IMAP = '/usr/lib/dovecot/imap'
const PLUGIN = '/usr/lib/dovecot/modules/lib02_imap_acl_plugin.so'
const OWNER = 'ann'

/** Users with their groups, as they are told to both. */
const SUBJECTS: readonly { readonly user: string; readonly groups: readonly string[] }[] = [
  { user: OWNER, groups: [] },
  { user: OWNER, groups: ['g1', 'g 3'] },
  { user: 'bob', groups: [] },
  { user: 'bob', groups: ['g1'] },
  { user: 'bob', groups: ['g2', 'g1', 'g 3'] },
  { user: 'o"b \\\'x', groups: ['g 3'] },
  { user: 'dan', groups: ['g2'] },
  { user: 'dan', groups: [] },
]

const NAMED = ['user=bob', `user=${OWNER}`, 'user=o"b \\\'x', 'group=g1', 'group=g2', 'group=g 3']
const OVERRIDES = ['group-override=g1', 'group-override=g2', 'group-override=g 3']
const IDENTIFIERS = ['anyone', 'anonymous', 'authenticated', 'owner', ...NAMED, ...OVERRIDES]

type Random = () => number

function one<T>(random: Random, list: readonly T[]): T {
  return list[below(random, list.length)]!
}

/** A line that Dovecot takes. */
function randomLine(random: Random, wide = false): string {
  const identifier = `${random() < 0.3 ? '-' : ''}${one(random, IDENTIFIERS)}`
  const quoted = identifier.includes(' ') || random() < 0.1 ? `"${identifier.replace(/["\\']/g, '\\$&')}"` : identifier
  let letters = ''
  for (const letter of RIGHT_LETTERS)
    if (random() < (wide ? 0.7 : 0.4)) letters = random() < 0.5 ? letters + letter : letter + letters
  const names =
    random() < 0.15
      ? `${random() < 0.5 ? ' ' : ''}:${one(random, ['', ' '])}${one(random, RIGHT_NAMES)}${one(random, ['', ',foo', ' read,\tpost', ' x-y'])}`
      : ''
  if (letters === '' && names === '' && random() < 0.5) return quoted
  return `${quoted} ${one(random, ['', '', '', ' ', '\t'])}${letters}${names}${one(random, ['', '', '', ' ', ' \t'])}`
}

function randomFile(random: Random, most = 7): string {
  const lines = Array.from({ length: below(random, most) }, () =>
    random() < 0.05 ? one(random, ['', '# user=bob lr']) : randomLine(random, random() < 0.3),
  )
  return lines.join(random() < 0.1 ? '\r\n' : '\n') + (random() < 0.8 ? '\n' : '')
}

/** A Dovecot of its own, with the mailboxes of one user in mdbox. */
class Peer {
  readonly directory: string = temporaryDirectory('acl')
  readonly mail: string = join(this.directory, 'home', 'mdbox', 'mailboxes')
  readonly #ids: { readonly uid: number; readonly gid: number }

  constructor() {
    const id = (flag: string): number => Number(spawnSync('id', [flag, 'mail'], { encoding: 'utf8' }).stdout)
    this.#ids = { uid: id('-u'), gid: id('-g') }
    mkdirSync(join(this.directory, 'home'), { recursive: true })
    mkdirSync(join(this.directory, 'run'))
    for (const name of ['home', 'run']) chownSync(join(this.directory, name), this.#ids.uid, this.#ids.gid)
    this.write('global', '')
    writeFileSync(
      join(this.directory, 'dovecot.conf'),
      `base_dir = ${this.directory}/run
protocols = imap
ssl = no
log_path = /dev/stderr
first_valid_uid = 1
first_valid_gid = 1
mail_location = mdbox:${this.directory}/home/mdbox
mail_plugins = acl
namespace inbox {
  inbox = yes
  separator = /
}
protocol imap {
  mail_plugins = acl imap_acl
}
plugin {
  acl = vfile:${this.directory}/global
  acl_anyone = allow
}
`,
    )
  }

  write(path: string, text: string | Uint8Array): void {
    const file = join(this.directory, path)
    writeFileSync(file, text)
    chmodSync(file, 0o644)
    chownSync(file, this.#ids.uid, this.#ids.gid)
  }

  /** What the commands get for answer, in a session of a user in the owner's mailboxes. */
  session(
    { user, groups }: { readonly user: string; readonly groups: readonly string[] },
    commands: readonly string[],
    settings: readonly string[] = [],
  ): string[] {
    const options = [`plugin/acl_user=${user}`, `plugin/acl_groups=${groups.join(',')}`, ...settings]
    const run = spawnSync(
      IMAP,
      ['-c', join(this.directory, 'dovecot.conf'), ...options.flatMap((option) => ['-o', option])],
      {
        ...this.#ids,
        cwd: this.directory,
        env: { HOME: join(this.directory, 'home'), USER: OWNER, PATH: process.env['PATH'] },
        input: `${commands.map((command, at) => `a${at} ${command}\r\n`).join('')}z LOGOUT\r\n`,
        encoding: 'latin1',
        maxBuffer: 256 * 1024 * 1024,
      },
    )
    const answers: string[] = []
    let from = run.stdout.indexOf('\r\n') + 2
    for (const at of commands.keys()) {
      const tagged = new RegExp(`^a${at} (OK|NO|BAD)[^\\n]*\\n`, 'm')
      const rest = run.stdout.slice(from)
      const end = tagged.exec(rest)
      if (end === null)
        throw new Error(`no answer to ${commands[at]}:\n${rest.slice(0, 500)}\n${run.stderr.slice(0, 2000)}`)
      answers.push(rest.slice(0, end.index + end[0].length))
      from += end.index + end[0].length
    }
    return answers
  }

  [Symbol.dispose](): void {
    rmSync(this.directory, { recursive: true, force: true })
  }
}

function aclLack(): Lack | undefined {
  return dovecotLack() ?? (existsSync(PLUGIN) ? undefined : { reason: `no ${PLUGIN}` })
}

/** A file for each mailbox, the global file, and the list of the default mailbox. */
interface World {
  readonly files: readonly (string | undefined)[]
  readonly global: string
  readonly defaults: string
  readonly fromInbox: boolean
}

/** Patterns that match a mailbox, most of them few others. */
function patternsOf(at: number): string[] {
  const number = `${at}`
  return [
    `m${at}`,
    `m${at}`,
    `"m${at}"`,
    `m${number.slice(0, -1)}?`,
    `*${at}`,
    `m*${number.slice(1)}*`,
    `"${number.slice(-1)}*"`,
    `m${at}*`,
  ]
}

function randomWorld(random: Random, mailboxes: number, turn: number): World {
  const global: string[] = []
  if (turn % 2 === 1)
    for (let at = 0; at < mailboxes; at++)
      if (random() < 0.5) global.push(`${one(random, patternsOf(at))} ${randomLine(random)}`)
  return {
    files: Array.from({ length: mailboxes }, () => (random() < 0.1 ? undefined : randomFile(random))),
    global: `${global.join('\n')}\n`,
    defaults: turn % 3 === 0 ? '' : randomFile(random),
    fromInbox: turn % 3 === 2,
  }
}

function install(peer: Peer, { files, global, defaults, fromInbox }: World): void {
  const relative = 'home/mdbox/mailboxes'
  for (const [at, file] of files.entries()) {
    rmSync(join(peer.mail, `m${at}/dbox-Mails/dovecot-acl`), { force: true })
    if (file !== undefined) peer.write(`${relative}/m${at}/dbox-Mails/dovecot-acl`, file)
  }
  peer.write(`${relative}/dovecot-acl`, fromInbox ? '' : defaults)
  peer.write(`${relative}/INBOX/dbox-Mails/dovecot-acl`, fromInbox ? defaults : '')
  peer.write('global', global)
}

function aclsOf({ files, global, defaults, fromInbox }: World): Acl[] {
  const globals = new GlobalAcl(Buffer.from(global))
  const fallback = new Acl({
    owner: OWNER,
    local: parseAclFile(Buffer.from(defaults)).list,
    global: globals.layersFor(fromInbox ? 'INBOX' : ''),
  })
  return files.map((file, at) => {
    const { list, findings } = parseAclFile(Buffer.from(file ?? ''))
    expect(findings.filter(({ kind }) => kind === 'broken')).toEqual([])
    return new Acl({ owner: OWNER, local: list, global: globals.layersFor(`m${at}`), defaults: fallback })
  })
}

/**
 * The rights of a MYRIGHTS reply. It says NO if there are none, or only that to post, which lets nobody know that there is a mailbox
 * (unless there is one of an unknown name besides): that counts as none.
 */
function myRights(answer: string): string {
  const found = /^\* MYRIGHTS \S+ "?([a-z]*)"?\r?\n/m.exec(answer)
  if (found === null && !/^a\d+ NO/m.test(answer)) throw new Error(`no MYRIGHTS: ${answer}`)
  const letters = (found?.[1] ?? '').replace(/[cd]/g, '')
  return letters === 'p' ? '' : formatRights(parseRights(letters))
}

/**
 * Whom a GETACL reply shows with which rights, equal to what the lists have. Dovecot may show `owner` by his name if nothing else has
 * that, and adds him where no entry gives him anything.
 */
function expectShown(answer: string, acl: Acl): void {
  const line = /^\* ACL ([^\r\n]*)/m.exec(answer)![1]!
  const values = parseValues(Buffer.from(line, 'latin1')).map(textOf)
  const named = acl.layers.some(({ list }) => list.entries.some(({ kind, name }) => kind === 'user' && name === OWNER))
  const asOwner = (identifier: string): string =>
    named ? identifier : identifier.replace(new RegExp(`^(-?#?)${OWNER}$`), '$1owner')
  const told = new Map<string, string>()
  for (let at = 1; at < values.length; at += 2) told.set(asOwner(values[at]!), sorted(values[at + 1]!))
  const expected = new Map<string, string>()
  for (const { list, global } of acl.layers)
    for (const entry of list.entries)
      for (const [negative, rights] of [
        [false, entry.rights],
        [true, entry.denied],
      ] as const)
        if (rights !== undefined)
          expected.set(formatImapIdentifier(entry, { negative, global }), sorted(formatImapRights(rights)))
  for (const added of [OWNER, 'owner']) if (!expected.has(added)) told.delete(added)
  expect(told).toEqual(expected)
}

function sorted(letters: string): string {
  return letters.split('').sort().join('')
}

function formatted(list: Parameters<typeof formatAclFile>[0]): string {
  return Buffer.from(formatAclFile(list)).toString()
}

function randomChange(random: Random): AclChange {
  return {
    identifier: one(random, [
      { kind: 'user', name: 'bob' },
      { kind: 'user', name: 'z z' },
      { kind: 'group', name: 'g1' },
      { kind: 'group-override', name: 'g 3' },
      { kind: 'anyone', name: '' },
    ] as const),
    mode: one(random, ['replace', 'add', 'remove', 'clear'] as const),
    negative: random() < 0.3,
    rights: below(random, 2048) & below(random, 2048),
  }
}

/** The command for a change. Each right is set by its own letter. */
function setAcl(mailbox: string, { identifier, mode, negative = false, rights = 0 }: AclChange): string {
  const who = `"${formatImapIdentifier(identifier, { negative })}"`
  if (mode === 'clear') return `DELETEACL ${mailbox} ${who}`
  return `SETACL ${mailbox} ${who} "${mode === 'add' ? '+' : mode === 'remove' ? '-' : ''}${formatRights(rights)}"`
}

describe('access lists of a real Dovecot', () => {
  testUnless(aclLack(), 'give the same rights, are shown alike and written alike', () => {
    const seed = runSeed()
    const random = seeded(seed)
    const mailboxes = deep() ? 300 : 60
    const worlds = deep() ? 12 : 6
    using peer = new Peer()
    const names = Array.from({ length: mailboxes }, (_, at) => `m${at}`)
    const owner = { user: OWNER, groups: [] }
    for (const answer of peer.session(owner, [...names.map((name) => `CREATE ${name}`), 'STATUS INBOX (UIDNEXT)']))
      expect(answer).toMatch(/^a\d+ OK/m)
    let compared = 0
    let shown = 0
    let written = 0
    for (let turn = 0; turn < worlds; turn++) {
      const world = randomWorld(random, mailboxes, turn)
      const settings = world.fromInbox ? ['plugin/acl_defaults_from_inbox=yes'] : []
      install(peer, world)
      const acls = aclsOf(world)
      for (const who of SUBJECTS) {
        const subject = subjectOf(who.user, who.groups)
        const answers = peer.session(
          who,
          names.map((name) => `MYRIGHTS ${name}`),
          settings,
        )
        for (const [at, answer] of answers.entries()) {
          const rights = acls[at]!.rightsFor(subject)
          const told = formatRights(rights === POST ? 0 : rights)
          expect([told, world.files[at], world.global, who]).toEqual([
            myRights(answer),
            world.files[at],
            world.global,
            who,
          ])
          compared++
        }
      }
      const admin = names.filter((_, at) => (acls[at]!.rightsFor(subjectOf(OWNER)) & 1025) === 1025)
      const shownBy = peer.session(
        owner,
        admin.map((name) => `GETACL ${name}`),
        settings,
      )
      for (const [at, answer] of shownBy.entries()) {
        expectShown(answer, acls[Number(admin[at]!.slice(1))]!)
        shown++
      }
      const changes = admin.map((name) => ({ name, at: Number(name.slice(1)), change: randomChange(random) }))
      peer.session(
        owner,
        changes.map(({ name, change }) => setAcl(name, change)),
        settings,
      )
      for (const { name, at, change } of changes) {
        const { list } = parseAclFile(Buffer.from(world.files[at] ?? ''))
        const changed = changeAcl(list, change)
        const { identifier, negative = false } = change
        const known = list.entries.find(({ kind, name: who }) => kind === identifier.kind && who === identifier.name)
        const half = negative ? known?.denied : known?.rights
        // Dovecot writes no file that says the same, and takes SETACL with no rights for no entry where there is none.
        if (formatted(changed) === formatted(list) || (half === undefined && change.rights === 0)) continue
        const left = readFileSync(join(peer.mail, name, 'dbox-Mails/dovecot-acl'), 'utf8')
        expect([left, world.files[at], setAcl(name, change)]).toEqual([
          formatted(changed),
          world.files[at],
          setAcl(name, change),
        ])
        written++
      }
    }
    say(
      `access lists beside Dovecot (seed ${seed}): ${worlds * mailboxes} mailboxes, ${compared} rights of users equal, ${shown} GETACL, ${written} files after SETACL`,
    )
  })
})
