import { duplexPair } from 'node:stream'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ImapError } from '../index.ts'
import { serveImap } from '../server.ts'
import { ImapTestClient, memoryBackend } from '../testing.ts'
import type { AclSession } from './acl-session.ts'
import { parseCommand } from './parse-command.ts'
import { formatRights, parseRights, RIGHTS_LETTERS } from './rights.ts'
import type { ImapSession, SelectedMailbox } from './session.ts'
import { ImapSyntaxError } from './syntax-error.ts'

const numRuns = process.env['MAILSTEAD_DEPTH'] === 'ci' ? 20_000 : 2000

/** Lists of INBOX, which the user has all rights on, and of Half, which the user may only know of. */
function lists(): AclSession & { readonly entries: Map<string, string> } {
  const entries = new Map([['ann', RIGHTS_LETTERS]])
  const check = (mailbox: string): void => {
    if (mailbox === 'Half') throw new ImapError('NOPERM', 'No permission')
    if (mailbox !== 'INBOX') throw new ImapError('NONEXISTENT', 'No such mailbox')
  }
  return {
    entries,
    async getAcl(mailbox) {
      check(mailbox)
      return Promise.resolve([...entries].map(([identifier, rights]) => ({ identifier, rights })))
    },
    async setAcl(mailbox, identifier, { mode, rights }) {
      check(mailbox)
      const before = entries.get(identifier) ?? ''
      const kept = mode === 'remove' ? Array.from(before).filter((letter) => !rights.includes(letter)) : [before]
      entries.set(identifier, mode === 'replace' ? rights : mode === 'add' ? before + rights : kept.join(''))
      return Promise.resolve()
    },
    async deleteAcl(mailbox, identifier) {
      check(mailbox)
      entries.delete(identifier)
      return Promise.resolve()
    },
    async listRights(mailbox, identifier) {
      check(mailbox)
      return Promise.resolve({ required: identifier === 'ann' ? 'la' : '', optional: ['r', 's', 'kx', 'w'] })
    },
    async myRights(mailbox) {
      if (mailbox === 'Half') return Promise.resolve('l')
      check(mailbox)
      return Promise.resolve(RIGHTS_LETTERS)
    },
  }
}

interface Served extends AsyncDisposable {
  readonly client: ImapTestClient
  readonly errors: unknown[]
}

/** Logged in, with access control lists if there are any. */
async function served(
  acl: AclSession | undefined,
  open?: (mailbox: SelectedMailbox) => Partial<SelectedMailbox>,
): Promise<Served> {
  const backend = memoryBackend({ users: { ann: 'secret' } })
  const errors: unknown[] = []
  const [server, other] = duplexPair()
  const connection = serveImap(server, {
    backend: {
      async login(credentials) {
        const session = await backend.login(credentials)
        if (session === undefined) return undefined
        return instead(session, {
          ...(acl === undefined ? {} : { acl }),
          ...(open === undefined
            ? {}
            : {
                open: async (name: string, options: Parameters<ImapSession['open']>[1]) => {
                  const mailbox = await session.open(name, options)
                  return instead(mailbox, open(mailbox))
                },
              }),
        })
      },
    },
    secure: true,
    loopback: false,
    onError: (error) => errors.push(error),
  })
  const client = new ImapTestClient(other)
  await client.line()
  await client.ok('LOGIN ann secret')
  return {
    client,
    errors,
    async [Symbol.asyncDispose]() {
      client.destroy()
      await connection.closed
    },
  }
}

function instead<T extends object>(object: T, changes: Partial<T>): T {
  return new Proxy(object, {
    get(target, property) {
      const own = Object.hasOwn(changes, property)
      const value: unknown = Reflect.get(own ? changes : target, property)
      return typeof value === 'function' && !own ? (value as () => unknown).bind(target) : value
    },
  })
}

describe('rights as letters', () => {
  test('c and d are told beside what they stand for, and mean all of it', () => {
    expect(formatRights('axk')).toBe('kxac')
    expect(formatRights('le')).toBe('led')
    expect(formatRights('t')).toBe('td')
    expect(formatRights(RIGHTS_LETTERS)).toBe(`${RIGHTS_LETTERS}cd`)
    expect(parseRights('c')).toBe('kx')
    expect(parseRights('dd')).toBe('te')
    expect(parseRights('')).toBe('')
  })
  test('what is no right is refused', () => {
    for (const text of ['L', 'lq', 'l r', '1', 'é']) expect(parseRights(text)).toBeUndefined()
    expect(() => formatRights('c')).toThrow(RangeError)
  })
  test('what is told is understood', () => {
    const some = fc.subarray(Array.from(RIGHTS_LETTERS))
    fc.assert(
      fc.property(some, (letters) => {
        const told = formatRights(letters.join(''))
        const meant = new Set(letters)
        if (meant.has('k') || meant.has('x')) for (const letter of 'kx') meant.add(letter)
        if (meant.has('e') || meant.has('t')) for (const letter of 'et') meant.add(letter)
        expect(new Set(parseRights(told))).toEqual(meant)
      }),
    )
  })
})

describe('RFC 4314 on the wire', () => {
  test('is offered, with its new rights, where the session has access control lists', async () => {
    await using all = await served(lists())
    expect((await all.client.ok('CAPABILITY'))[0]).toMatch(/ ACL RIGHTS=texk LIST-MYRIGHTS APPENDLIMIT=/)
  })
  test('is neither offered nor there where it has none', async () => {
    await using all = await served(undefined)
    expect((await all.client.ok('CAPABILITY'))[0]).not.toMatch(/ACL|RIGHTS/)
    for (const command of [
      'GETACL INBOX',
      'MYRIGHTS INBOX',
      'SETACL INBOX ann l',
      'DELETEACL INBOX ann',
      'LISTRIGHTS INBOX ann',
      'LIST "" * RETURN (MYRIGHTS)',
    ])
      expect((await all.client.command(command)).status, command).toBe('BAD')
  })
  test('GETACL tells who has which rights, whatever they are called', async () => {
    const acl = lists()
    acl.entries.set('$team', 'lr').set('-anyone', 'w').set('two words', '').set('jürgen', 'kx').set('nil', 't')
    await using all = await served(acl)
    expect(await all.client.ok('GETACL inbox')).toEqual([
      `* ACL INBOX ann ${RIGHTS_LETTERS}cd $team lr -anyone w "two words" "" {7}\r\n${Buffer.from('jürgen').toString('latin1')} kxc "nil" td`,
    ])
  })
  test('SETACL replaces, adds and removes, DELETEACL takes the entry away', async () => {
    const acl = lists()
    await using all = await served(acl)
    for (const [change, after] of [
      ['lrc', 'lrkx'],
      ['+d', 'lrkxte'],
      ['-rx', 'lkte'],
      ['""', ''],
      ['+', ''],
    ] as const) {
      await all.client.ok(`SETACL INBOX bob ${change}`)
      expect([change, acl.entries.get('bob')]).toEqual([change, after])
    }
    await all.client.ok('SETACL INBOX {7+}\r\nj\xc3\xbcrgen lr')
    expect(acl.entries.get('jürgen')).toBe('lr')
    await all.client.ok('DELETEACL INBOX bob')
    expect([...acl.entries.keys()]).toEqual(['ann', 'jürgen'])
  })
  test('LISTRIGHTS tells what is always there, and what else may be, tied rights together', async () => {
    await using all = await served(lists())
    expect(await all.client.ok('LISTRIGHTS INBOX ann')).toEqual(['* LISTRIGHTS INBOX ann la r s kx w c'])
    expect(await all.client.ok('LISTRIGHTS INBOX "b c"')).toEqual(['* LISTRIGHTS INBOX "b c" "" r s kx w c'])
  })
  test('MYRIGHTS tells the rights of who asks', async () => {
    await using all = await served(lists())
    expect(await all.client.ok('MYRIGHTS INBOX')).toEqual([`* MYRIGHTS INBOX ${RIGHTS_LETTERS}cd`])
    expect(await all.client.ok('MYRIGHTS Half')).toEqual(['* MYRIGHTS Half l'])
  })
  test('what may not be done is NOPERM, what may not be known does not exist', async () => {
    await using all = await served(lists())
    expect((await all.client.command('GETACL Half')).text).toMatch(/^NO \[NOPERM\]/)
    expect((await all.client.command('SETACL none bob l')).text).toMatch(/^NO \[NONEXISTENT\]/)
    expect((await all.client.command('MYRIGHTS none')).text).toMatch(/^NO \[NONEXISTENT\]/)
  })
  test('rights that are not known and capital letters are BAD, and so is what is malformed', async () => {
    await using all = await served(lists())
    for (const command of [
      'SETACL INBOX bob lq',
      'SETACL INBOX bob LR',
      'SETACL INBOX bob +R',
      'SETACL INBOX bob',
      'SETACL INBOX bob l r',
      'GETACL',
      'LISTRIGHTS INBOX',
      'DELETEACL INBOX {1+}\r\n\xff',
      'SETACL INBOX {3+}\r\na\tb l',
    ])
      expect((await all.client.command(command)).status, command).toBe('BAD')
    expect((await all.client.command('SETACL INBOX "" l')).text).toMatch(/^NO \[CANNOT\]/)
    expect((await all.client.command(`SETACL INBOX ${'x'.repeat(2000)} l`)).text).toMatch(/^NO \[LIMIT\]/)
    expect(all.errors).toEqual([])
  })
  test('LIST returns rights where they are asked for and may be told (RFC 8440)', async () => {
    await using all = await served(lists())
    for (const name of ['Half', 'Hidden', 'Far/Away']) await all.client.ok(`CREATE ${name}`)
    const lines = await all.client.ok('LIST "" * RETURN (CHILDREN MYRIGHTS)')
    expect(lines.filter((line) => line.startsWith('* MYRIGHTS'))).toEqual([
      '* MYRIGHTS Half l',
      `* MYRIGHTS INBOX ${RIGHTS_LETTERS}cd`,
    ])
    expect(lines.filter((line) => line.startsWith('* LIST'))).toHaveLength(5)
  })
  test('SELECT tells which flags the rights allow to change for good', async () => {
    await using all = await served(lists(), () => ({
      keywords: ['work'],
      keywordsCanGrow: false,
      permanentFlags: { flags: 8 | 4, keywords: false },
    }))
    const lines = await all.client.ok('SELECT INBOX')
    expect(lines).toContain('* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft work)')
    expect(lines).toContain('* OK [PERMANENTFLAGS (\\Deleted \\Seen)] Flags kept.')
  })
  test('SELECT says READ-ONLY where the rights allow no change', async () => {
    await using all = await served(lists(), () => ({ readOnly: true }))
    const reply = await all.client.command('SELECT INBOX')
    expect(reply.text).toBe('OK [READ-ONLY] Select completed.')
    expect(reply.untagged).toContain('* OK [PERMANENTFLAGS ()] Flags kept.')
  })
})

test('whatever bytes come as one of its commands are understood or refused', () => {
  const names = fc.constantFrom('GETACL', 'SETACL', 'DELETEACL', 'LISTRIGHTS', 'MYRIGHTS')
  const pieces = fc.oneof(
    fc.constantFrom('INBOX', 'bob', '-$x', '+lr', 'kd', '""', '"a\\"b"', '{2+}\r\nab', '{9', ' ', '"', '\0'),
    fc.uint8Array({ maxLength: 12 }).map((bytes) => Buffer.from(bytes).toString('latin1')),
  )
  let understood = 0
  fc.assert(
    fc.property(names, fc.array(pieces, { maxLength: 4 }), (name, rest) => {
      try {
        parseCommand(Buffer.from(`a ${name} ${rest.join(' ')}`, 'latin1'))
        understood++
      } catch (error) {
        expect(error).toBeInstanceOf(ImapSyntaxError)
      }
    }),
    { numRuns },
  )
  expect(understood).toBeGreaterThan(numRuns / 100)
})
