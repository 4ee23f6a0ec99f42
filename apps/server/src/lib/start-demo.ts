/** `npm start`: a server on loopback with a demonstration user, and how to reach it. */
import { randomInt } from 'node:crypto'
import { existsSync, readFileSync, appendFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { createTransport } from 'nodemailer'
import { formatUserLine, hashSecret, type MailServer, parseUsers } from '@mailstead/server'
import { checkDataDirectory, initDataDirectory } from './data-directory.ts'
import { demoMessages } from './demo-messages.ts'
import { readyLine, serveUntilStopped } from './serve.ts'
import { withServeFlags } from './serve-command.ts'
import { type ServeFlags, type Settings, settingsOf } from './settings.ts'

const USER = 'demo'
/** Where the demonstration user's password is kept, so that every start can print it. */
const PASSWORD_FILE = 'demo-password'
const DEFAULTS: ServeFlags = {
  data: './mailstead-data',
  imap: '127.0.0.1:1143',
  lmtp: '127.0.0.1:1024',
  init: true,
}

/** Serves until a signal. `argv` holds the flags of `mailstead serve`. */
export async function startDemo(argv: readonly string[]): Promise<void> {
  const command = withServeFlags(new Command('start')).parse([...argv], { from: 'user' })
  const settings = settingsOf(command.opts<ServeFlags>(), DEFAULTS)
  if (settings.init) await initDataDirectory(settings.data)
  await checkDataDirectory(settings.data)
  const { password, isNew } = await demoUser(settings)
  await serveUntilStopped(settings, async (server) => {
    if (isNew && server.lmtp !== undefined) await deliverDemo(server)
    process.stdout.write(`${greeting(settings, server, password)}\n${readyLine(server)}\n`)
  })
}

/** Makes the user on the first start. A users file that has one already is left alone. */
async function demoUser({ data, users }: Settings): Promise<{ password: string | undefined; isNew: boolean }> {
  const file = join(data, PASSWORD_FILE)
  const known = existsSync(users) ? parseUsers(readFileSync(users, 'utf8')).users : new Map<string, never>()
  if (known.size > 0)
    return {
      password: known.has(USER) && existsSync(file) ? readFileSync(file, 'utf8').trim() : undefined,
      isNew: false,
    }
  const password = Array.from({ length: 3 }, () => WORDS[randomInt(WORDS.length)]!).join('-')
  writeFileSync(file, `${password}\n`, { mode: 0o600 })
  appendFileSync(users, `${formatUserLine({ name: USER, secret: await hashSecret('ARGON2ID', password) })}\n`, {
    mode: 0o600,
  })
  return { password, isNew: true }
}

async function deliverDemo(server: MailServer): Promise<void> {
  const { host, port } = server.lmtp!
  const transport = createTransport({ host, port, lmtp: true, secure: false, ignoreTLS: true, pool: false } as object)
  try {
    for (const { from, raw, folder } of demoMessages(USER, new Date())) {
      const to = folder === undefined ? `${USER}@localhost` : `${USER}+${folder}@localhost`
      await transport.sendMail({ envelope: { from, to: [to] }, raw: raw.replace(/\r?\n/g, '\r\n') })
    }
  } finally {
    transport.close()
  }
}

function greeting(settings: Settings, server: MailServer, password: string | undefined): string {
  const lines = ['', 'Mailstead is running.', '', `  Mail is kept in   ${settings.data}`]
  if (server.imap !== undefined)
    lines.push(
      '',
      'Connect with any mail client:',
      '',
      `  IMAP server       ${server.imap.host}, port ${server.imap.port}`,
    )
  if (server.imap !== undefined) lines.push('  Security          none (loopback only)')
  if (password !== undefined) lines.push(`  User name         ${USER}`, `  Password          ${password}`)
  else lines.push(`  Users             ${settings.users}`)
  if (server.lmtp !== undefined)
    lines.push('', `Deliver mail through LMTP at ${server.lmtp.host}, port ${server.lmtp.port}. Stop with Ctrl-C.`)
  if (server.imap !== undefined && password !== undefined)
    lines.push(
      '',
      'Or look at once:',
      '',
      `  curl --user '${USER}:${password}' 'imap://${server.imap.host}:${server.imap.port}/INBOX;UID=1'`,
    )
  lines.push('')
  return lines.join('\n')
}

const WORDS: readonly string[] =
  'amber anchor apple arrow basil beacon birch bramble brook candle canyon cedar clover copper coral crane delta ember falcon fern fjord garnet ginger harbor hazel heron indigo island ivory jasper juniper kestrel lagoon lantern laurel linden maple marble meadow mint mistral nettle nimbus oasis olive onyx opal orchid otter pebble pepper pine plover poplar quartz quince raven reed river robin saffron sage sailor sierra slate sorrel sparrow spruce summit thistle thyme timber topaz tulip tundra umber valley velvet violet walnut willow wren yarrow zephyr'.split(
    ' ',
  )
