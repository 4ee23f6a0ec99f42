/** LMTP from outside: the commands of RFC 2033 and what it takes over from SMTP. */
import { connect } from 'node:net'
import { expect, test } from 'vitest'
import { mail, message } from './setup.ts'

/** Sends a command, resolves to its reply, all lines of it. Replies end with a line that has a blank after the code. */
type Say = (text: string) => Promise<string>

async function lmtp(port: number): Promise<{ readonly greeting: string; readonly say: Say } & Disposable> {
  const socket = connect(port, '127.0.0.1')
  let text = ''
  let wake = (): void => undefined
  socket.on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1')
    wake()
  })
  socket.on('close', () => wake())
  const reply = async (): Promise<string> => {
    for (;;) {
      const match = /^(?:\d{3}-.*\r\n)*\d{3} .*\r\n/.exec(text)
      if (match !== null) {
        text = text.slice(match[0].length)
        return match[0].trimEnd()
      }
      if (socket.destroyed) throw new Error('the server hung up')
      await new Promise<void>((resolve) => (wake = resolve))
    }
  }
  return {
    greeting: await reply(),
    say(command) {
      socket.write(`${command}\r\n`)
      return reply()
    },
    [Symbol.dispose]: () => socket.destroy(),
  }
}

test('LHLO offers what RFC 2033 §5 asks for, and HELO and EHLO are unknown', async () => {
  await using all = await mail({ messageMax: 100_000 })
  using client = await lmtp(all.server.lmtp.port)
  expect(client.greeting).toMatch(/^220 /)
  expect(await client.say('HELO x')).toMatch(/^50[02] /)
  expect(await client.say('EHLO x')).toMatch(/^50[02] /)
  const offered = await client.say('LHLO x')
  for (const extension of ['PIPELINING', 'ENHANCEDSTATUSCODES', '8BITMIME', 'SMTPUTF8', 'SIZE 100000'])
    expect(offered).toMatch(new RegExp(`^250[- ]${extension}\\r?$`, 'm'))
})
test('commands out of order are 503, and DATA without a recipient that was taken too', async () => {
  await using all = await mail()
  using client = await lmtp(all.server.lmtp.port)
  expect(await client.say('MAIL FROM:<a@example.org>')).toMatch(/^503 /)
  await client.say('LHLO x')
  expect(await client.say('RCPT TO:<alice@x>')).toMatch(/^503 /)
  expect(await client.say('DATA')).toMatch(/^503 /)
  await client.say('MAIL FROM:<a@example.org>')
  expect(await client.say('RCPT TO:<nobody@x>')).toMatch(/^550 5\.1\.1 /)
  expect(await client.say('DATA')).toMatch(/^503 /)
})
test('RSET forgets the recipients, NOOP and VRFY are answered, QUIT is 221', async () => {
  await using all = await mail()
  using client = await lmtp(all.server.lmtp.port)
  await client.say('LHLO x')
  await client.say('MAIL FROM:<>')
  await client.say('RCPT TO:<alice@x>')
  expect(await client.say('RSET')).toMatch(/^250 /)
  expect(await client.say('DATA')).toMatch(/^503 /)
  expect(await client.say('NOOP')).toMatch(/^250 /)
  expect(await client.say('VRFY alice')).toMatch(/^25[02] /)
  expect(await client.say('QUIT')).toMatch(/^221 /)
})
test('a message that was delivered is there for IMAP at once, dots undone', async () => {
  await using all = await mail()
  using client = await lmtp(all.server.lmtp.port)
  const reader = await all.logIn('SELECT INBOX')
  await client.say('LHLO x')
  await client.say('MAIL FROM:<a@example.org> BODY=8BITMIME')
  await client.say('RCPT TO:<alice@x>')
  expect(await client.say('DATA')).toMatch(/^354 /)
  expect(await client.say(`${message('dots')}..one\r\n.`)).toMatch(/^250 2\.\d\.\d /)
  expect(await reader.ok('NOOP')).toContain('* 1 EXISTS')
  expect((await reader.ok('FETCH 1 BODY.PEEK[TEXT]'))[0]).toContain('Hello.\r\n.one\r\n)')
})
