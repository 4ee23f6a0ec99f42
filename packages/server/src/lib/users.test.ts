import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { memoryFs } from '@mailstead/fs/memory'
import { ImapTestClient } from '@mailstead/imap/testing'
import { mdbox } from '@mailstead/mdbox'
import { afterEach, describe, expect, test } from 'vitest'
import type { ServerEvent } from './events.ts'
import { hashSecret, parseSecret, SECRET_SCHEMES, verifySecret } from './secret.ts'
import { startServer } from './start.ts'
import { staticUsers, usersFile } from './users.ts'
import { badUserName, formatUserLine, parseUserLine, parseUsers, userDirectory } from './users-file.ts'

const numRuns =
  process.env['MAILSTEAD_DEPTH'] === 'soak' ? 20_000 : process.env['MAILSTEAD_DEPTH'] === 'ci' ? 1000 : 200

describe('secrets', () => {
  for (const scheme of SECRET_SCHEMES)
    test(`{${scheme}} lets in the password it was made from, and no other`, async () => {
      const text = await hashSecret(scheme, 'pässwörd 1')
      const secret = parseSecret(text)
      if (typeof secret === 'string') throw new Error(secret)
      expect(await verifySecret(secret, 'pässwörd 1')).toBe(true)
      for (const wrong of ['', 'pässwörd', 'pässwörd 1 ', 'PÄSSWÖRD 1'])
        expect(await verifySecret(secret, wrong)).toBe(false)
    })
  test('two hashes of one password differ', async () => {
    expect(await hashSecret('ARGON2ID', 'x')).not.toBe(await hashSecret('ARGON2ID', 'x'))
  })
  test('an argon2id string that another program made is understood', async () => {
    // RFC 9106 has no PHC example; this one was made by the reference implementation: echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1
    const secret = parseSecret(
      '{ARGON2ID}$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc',
    )
    if (typeof secret === 'string') throw new Error(secret)
    expect(await verifySecret(secret, 'password')).toBe(true)
  })
  test.each([
    'secret',
    '{MD5}x',
    '{PLAIN}',
    '{plain}x',
    '{ARGON2ID}$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc',
    '{ARGON2ID}$argon2id$v=19$m=99999999,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc',
    '{SCRYPT}$scrypt$ln=40,r=8,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc',
  ])('%s is refused with a reason', (text) => {
    expect(typeof parseSecret(text)).toBe('string')
  })
  test('a plain secret cannot hold a colon, and nothing holds a line break', async () => {
    await expect(hashSecret('PLAIN', 'a:b')).rejects.toMatchObject({ code: 'SERVER_BAD_USER' })
    await expect(hashSecret('SCRYPT', 'a\nb')).rejects.toMatchObject({ code: 'SERVER_BAD_USER' })
    await expect(hashSecret('SCRYPT', '')).rejects.toMatchObject({ code: 'SERVER_BAD_USER' })
  })
})

describe('the users file', () => {
  test('names, secrets, homes and groups are read', () => {
    const { users, problems } = parseUsers(
      '# people\r\n\nAlice:{PLAIN}s3cret\nbob@example.org:{PLAIN}x:home=users/robert%20b groups=staff,admins\n',
    )
    expect(problems).toEqual([])
    expect([...users.keys()]).toEqual(['alice', 'bob@example.org'])
    expect(users.get('bob@example.org')).toMatchObject({ home: 'users/robert b', groups: ['staff', 'admins'] })
  })
  test('a broken line is named and disables nobody else', () => {
    const { users, problems } = parseUsers('a:{PLAIN}1\nnonsense\nb:{MD5}x\nc:{PLAIN}3:colour=blue\nd:{PLAIN}4\n')
    expect([...users.keys()]).toEqual(['a', 'd'])
    expect(problems.map(({ line }) => line)).toEqual([2, 3, 4])
    expect(problems[2]!.message).toContain('colour=blue')
  })
  test('a name that comes twice is nobody', () => {
    const { users, problems } = parseUsers('a:{PLAIN}1\nb:{PLAIN}2\nA:{PLAIN}3\n')
    expect([...users.keys()]).toEqual(['b'])
    expect(problems).toHaveLength(1)
  })
  test.each(['../up', 'users/../../etc', '/etc', 'a//b', '.'])('home=%s is refused', (home) => {
    expect(parseUserLine(`a:{PLAIN}x:home=${home}`)).toContain('below the data directory')
  })
  test('what is written is read', () => {
    const name = fc
      .string({ minLength: 1, maxLength: 20, unit: 'grapheme' })
      .filter((n) => badUserName(n) === undefined)
    const secret = fc
      .string({ minLength: 1, maxLength: 20, unit: 'grapheme' })
      .filter((s) => !/[:\r\n\0\u2028\u2029]/.test(s))
    const part = fc.stringMatching(/^[a-z0-9 %_-]{1,8}$/)
    fc.assert(
      fc.property(name, secret, fc.option(part), fc.array(fc.stringMatching(/^[a-z]{1,5}$/)), (n, s, home, groups) => {
        const line = formatUserLine({ name: n, secret: `{PLAIN}${s}`, home: home ?? undefined, groups })
        expect(parseUserLine(line)).toEqual({
          name: n.normalize('NFC').toLowerCase(),
          secret: { scheme: 'PLAIN', text: s },
          home: home ?? undefined,
          groups,
        })
      }),
      { numRuns },
    )
  })
  test('no two names share a directory, and none leaves users/', () => {
    const name = fc
      .string({ minLength: 1, maxLength: 20, unit: 'grapheme' })
      .filter((n) => badUserName(n) === undefined)
    fc.assert(
      fc.property(name, name, (a, b) => {
        const [one, two] = [userDirectory({ name: a }), userDirectory({ name: b })]
        expect(one).toMatch(/^users\/[^./][^/]*$/)
        if (a.normalize('NFC').toLowerCase() !== b.normalize('NFC').toLowerCase()) {
          expect(one).not.toBe(two)
          // Nor where file names disregard case.
          expect(one.toLowerCase()).not.toBe(two.toLowerCase())
        }
      }),
      { numRuns },
    )
    expect(userDirectory({ name: '..' })).toBe('users/%2E.')
    expect(userDirectory({ name: 'Zoë' })).toBe('users/zo%C3%AB')
  })
})

describe('users', () => {
  const made: string[] = []
  afterEach(() => {
    for (const path of made.splice(0)) rmSync(path, { recursive: true })
  })
  function file(content: string): string {
    const directory = mkdtempSync(join(tmpdir(), 'mailstead-users-'))
    made.push(directory)
    const path = join(directory, 'users')
    writeFileSync(path, content)
    return path
  }

  test('a password is right or wrong, whatever the case of the name', async () => {
    const users = staticUsers({ Alice: 'secret' })
    expect(await users.authenticate('ALICE', 'secret')).toMatchObject({ name: 'alice' })
    expect(await users.authenticate('alice', 'Secret')).toBeUndefined()
    expect(await users.authenticate('bob', 'secret')).toBeUndefined()
    expect(users.lookup('alice')).toBeDefined()
    expect(users.lookup('bob')).toBeUndefined()
  })
  test('a file that changed is read again, by login and by lookup', async () => {
    const path = file('a:{PLAIN}1\n')
    const users = usersFile(path)
    expect(await users.authenticate('a', '1')).toBeDefined()
    expect(users.lookup('b')).toBeUndefined()
    writeFileSync(path, 'a:{PLAIN}one\nb:{PLAIN}2\n')
    expect(await users.authenticate('a', 'one')).toBeDefined()
    expect(await users.authenticate('a', '1')).toBeUndefined()
    expect(users.lookup('b')).toBeDefined()
  })
  test('a password that was changed is not remembered', async () => {
    const path = file(`a:${await hashSecret('SCRYPT', 'old')}\n`)
    let now = 0
    const users = usersFile(path, { clock: () => now })
    expect(await users.authenticate('a', 'old')).toBeDefined()
    writeFileSync(path, `a:${await hashSecret('SCRYPT', 'newer')}\n#\n`)
    now = 2000
    expect(await users.authenticate('a', 'old')).toBeUndefined()
    expect(await users.authenticate('a', 'newer')).toBeDefined()
  })
  test('the last good content counts while the file is away, and that is told', async () => {
    const path = file('a:{PLAIN}1\n')
    const events: ServerEvent[] = []
    const users = usersFile(path, { onEvent: (event) => events.push(event) })
    rmSync(path)
    expect(users.lookup('nobody')).toBeUndefined()
    expect(await users.authenticate('a', '1')).toBeDefined()
    expect(Array.from(users.all(), ({ name }) => name)).toEqual(['a'])
    expect(events.map(({ kind }) => kind)).toContain('users-file')
  })
  test('while the file is away no login fails for good, and names that are known answer as those that are not', async () => {
    const path = file('a:{PLAIN}1\n')
    const users = usersFile(path)
    await using server = await startServer({
      imap: { host: '127.0.0.1', port: 0 },
      users,
      storage: () => Promise.resolve({ fs: memoryFs(), box: (fs) => mdbox(fs, 'storage') }),
      imapLimits: { loginDelayMs: 0 },
    })
    const answers = async (): Promise<string[]> => {
      const got: string[] = []
      for (const line of ['LOGIN b 2', 'LOGIN a wrong']) {
        await using client = new ImapTestClient(connect(server.imap!.port))
        await client.line()
        got.push((await client.command(line)).text)
      }
      return got
    }
    expect(await answers()).toEqual(Array(2).fill(expect.stringMatching(/^NO \[AUTHENTICATIONFAILED\]/)))
    renameSync(path, `${path}.away`)
    const [unknown, wrong] = await answers()
    expect(unknown).toMatch(/^NO \[UNAVAILABLE\]/)
    expect(wrong).toBe(unknown)
    expect(await users.authenticate('a', '1')).toBeDefined()
    renameSync(`${path}.away`, path)
    expect(await answers()).toEqual(Array(2).fill(expect.stringMatching(/^NO \[AUTHENTICATIONFAILED\]/)))
  })
  test('broken lines are told with their number', () => {
    const events: ServerEvent[] = []
    usersFile(file('a:{PLAIN}1\nb\n'), { onEvent: (event) => events.push(event) })
    expect(events).toMatchObject([{ kind: 'users-line', line: 2 }])
  })
  test('a file that is not there at the start is an error', () => {
    expect(() => usersFile('/nonexistent/users')).toThrow(expect.objectContaining({ code: 'SERVER_USERS' }))
  })
  test('an unknown user costs as much as a wrong password', async () => {
    const path = file(`a:${await hashSecret('SCRYPT', 'x')}\n`)
    const users = usersFile(path)
    const cost = async (name: string): Promise<number> => {
      const times: number[] = []
      for (let i = 0; i < 5; i++) {
        const from = performance.now()
        await users.authenticate(name, `wrong ${i}`)
        times.push(performance.now() - from)
      }
      return times.sort((a, b) => a - b)[2]!
    }
    const [known, unknown] = [await cost('a'), await cost('b')]
    // Milliseconds of scrypt against microseconds without: a factor of five is far from both.
    expect(unknown).toBeGreaterThan(known / 5)
    expect(unknown).toBeLessThan(known * 5)
  })
})
