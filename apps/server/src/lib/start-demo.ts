/** `npm start`: a server on loopback with a demonstration user, and how to reach it. */
import { randomInt } from 'node:crypto'
import { appendFileSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { createTransport } from 'nodemailer'
import {
  formatUserLine,
  hashSecret,
  type MailServer,
  parseUsers,
  ServerError,
  userDirectory,
  verifySecret,
} from '@mailstead/server'
import { INBOX, StoreError } from '@mailstead/store'
import { checkDataDirectory, initDataDirectory, openUserStore } from './data-directory.ts'
import { demoMessages } from './demo-messages.ts'
import { mustAnswer, mustBeMounted, openMounts } from './mounts.ts'
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

interface DemoUser {
  readonly name: string
  readonly home?: string | undefined
  /** Undefined: it is not the one that was made here any more. */
  readonly password: string | undefined
}

/** Serves until a signal. `argv` holds the flags of `mailstead serve`. */
export async function startDemo(argv: readonly string[]): Promise<void> {
  const flags = withServeFlags(new Command('start'))
    .parse([...argv], { from: 'user' })
    .opts<ServeFlags>()
  const settings = settingsOf(flags, DEFAULTS)
  {
    await using mounts = await openMounts(settings.state)
    await mustBeMounted(settings.data, mounts)
    await mustAnswer(settings.data, mounts)
    if (flags.init !== true) await mustBeOursOrEmpty(settings.data)
    await initDataDirectory(settings.data, mounts)
  }
  await checkDataDirectory(settings.data)
  const demo = await demoUser(settings)
  await serveUntilStopped(settings, async (server) => {
    // Looked at only now: a first start that was cut short, or found its ports taken, is made up for by the next one.
    if (demo !== undefined && server.lmtp !== undefined && !(await hadMail(settings, demo))) await deliverDemo(server)
    process.stdout.write(`${greeting(settings, server, demo)}\n${readyLine(server)}\n`)
  })
}

/** A directory that is absent or empty may be marked unasked; one that holds something else only with --init. */
async function mustBeOursOrEmpty(data: string): Promise<void> {
  if (statSync(data, { throwIfNoEntry: false }) === undefined) return
  if (readdirSync(data).length === 0) return
  try {
    await checkDataDirectory(data)
  } catch (error) {
    if (!(error instanceof ServerError) || error.code !== 'SERVER_NO_ROOT') throw error
    throw new ServerError(
      'SERVER_NO_ROOT',
      `${data} is not empty and holds no mailstead-root, so it is not known to be a data directory: perhaps another one was meant. To make it one, give --init`,
      { cause: error },
    )
  }
}

/** The demonstration user, made on the first start. Undefined where a users file has others and was not begun here. */
async function demoUser({ data, users }: Settings): Promise<DemoUser | undefined> {
  const file = join(data, PASSWORD_FILE)
  const text = existsSync(users) ? readFileSync(users, 'utf8') : ''
  const known = parseUsers(text).users
  if (known.size > 0) {
    const entry = known.get(USER)
    if (entry === undefined || !existsSync(file)) return undefined
    const password = readFileSync(file, 'utf8').trim()
    return { ...entry, password: (await verifySecret(entry.secret, password)) ? password : undefined }
  }
  const password = Array.from({ length: 3 }, () => WORDS[randomInt(WORDS.length)]!).join('-')
  writeFileSync(file, `${password}\n`, { mode: 0o600 })
  const line = formatUserLine({ name: USER, secret: await hashSecret('ARGON2ID', password) })
  appendFileSync(users, `${text === '' || text.endsWith('\n') ? '' : '\n'}${line}\n`, { mode: 0o600 })
  return { name: USER, password }
}

/** Whether a message was ever in the user's INBOX. */
async function hadMail({ data, config }: Settings, user: DemoUser): Promise<boolean> {
  if (statSync(join(data, userDirectory(user)), { throwIfNoEntry: false }) === undefined) return false
  try {
    await using opened = await openUserStore(data, user, { readOnly: true, settings: config })
    const inbox = opened.store
      .as({ name: user.name })
      .mailboxes()
      .find(({ name }) => name === INBOX)
    return inbox !== undefined && inbox.uidNext > 1
  } catch (error) {
    if (error instanceof StoreError && error.code === 'STORE_NOT_FOUND') return false
    throw error
  }
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

function greeting(settings: Settings, server: MailServer, demo: DemoUser | undefined): string {
  const password = demo?.password
  const lines = ['', 'Mailstead is running.', '', `  Mail is kept in   ${settings.data}`]
  if (server.imap !== undefined)
    lines.push(
      '',
      'Connect with any mail client:',
      '',
      `  IMAP server       ${server.imap.host}, port ${server.imap.port}`,
    )
  if (server.imap !== undefined) lines.push('  Security          none (loopback only)')
  if (demo !== undefined)
    lines.push(
      `  User name         ${USER}`,
      `  Password          ${password ?? `was changed: ${USER} has another one now than was made for it`}`,
    )
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
