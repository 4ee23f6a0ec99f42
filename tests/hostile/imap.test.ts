/**
 * Hostile IMAP input: each kind gets a clear BAD, NO or BYE, memory stays bounded, everybody else is served meanwhile, and
 * nothing that was there before is lost.
 */
import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect } from 'vitest'
import { sha256 } from '../support/corpus.ts'
import { below, deep, runSeed, say, seeded } from '../support/depth.ts'
import { ImapClient, quote } from '../interop/lib/imap.ts'
import { mimeMessage, plainMessage } from '../support/made-mail.ts'
import { servedBytes } from '../interop/lib/populate.ts'
import {
  checkStore,
  PASSWORD,
  type Server,
  serverLack,
  startServer,
  temporaryDirectory,
} from '../interop/lib/servers.ts'
import { testUnless } from '../support/test-unless.ts'
import { Raw } from './raw.ts'
import { memoryOf, MiB, type Watched, watch } from './watch.ts'

/** No attack may make the server larger than this, whatever it sends. */
const MEMORY_LIMIT = 450 * MiB
/** The longest that somebody else may wait meanwhile. */
const WAIT_LIMIT_MS = 5000
const REFUSED = /^(?:\S+ (?:BAD|NO)|\* (?:BAD|BYE)) /m
const NEVER_LOG_IN = 1000

describe('hostile IMAP input', () => {
  const lack = serverLack()
  let server: Server
  let root = ''
  const kept = new Map<number, string>()

  beforeAll(async () => {
    if (lack !== undefined) return
    root = temporaryDirectory('hostile')
    server = await startServer({ directory: join(root, 'inner', 'server') })
    await using imap = await ImapClient.login(server.imap, 'user1', PASSWORD)
    for (let number = 0; number < 20; number++) {
      const bytes = number % 2 === 0 ? plainMessage(number) : mimeMessage(number)
      kept.set((await imap.append('INBOX', bytes))!, sha256(bytes))
    }
  })
  afterEach(async () => {
    if (lack !== undefined) return
    await using imap = await ImapClient.login(server.imap, 'user1', PASSWORD)
    const served = await servedBytes(imap, 'INBOX')
    expect(new Map([...served].map(([uid, bytes]) => [uid, sha256(bytes)]))).toEqual(kept)
  })
  afterAll(async () => {
    if (lack !== undefined) return
    say(`hostile: memory at the end ${(memoryOf(server) / MiB).toFixed(0)} MiB`)
    await server.stop()
    if (server.name === 'mailstead') expect(checkStore(server.directory)).toMatchObject({ code: 0 })
    await server[Symbol.asyncDispose]()
    rmSync(root, { recursive: true, force: true })
  })

  const expectCalm = (what: string, { peakBytes, longestWaitMs, answers }: Watched): void => {
    say(
      `hostile: ${what}: peak ${(peakBytes / MiB).toFixed(0)} MiB, bystander answered ${answers} times, waited ${longestWaitMs.toFixed(0)} ms at most`,
    )
    expect(peakBytes).toBeLessThan(MEMORY_LIMIT)
    expect(longestWaitMs).toBeLessThan(WAIT_LIMIT_MS)
    expect(answers).toBeGreaterThan(0)
  }

  const loggedIn = async (): Promise<Raw> => {
    const raw = await Raw.open(server.imap)
    raw.write(`in LOGIN user1 ${PASSWORD}\r\n`)
    await raw.until(/^in OK/m)
    raw.write('sel SELECT INBOX\r\n')
    await raw.until(/^sel OK/m)
    raw.forget()
    return raw
  }

  /** Sends bytes, expects a refusal; a server that goes on listening must then answer an honest NOOP. */
  const refused = async (raw: Raw, bytes: string): Promise<string> => {
    raw.forget()
    raw.write(bytes)
    const shown = JSON.stringify(bytes.slice(0, 80))
    const answer = await raw.until(REFUSED).catch((error: unknown) => {
      throw new Error(`${shown}: ${String(error)}`)
    })
    expect(answer, shown).toMatch(REFUSED)
    if (!raw.closed && !/^\* BYE/m.test(answer)) {
      raw.write('ok NOOP\r\n')
      await raw.until(/^ok OK/m)
    }
    return answer
  }

  testUnless(lack, 'a line that never ends is refused, before and after login', async () => {
    const watched = await watch(server, async () => {
      for (const open of [async () => Raw.open(server.imap), loggedIn]) {
        await using raw = await open()
        raw.write('a SEARCH SUBJECT ')
        const poured = await raw.pour(Buffer.alloc(64 * 1024, 'x'), (deep() ? 100 : 20) * 16)
        // A server may cut it off, or read on to the end of the line, keeping nothing, and then say so.
        if (!REFUSED.test(raw.text)) raw.write('\r\n')
        const answer = await raw.until(REFUSED)
        expect(answer).toMatch(REFUSED)
        say(
          `hostile: an endless line: ${(poured / MiB).toFixed(1)} MiB sent, answer ${JSON.stringify(answer.slice(-100))}`,
        )
      }
    })
    expectCalm('a line that never ends', watched)
  })

  testUnless(lack, 'a long line that ends is refused', async () => {
    await using raw = await loggedIn()
    await refused(raw, `a SEARCH SUBJECT "${'x'.repeat(3 * MiB)}"\r\n`)
  })

  testUnless(lack, 'oversized literals are refused before they are sent', async () => {
    const sizes = ['2000000000', '4294967295', '99999999999', '9223372036854775808', '99999999999999999999999999']
    const watched = await watch(server, async () => {
      for (const size of sizes) {
        for (const plus of ['', '+']) {
          await using stranger = await Raw.open(server.imap)
          await refused(stranger, `a LOGIN {${size}${plus}}\r\n`)
          for (const command of [
            'a APPEND INBOX',
            'a CREATE',
            'a SEARCH SUBJECT',
            'a APPEND INBOX (\\Seen) "01-Jan-2020 00:00:00 +0000"',
          ]) {
            await using raw = await loggedIn()
            const answer = await refused(raw, `${command} {${size}${plus}}\r\n`)
            expect(answer).not.toMatch(/^\+ /m)
          }
        }
      }
    })
    expectCalm('oversized literals', watched)
  })

  testUnless(lack, 'a large literal where a short string belongs is refused, even if it is sent', async () => {
    const watched = await watch(server, async () => {
      await using raw = await loggedIn()
      raw.write(`a CREATE {${30 * MiB}+}\r\n`)
      await raw.pour(Buffer.alloc(64 * 1024, 'x'), 30 * 16)
      raw.write('\r\n')
      expect(await raw.until(REFUSED)).toMatch(REFUSED)
    })
    expectCalm('a literal of 30 MiB as a name', watched)
  })

  testUnless(lack, 'literals that are no numbers are refused', async () => {
    for (const literal of [
      '{-1}',
      '{abc}',
      '{}',
      '{1',
      '{1x}',
      '{ 1}',
      '{1 }',
      '{0x10}',
      '{1++}',
      '{1.5}',
      '~{-1}',
      '{+}',
    ]) {
      await using raw = await loggedIn()
      await refused(raw, `a APPEND INBOX ${literal}\r\n`)
    }
  })

  testUnless(lack, 'NULs are refused wherever a command has them', async () => {
    const commands = [
      'a NO\0OP\r\n',
      '\0\0\0\0\r\n',
      'a SEARCH SUBJECT "a\0b"\r\n',
      'a\0b NOOP\r\n',
      'a CREATE {3+}\r\na\0b\r\n',
      'a LIST "" "\0"\r\n',
    ]
    for (const command of commands) {
      await using raw = await loggedIn()
      await refused(raw, command)
    }
    await using stranger = await Raw.open(server.imap)
    await refused(stranger, 'a LOGIN "us\0er1" "x"\r\n')
  })

  testUnless(lack, 'unbalanced quotes and parentheses are refused', async () => {
    const commands = [
      'a SEARCH SUBJECT "never ends\r\n',
      'a CREATE "x\\\r\n',
      'a FETCH 1 (FLAGS\r\n',
      'a FETCH 1 FLAGS)\r\n',
      'a FETCH 1 BODY[HEADER.FIELDS (A\r\n',
      'a FETCH 1 BODY[\r\n',
      'a FETCH 1 BODY[]<0.\r\n',
      'a FETCH 1 BODY[]<5.-1>\r\n',
      'a FETCH 1 BODY[1.0]\r\n',
      'a SEARCH (ALL\r\n',
      'a STORE 1 FLAGS (\\Seen\r\n',
      'a LIST "" (a\r\n',
      'a STATUS INBOX (\r\n',
    ]
    for (const command of commands) {
      await using raw = await loggedIn()
      await refused(raw, command)
    }
    await using stranger = await Raw.open(server.imap)
    await refused(stranger, 'a LOGIN "user1 secret\r\n')
  })

  testUnless(lack, 'nesting without end is refused and does not exhaust the stack', async () => {
    const deepest = 50_000
    const commands = [
      `a SEARCH ${'('.repeat(deepest)}ALL${')'.repeat(deepest)}\r\n`,
      `a SEARCH ${'NOT '.repeat(deepest)}ALL\r\n`,
      `a SEARCH ${'OR ALL '.repeat(deepest)}ALL\r\n`,
      `a FETCH 1 ${'('.repeat(deepest)}\r\n`,
      `a FETCH 1 BODY[${'1.'.repeat(deepest)}1]\r\n`,
      `a LIST ${'('.repeat(deepest)} "" "*"\r\n`,
    ]
    const watched = await watch(server, async () => {
      for (const command of commands) {
        await using raw = await loggedIn()
        raw.write(command)
        raw.write('ok NOOP\r\n')
        const answer = await raw.until(/^(?:ok OK|\* BYE)/m)
        // A few of these are legal, if odd; what matters is that there is an answer.
        expect(answer).toMatch(/^(?:a (?:BAD|NO|OK)|\* B(?:AD|YE)) /m)
      }
    })
    expectCalm('nesting without end', watched)
  })

  testUnless(lack, 'sets without sense are refused or harmless', async () => {
    const sets = [
      '0',
      '0:*',
      '1:0',
      '4294967296',
      '99999999999999999999',
      '1,,2',
      '1:',
      ':1',
      '1:2:3',
      '-1',
      '*:*:*',
      '1.5',
      `${'1,'.repeat(100_000)}1`,
    ]
    const watched = await watch(server, async () => {
      for (const set of sets) {
        await using raw = await loggedIn()
        raw.write(`a UID FETCH ${set} FLAGS\r\nok NOOP\r\n`)
        const answer = await raw.until(/^(?:ok OK|\* BYE)/m)
        expect(answer, set.slice(0, 40)).toMatch(/^(?:a (?:BAD|NO|OK)|\* B(?:AD|YE)) /m)
      }
      for (const set of ['1,,2', '1:', ':1', '-1', '1.5', '99999999999999999999']) {
        await using raw = await loggedIn()
        await refused(raw, `a FETCH ${set} FLAGS\r\n`)
      }
    })
    expectCalm('sets without sense', watched)
  })

  testUnless(lack, 'bytes above 127 in a command are refused', async () => {
    const commands = [
      'a NO\xe9OP\r\n',
      '\xe9 NOOP\r\n',
      'a SEARCH \xff\r\n',
      'a FETCH 1 \x80\r\n',
      'a STORE 1 FLAGS (\xe9)\r\n',
      'a CREATE \xe9\r\n',
      'a CREATE "\xff\xfe"\r\n',
    ]
    for (const command of commands) {
      await using raw = await loggedIn()
      await refused(raw, command)
    }
  })

  testUnless(lack, 'mailbox names that are no names are refused, and no file appears anywhere else', async () => {
    const names = [
      '../x',
      '../../../../tmp/mailstead-escaped',
      'a/../b',
      '..',
      '.',
      './x',
      '/absolute',
      'a//b',
      '',
      'INBOX/../x',
      'ctl\x01',
      'del\x7f',
      `${'long'.repeat(3000)}`,
      '&abc',
      '&AOk',
      'a&-&b',
      'deep/'.repeat(600) + 'x',
    ]
    const before = outside()
    for (const name of names) {
      await using raw = await loggedIn()
      for (const command of ['CREATE', 'RENAME INBOX']) await refused(raw, `a ${command} ${quote(name)}\r\n`)
      await refused(raw, `a APPEND ${quote(name)} {1+}\r\nx\r\n`)
      for (const command of ['DELETE', 'SELECT', 'SUBSCRIBE']) {
        raw.forget()
        raw.write(`a ${command} ${quote(name)}\r\n`)
        expect(await raw.until(/^(?:a \w+|\* BYE) /m)).toMatch(
          command === 'SUBSCRIBE' ? /^(?:a (?:OK|NO|BAD)|\* BYE) /m : REFUSED,
        )
      }
    }
    expect(outside()).toEqual(before)
  })

  testUnless(lack, 'odd mailbox names that are allowed come back as they were', async () => {
    const names = [
      '~user',
      'a b',
      "'quoted'",
      '$HOME',
      'CON',
      'x.y',
      '-rf',
      '`id`',
      '&AOk-',
      '"',
      'a\\b',
      '#x',
      'dbox-Mails',
      'mailboxes',
      'storage',
    ]
    await using imap = await ImapClient.login(server.imap, 'user9', PASSWORD)
    const accepted: string[] = []
    for (const name of names) {
      const reply = await imap.command(`CREATE ${quote(name)}`)
      if (reply.status !== 'OK') continue
      accepted.push(name)
      await imap.append(name, Buffer.from(`Subject: ${accepted.length}\r\n\r\n`))
    }
    const listed = (await imap.ok('LIST "" "*"')).untagged
      .filter(({ type }) => type === 'LIST')
      .map((each) => String(each.values()[2]))
    expect(listed).toEqual(expect.arrayContaining(accepted))
    for (const [at, name] of accepted.entries()) {
      const [bytes] = [...(await servedBytes(imap, name)).values()]
      expect(bytes?.toString()).toBe(`Subject: ${at + 1}\r\n\r\n`)
    }
    say(`hostile: ${accepted.length} of ${names.length} odd names accepted`)
  })

  testUnless(lack, 'a connection that breaks inside a literal appends nothing', async () => {
    const message = plainMessage(7, { bodyBytes: 100_000 })
    for (const part of [0, 1, 5000, message.length - 1]) {
      await using raw = await loggedIn()
      raw.write(`a APPEND INBOX {${message.length}+}\r\n`)
      raw.write(message.subarray(0, part))
      await sleep(20)
      raw.socket.destroy()
    }
    await using whole = await loggedIn()
    whole.write(`a APPEND INBOX {${message.length}+}\r\n`)
    whole.write(message)
    whole.write(` {${message.length}+}\r\n`)
    whole.write(message.subarray(0, 5000))
    await sleep(50)
    whole.socket.destroy()
    await sleep(200)
    // afterEach compares INBOX with what it was.
  })

  testUnless(lack, 'a client that asks and never reads costs no memory', async () => {
    const watched = await watch(server, async () => {
      await using raw = await loggedIn()
      raw.socket.pause()
      const command = Buffer.from('a UID FETCH 1:* BODY.PEEK[]\r\n'.repeat(100))
      for (let at = 0; at < 50; at++) raw.write(command)
      await sleep(3000)
    })
    expectCalm('a client that never reads', watched)
  })

  testUnless(lack, `${NEVER_LOG_IN} connections that never log in`, async () => {
    const sockets: Raw[] = []
    const watched = await watch(server, async () => {
      for (let at = 0; at < NEVER_LOG_IN; at++) {
        sockets.push(await Raw.open(server.imap))
        if (at % 3 === 0) sockets.at(-1)!.write('a LOG')
      }
      const start = performance.now()
      await using imap = await ImapClient.login(server.imap, 'user1', PASSWORD)
      await imap.ok('SELECT INBOX')
      say(`hostile: with ${NEVER_LOG_IN} silent connections a login takes ${(performance.now() - start).toFixed(0)} ms`)
    })
    const open = sockets.filter(({ closed }) => !closed).length
    for (const raw of sockets) {
      expect(raw.text).toMatch(/^\* (?:OK|PREAUTH|BYE)/m)
      await raw[Symbol.asyncDispose]()
    }
    say(`hostile: ${open} of them were still open`)
    expectCalm('connections that never log in', watched)
  })

  testUnless(lack, 'wrong passwords are refused, many times over', async () => {
    const watched = await watch(server, async () => {
      await Promise.all(
        Array.from({ length: 20 }, async () => {
          await using raw = await Raw.open(server.imap)
          for (let at = 0; at < 3 && !raw.closed; at++) {
            raw.forget()
            raw.write(`a LOGIN user1 wrong${at}\r\n`)
            expect(await raw.until(REFUSED)).toMatch(REFUSED)
          }
        }),
      )
      await using raw = await Raw.open(server.imap)
      await refused(raw, `a LOGIN nobody ${PASSWORD}\r\n`)
      await refused(raw, `a LOGIN "../user1" ${PASSWORD}\r\n`)
      await refused(raw, 'a SELECT INBOX\r\n')
      await refused(raw, 'a APPEND INBOX {1+}\r\nx\r\n')
    })
    expectCalm('wrong passwords', watched)
  })

  testUnless(lack, 'noise is answered or cut off, and nobody else notices', async () => {
    const seed = runSeed()
    say(`hostile: noise with seed ${seed}`)
    const random = seeded(seed)
    const honest = [
      'SELECT INBOX',
      'FETCH 1:* (FLAGS BODY[])',
      'SEARCH OR SUBJECT "a" NOT FROM b',
      'STORE 999 +FLAGS (\\Seen)',
      'LIST "" "*"',
      'STATUS INBOX (MESSAGES)',
      'SORT (DATE) UTF-8 ALL',
      'THREAD REFERENCES UTF-8 ALL',
      'UID SEARCH RETURN (MIN) 1:*',
      'ENABLE CONDSTORE',
      'ID NIL',
      'NAMESPACE',
    ]
    const rounds = deep() ? 400 : 60
    const watched = await watch(server, async () => {
      for (let round = 0; round < rounds; round++) {
        await using raw = await Raw.open(server.imap)
        if (round % 4 !== 0) raw.write(`in LOGIN user8 ${PASSWORD}\r\n`)
        for (let line = 0; line < 30; line++) {
          const bytes = Buffer.from(`t${line} ${honest[below(random, honest.length)]!}\r\n`)
          for (let flips = below(random, 4); flips > 0; flips--) bytes[below(random, bytes.length)] = below(random, 256)
          raw.write(bytes)
        }
        raw.socket.end()
        await raw.until(/(?!)/, 20_000).catch(() => undefined)
      }
    })
    expectCalm('noise', watched)
  })

  /** Everything below the root that is not the server's own directory, and the server's own files by name. */
  function outside(): readonly string[] {
    const top = readdirSync(root).concat(readdirSync(join(root, 'inner')), readdirSync(server.directory))
    return top.concat(readdirSync('/tmp').filter((name) => name.includes('mailstead-escaped'))).sort()
  }
})
