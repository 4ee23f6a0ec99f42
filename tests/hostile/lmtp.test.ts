/** Hostile LMTP input: each kind gets a clear reply, nothing is half delivered, and others are served meanwhile. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect } from 'vitest'
import { say } from '../support/depth.ts'
import { ImapClient } from '../interop/lib/imap.ts'
import { dotStuffed, LmtpClient } from '../interop/lib/lmtp.ts'
import { plainMessage } from '../support/made-mail.ts'
import { servedBytes } from '../interop/lib/populate.ts'
import { checkStore, PASSWORD, type Server, serverLack, startServer } from '../interop/lib/servers.ts'
import { testUnless } from '../support/test-unless.ts'
import { Raw } from './raw.ts'
import { MiB, watch } from './watch.ts'

const MEMORY_LIMIT = 450 * MiB

describe('hostile LMTP input', () => {
  const lack = serverLack()
  let server: Server

  beforeAll(async () => {
    if (lack === undefined) server = await startServer()
  })
  afterAll(async () => {
    if (lack !== undefined) return
    await server.stop()
    if (server.name === 'mailstead') expect(checkStore(server.directory)).toMatchObject({ code: 0 })
    await server[Symbol.asyncDispose]()
  })

  const inbox = async (user: string): Promise<readonly Buffer[]> => {
    await using imap = await ImapClient.login(server.imap, user, PASSWORD)
    return [...(await servedBytes(imap, 'INBOX')).values()]
  }

  testUnless(lack, 'commands without sense or order are refused', async () => {
    const commands = [
      'DATA\r\n',
      'RCPT TO:<user1@example.com>\r\n',
      'MAIL FROM:<a@b\r\n',
      'MAIL FROM:\r\n',
      'NONSENSE\r\n',
      '\0\0\0\r\n',
      '\xff\xfe\r\n',
      'HELO x\r\n',
      'AUTH PLAIN AAAA\r\n',
    ]
    for (const command of commands) {
      await using raw = await Raw.open(server.lmtp)
      raw.write('LHLO x\r\n')
      await raw.until(/^250 /m)
      raw.forget()
      raw.write(command)
      expect(await raw.until(/^\d\d\d /m), JSON.stringify(command)).toMatch(/^[45]\d\d /m)
    }
  })

  testUnless(lack, 'a line that never ends is cut off', async () => {
    const watched = await watch(server, async () => {
      await using raw = await Raw.open(server.lmtp)
      raw.write('LHLO ')
      await raw.pour(Buffer.alloc(64 * 1024, 'x'), 20 * 16)
      raw.write('\r\n')
      await raw.until(/^\d\d\d[ -]/m)
      expect(raw.closed || /^(?:[45]\d\d |250)/m.test(raw.text)).toBe(true)
    })
    expect(watched.peakBytes).toBeLessThan(MEMORY_LIMIT)
  })

  testUnless(lack, 'each recipient gets a reply of his own, an unknown one 550', async () => {
    await using lmtp = await LmtpClient.connect(server.lmtp)
    const content = dotStuffed(plainMessage(1))
    const to = [
      'user4@example.com',
      ...(server.name === 'mailstead' ? ['nobody-at-all@example.com', '../user4@example.com'] : []),
      'user4+detail@example.com',
      'user5@example.com',
    ]
    const replies = await lmtp.deliver(to, content)
    expect(replies.map(({ recipient, code }) => `${recipient} ${Math.floor(code / 100)}`)).toEqual(
      to.map((recipient) => `${recipient} ${/^user\d/.test(recipient) ? 2 : 5}`),
    )
    expect((await inbox('user5')).length).toBe(1)
    if (server.name === 'mailstead') {
      expect(replies[1]?.code).toBe(550)
      const [only] = await lmtp.deliver(['nobody-at-all@example.com'], content)
      expect(only?.code).toBe(550)
    }
  })

  testUnless(lack, 'a connection that breaks inside DATA delivers nothing', async () => {
    for (const ending of ['', '\r\n', '\r\n.', '\r\n.\r']) {
      await using raw = await Raw.open(server.lmtp)
      raw.write('LHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<user6@example.com>\r\nDATA\r\n')
      await raw.until(/^354/m)
      raw.write(`Subject: broken\r\n\r\nhalf${ending}`)
      await sleep(30)
      raw.socket.destroy()
    }
    await sleep(200)
    expect(await inbox('user6')).toEqual([])
  })

  testUnless(lack, 'an end of data that is none smuggles no second message', async () => {
    for (const end of ['\n.\n', '\n.\r\n', '\r.\r', '\r\n.\n', '\r.\r\n']) {
      await using raw = await Raw.open(server.lmtp)
      raw.write('LHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<user7@example.com>\r\nDATA\r\n')
      await raw.until(/^354/m)
      raw.forget()
      raw.write(
        `Subject: one\r\n\r\ntext${end}MAIL FROM:<evil@b>\r\nRCPT TO:<user8@example.com>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n.\r\n`,
      )
      await raw.until(/^\d\d\d /m)
      await sleep(50)
    }
    const smuggled = await inbox('user8')
    if (server.name === 'mailstead') expect(smuggled).toEqual([])
    else say(`hostile: ${smuggled.length} smuggled messages`)
  })

  testUnless(lack, 'very many recipients are taken or refused, one by one', async () => {
    const watched = await watch(server, async () => {
      await using raw = await Raw.open(server.lmtp)
      raw.write('LHLO x\r\nMAIL FROM:<a@b>\r\n')
      await raw.until(/^250 [^\n]*\r\n250 /m)
      const count = 20_000
      raw.write('RCPT TO:<user9@example.com>\r\n'.repeat(count))
      raw.write('NOOP\r\nQUIT\r\n')
      await raw.until(/^221/m, 60_000)
    })
    expect(watched.peakBytes).toBeLessThan(MEMORY_LIMIT)
  })
})
