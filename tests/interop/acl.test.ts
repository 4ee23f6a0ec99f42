/**
 * What each right is for: one after another is taken away, every command that needs rights is tried, and the answers are those of a real
 * Dovecot with the same lists, or the difference is listed here with its reason.
 */
import { writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { GlobalAcl } from '@mailstead/acl/file'
import { ImapTestClient } from '@mailstead/imap/testing'
import { testServer } from '@mailstead/server/testing'
import { describe, expect } from 'vitest'
import { deep, say } from '../support/depth.ts'
import { testUnless } from '../support/test-unless.ts'
import { dovecotLack, PASSWORD, startDovecot } from './lib/servers.ts'

const ALL = 'lrwstipekxa'
/** Taken away together. */
const SOME: readonly string[] = ['', ...Array.from(ALL), ALL]
const MORE: readonly string[] = ['lr', 'li', 'lx', 'le', 'la', 'lk', 'wst', 'wstei', 'wsteip', 'lrwstipekx']

interface Served extends AsyncDisposable {
  logIn(user: string): Promise<ImapTestClient>
}

/** `global` is the text of a global file. */
async function mailstead(global = ''): Promise<Served> {
  const file = new GlobalAcl(Buffer.from(global))
  const server = await testServer({
    users: { alice: PASSWORD, bob: PASSWORD, carol: PASSWORD },
    shared: {
      namespaces: [{ kind: 'shared', prefix: 'shared/%user/' }],
      globalFor: (names) => file.layersFor(...names),
    },
  })
  return { logIn: (user) => logIn(server.imap.port, user), [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
}

async function dovecot(global = ''): Promise<Served> {
  const server = await startDovecot({
    dovecotConfig: (directory) => {
      writeFileSync(`${directory}/global`, global, { mode: 0o644 })
      return `
mail_plugins = acl
protocol imap {
  mail_plugins = acl imap_acl
}
plugin {
  acl = vfile:${directory}/global
  acl_shared_dict = file:${directory}/home/shared.db
}
namespace shared {
  type = shared
  separator = /
  prefix = shared/%%n/
  location = mdbox:${directory}/home/%%n/mdbox
  subscriptions = no
  list = children
}
`
    },
  })
  return { logIn: (user) => logIn(server.imap, user), [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
}

async function logIn(port: number, user: string): Promise<ImapTestClient> {
  const client = new ImapTestClient(connect(port, '127.0.0.1'))
  await client.line()
  await client.ok(`LOGIN ${user} ${PASSWORD}`)
  return client
}

const message = (n: number): string => `From: a@example.org\r\nSubject: number ${n}\r\n\r\nHello.\r\n`
const literal = (text: string): string => `{${text.length}+}\r\n${text}`

/** OK, or NO with its code; of lines what is asked for. */
async function answer(client: ImapTestClient, command: string): Promise<{ said: string; lines: readonly string[] }> {
  const reply = await client.command(command)
  const code = /^NO \[([A-Z-]+)/.exec(reply.text)?.[1]
  const said = code === undefined ? reply.status : `NO ${code}`
  return { said, lines: [...reply.untagged, ...(reply.status === 'OK' ? [reply.text] : [])] }
}

const sorted = (text: string): string => Array.from(text).sort().join('')
const flagsIn = (lines: readonly string[]): string =>
  lines
    .map((line) => /^\* \d+ FETCH .*FLAGS \(([^)]*)\)/.exec(line)?.[1])
    .filter((flags) => flags !== undefined)
    .map((flags) =>
      flags
        .split(' ')
        .filter((flag) => flag !== '\\Recent' && flag !== '')
        .sort()
        .join(' '),
    )
    .join(', ')

const uidsTold = (lines: readonly string[]): string => /\b(?:COPY|APPEND)UID\b/.exec(lines.join())?.[0] ?? ''
const idsIn = (lines: readonly string[], what: string): string =>
  lines
    .find((line) => line.startsWith(`* ${what}`))
    ?.replace(`* ${what}`, '')
    .trim() ?? ''

/** What bob is told of alice's mailbox without some of his rights: command by command. */
async function tried(server: Served, without: string, n: number): Promise<Map<string, string>> {
  const found = new Map<string, string>()
  const [box, target] = [`Box${n}`, `Target${n}`]
  const name = `shared/alice/${box}`
  const rights = Array.from(ALL)
    .filter((letter) => !without.includes(letter))
    .join('')
  const alice = await server.logIn('alice')
  for (const each of [box, target]) {
    await alice.ok(`CREATE ${each}`)
    for (let i = 1; i <= 4; i++) await alice.ok(`APPEND ${each} ${literal(message(i))}`)
  }
  await alice.ok(`SETACL ${target} bob ${ALL}`)
  // An entry of its own for somebody else, so that there is a list also where bob has nothing.
  await alice.ok(`SETACL ${box} carol l`)
  if (rights !== '') await alice.ok(`SETACL ${box} bob ${rights}`)
  const bob = await server.logIn('bob')
  await bob.ok(`APPEND INBOX ${literal(message(0))}`)
  const note = async (what: string, command: string, more?: (lines: readonly string[]) => string): Promise<string> => {
    const { said, lines } = await answer(bob, command)
    found.set(what, more === undefined || said !== 'OK' ? said : `OK ${more(lines)}`)
    return said
  }
  await note('LIST', `LIST "" ${name}`, (lines) => (lines.some((line) => line.startsWith('* LIST')) ? 'listed' : ''))
  await note('MYRIGHTS', `MYRIGHTS ${name}`, (lines) => sorted(lines[0]!.split(' ').at(-1)!))
  await note('LIST STATUS', `LIST "" ${name} RETURN (STATUS (MESSAGES))`, (lines) =>
    lines.join().includes('MESSAGES 4') ? '4' : '',
  )
  await note('STATUS', `STATUS ${name} (MESSAGES)`, (lines) => (lines.join().includes('MESSAGES 4') ? '4' : ''))
  await note('GETACL', `GETACL ${name}`)
  await note('LISTRIGHTS', `LISTRIGHTS ${name} dave`)
  await note('SETACL', `SETACL ${name} dave lr`)
  await note('DELETEACL', `DELETEACL ${name} dave`)
  await note('SUBSCRIBE', `SUBSCRIBE ${name}`)
  await note('LSUB', `LSUB "" ${name}`, (lines) => (lines.some((line) => line.startsWith('* LSUB')) ? 'listed' : ''))
  await note('UNSUBSCRIBE', `UNSUBSCRIBE ${name}`)
  await note('EXAMINE', `EXAMINE ${name}`)
  await bob.command('UNSELECT')
  const selected = await bob.command(`SELECT ${name}`)
  const isOpen = selected.status === 'OK'
  found.set('SELECT', isOpen ? 'OK' : (/^NO \[([A-Z-]+)/.exec(selected.text)?.[1] ?? 'NO'))
  if (isOpen) {
    found.set('SELECT mode', /^OK \[READ-(?:ONLY|WRITE)\]/.exec(selected.text)?.[0] ?? '')
    const permanent = selected.untagged.find((line) => line.includes('PERMANENTFLAGS'))
    found.set(
      'PERMANENTFLAGS',
      /\(([^)]*)\)/
        .exec(permanent ?? '')![1]!
        .split(' ')
        .sort()
        .join(' '),
    )
    await note('STORE +', 'STORE 1 +FLAGS (\\Seen \\Deleted \\Flagged kw)')
    await note('STORE + made', 'FETCH 1 (FLAGS)', flagsIn)
    await note('STORE', 'STORE 2 FLAGS (\\Answered \\Seen)')
    await note('STORE made', 'FETCH 2 (FLAGS)', flagsIn)
    await note('STORE -', 'STORE 2 -FLAGS (\\Answered \\Seen)')
    await note('STORE - made', 'FETCH 2 (FLAGS)', flagsIn)
    await note('FETCH BODY', 'FETCH 3 (BODY[TEXT])')
    await note('FETCH BODY made', 'FETCH 3 (FLAGS)', flagsIn)
    await note('COPY from', 'COPY 3 INBOX')
    await note('UID COPY to', `UID COPY 3 shared/alice/${target}`, uidsTold)
    await note('MOVE', `MOVE 4 shared/alice/${target}`, uidsTold)
    await note('UID EXPUNGE', 'UID EXPUNGE 1:2')
    await note('EXPUNGE', 'EXPUNGE')
    await note('SEARCH', 'SEARCH ALL', (lines) => idsIn(lines, 'SEARCH'))
    await note('ESEARCH', 'UID SEARCH RETURN (COUNT) UNDELETED', (lines) => / COUNT \d+/.exec(lines.join())?.[0] ?? '')
    await note('SORT', 'SORT (SUBJECT) UTF-8 ALL', (lines) => idsIn(lines, 'SORT'))
    await note('THREAD', 'UID THREAD ORDEREDSUBJECT UTF-8 ALL', (lines) => idsIn(lines, 'THREAD'))
    await note('CLOSE', 'CLOSE')
  }
  await note('APPEND', `APPEND ${name} (\\Seen \\Flagged \\Deleted kw) ${literal(message(9))}`, uidsTold)
  await bob.ok('SELECT INBOX')
  await bob.ok('STORE * FLAGS (\\Seen \\Deleted \\Answered)')
  await note('COPY to', `COPY * ${name}`, uidsTold)
  await bob.ok('UNSELECT')
  await alice.ok(`SELECT ${box}`)
  found.set('APPEND, COPY made', flagsIn(await alice.ok('FETCH 1:* (FLAGS)')))
  await alice.ok('UNSELECT')
  await note('CREATE child', `CREATE ${name}/Child`)
  await note('RENAME', `RENAME ${name} shared/alice/${target}/New`)
  if (found.get('RENAME') === 'OK') await alice.ok(`RENAME ${target}/New ${box}`)
  await note('DELETE', `DELETE ${name}`)
  for (const client of [alice, bob]) await client[Symbol.asyncDispose]()
  return found
}

/**
 * Where we answer otherwise, and why: the commands, and what is taken away where it is so. The same list is in differences.md.
 */
const DIFFERENCES: readonly {
  readonly what: readonly string[]
  readonly when: (without: string) => boolean
  readonly why: string
}[] = [
  {
    what: ['STATUS', 'LIST STATUS'],
    when: (without) => without.includes('r'),
    why: 'RFC 4314 §4: STATUS needs r. Dovecot answers it without, also where l lacks',
  },
  {
    what: ['EXPUNGE', 'UID EXPUNGE'],
    when: (without) => without.includes('e'),
    why: 'RFC 4314 §4: EXPUNGE needs e. Dovecot says OK and expunges nothing',
  },
  {
    what: ['DELETE'],
    when: (without) => without.includes('e') && !without.includes('x'),
    why: 'RFC 4314 §4: DELETE needs x alone. Dovecot wants e too',
  },
  {
    what: ['LISTRIGHTS'],
    when: (without) => without.includes('a'),
    why: 'RFC 4314 §4: LISTRIGHTS needs a. Dovecot answers it without, also where l lacks',
  },
  {
    what: ['SELECT', 'EXAMINE'],
    when: (without) => without.includes('l') && without.includes('r'),
    why: 'RFC 5530 §3, RFC 4314 §6: NONEXISTENT, as of a mailbox that is not there. Dovecot has no code for one that may not be known',
  },
  {
    what: ['STORE', 'STORE +', 'STORE -'],
    when: (without) => ['w', 's', 't'].every((right) => without.includes(right)),
    why: 'RFC 4314 §4: NO to STORE by whom has none of its rights. Dovecot says OK and changes nothing',
  },
  {
    what: ['MOVE'],
    when: (without) => ['w', 's', 't', 'e', 'i'].every((right) => without.includes(right)),
    why: 'RFC 5530 §3: the mailbox is selected read-only, and so is the code. Dovecot says NOPERM',
  },
  {
    what: ['SUBSCRIBE', 'LSUB'],
    when: (without) => ['l', 'r', 'i'].every((right) => without.includes(right)),
    why: 'RFC 3501 §6.3.6: any name may be subscribed, whether or not it is there, so that nothing is learnt. Dovecot looks for it',
  },
]

describe('rights, beside Dovecot', () => {
  testUnless(
    dovecotLack(),
    'each command without each right is answered the same, or the difference has a reason',
    async () => {
      await using ours = await mailstead()
      await using theirs = await dovecot()
      let compared = 0
      const unexplained: string[] = []
      const used = new Set<string>()
      for (const [n, without] of (deep() ? [...SOME, ...MORE] : SOME).entries()) {
        const [mine, other] = [await tried(ours, without, n), await tried(theirs, without, n)]
        for (const what of new Set([...mine.keys(), ...other.keys()])) {
          compared++
          if (mine.get(what) === other.get(what)) continue
          const known = DIFFERENCES.find((one) => one.what.includes(what) && one.when(without))
          if (known === undefined)
            unexplained.push(`${what} without ${without}: ${mine.get(what)} here, ${other.get(what)} there`)
          else used.add(known.why)
        }
      }
      say(`${compared} answers compared, ${used.size} kinds of differences`)
      expect(unexplained).toEqual([])
      if (deep()) expect(DIFFERENCES.filter(({ why }) => !used.has(why))).toEqual([])
    },
  )
  testUnless(
    dovecotLack(),
    'a global file is asked for the names of those who look, and no mailbox is renamed into another store',
    async () => {
      const global = 'shared/alice/Box* user=bob lr\nshared/* user=alice lr\nWork user=bob lr\nWork user=alice lrka\n'
      const told: string[][] = []
      for (const start of [mailstead, dovecot]) {
        await using server = await start(global)
        const alice = await server.logIn('alice')
        for (const name of ['Box', 'Work']) await alice.ok(`CREATE ${name}`)
        const bob = await server.logIn('bob')
        await bob.ok('CREATE Mine')
        const rights = async (client: ImapTestClient, name: string): Promise<string> => {
          const { status, untagged } = await client.command(`MYRIGHTS ${name}`)
          return `${name} ${status === 'OK' ? sorted(untagged.join().split(' ').at(-1)!).replace(/[cd]/g, '') : status}`
        }
        told.push([
          await rights(bob, 'shared/alice/Box'),
          await rights(bob, 'shared/alice/INBOX'),
          await rights(alice, 'Box'),
          await rights(alice, 'Work'),
          (await bob.command('RENAME Mine shared/alice/Mine')).status,
          // Here what is said of the owner's name counts for others too, as they may see the mailbox.
          await rights(bob, 'shared/alice/Work'),
        ])
        for (const client of [alice, bob]) await client[Symbol.asyncDispose]()
      }
      const same = [
        'shared/alice/Box lr',
        'shared/alice/INBOX NO',
        `Box ${sorted(ALL)}`,
        `Work ${sorted('lrka')}`,
        'NO',
      ]
      expect(told).toEqual([
        [...same, 'shared/alice/Work lr'],
        [...same, 'shared/alice/Work NO'],
      ])
    },
  )
})
