/**
 * Starts the servers that tests talk to: Mailstead as a process, and Debian's Dovecot 2.3 (mdbox) as the peer to compare with.
 * Each has a directory of its own and listens on loopback, on ports that the kernel chose. A configuration written here,
 * so that anybody with the Debian packages can repeat what is measured.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { REPOSITORY } from '../../support/corpus.ts'
import type { Lack } from '../../support/depth.ts'
import { processTree } from './processes.ts'

export const PASSWORD = 'open-sesame'
export const MAILSTEAD_COMMAND: string = join(REPOSITORY, 'apps', 'admin', 'bin', 'mailstead.mjs')
const READY_MS = 30_000
const STOP_MS = 20_000

export interface Server extends AsyncDisposable {
  readonly name: 'mailstead' | 'dovecot'
  readonly imap: number
  readonly lmtp: number
  /** The process that was started; the others are below it. */
  readonly pid: number
  readonly directory: string
  /** Clean stop; resolves when it has ended, with its exit code (null after a signal). */
  stop(): Promise<number | null>
  /** SIGKILL; resolves when it has ended. */
  kill(): Promise<void>
  /** Everything it wrote to its output or its log. */
  log(): string
}

export type DovecotBox = 'mdbox' | 'sdbox' | 'maildir'

export interface ServerOptions {
  /** The directory to use; kept when the server is disposed. (default: a new one, removed when disposed) */
  readonly directory?: string
  /** Names that may log in with PASSWORD. (default: user1 … user16) */
  readonly users?: readonly string[]
  /** Flag changes without a flush. (default false) */
  readonly lazyFlags?: boolean
  /** What Node runs in the place of the `mailstead` command, with the same arguments. */
  readonly program?: readonly string[]
  /** Further lines of the TOML configuration. */
  readonly config?: string
  /** A command that runs the server, as `['strace', '-f', …]`. The server is its only child. */
  readonly wrapper?: readonly string[]
  /** Told the process id as soon as there is one, long before it is ready. */
  readonly onSpawn?: (pid: number) => void
  /** How Dovecot keeps its mail. (default mdbox) */
  readonly box?: DovecotBox
  /** Further lines of Dovecot's configuration, by its directory. */
  readonly dovecotConfig?: (directory: string) => string
  /** The ports of an earlier start. (default: chosen by the kernel) */
  readonly ports?: { readonly imap: number; readonly lmtp: number }
}

export const USERS: readonly string[] = Array.from({ length: 16 }, (_, at) => `user${at + 1}`)

/** Which server the tests run against: MAILSTEAD_TEST_SERVER=dovecot validates the tests themselves. */
export function testServer(): 'mailstead' | 'dovecot' {
  return process.env['MAILSTEAD_TEST_SERVER'] === 'dovecot' ? 'dovecot' : 'mailstead'
}

export function serverLack(): Lack | undefined {
  if (testServer() === 'dovecot') return dovecotLack()
  return existsSync(MAILSTEAD_COMMAND) ? undefined : { reason: `no ${MAILSTEAD_COMMAND}` }
}

export async function startServer(options: ServerOptions = {}): Promise<Server> {
  return testServer() === 'dovecot' ? startDovecot(options) : startMailstead(options)
}

/** A new directory; readable by the user that Dovecot becomes. */
export function temporaryDirectory(name: string): string {
  const directory = mkdtempSync(join(tmpdir(), `mailstead-${name}-`))
  chmodSync(directory, 0o755)
  return directory
}

export async function startMailstead(options: ServerOptions = {}): Promise<Server> {
  const directory = options.directory ?? temporaryDirectory('server')
  mkdirSync(directory, { recursive: true })
  const data = join(directory, 'data')
  const users = join(directory, 'users')
  const config = join(directory, 'mailstead.toml')
  writeFileSync(users, `${(options.users ?? USERS).map((name) => `${name}:{PLAIN}${PASSWORD}`).join('\n')}\n`, {
    mode: 0o600,
  })
  writeFileSync(config, `${options.lazyFlags === true ? '[store]\nflags = "lazy"\n' : ''}${options.config ?? ''}`)
  const fresh = !existsSync(data)
  const ports = options.ports ?? { imap: 0, lmtp: 0 }
  const args = ['serve', '--data', data, '--imap', `127.0.0.1:${ports.imap}`, '--lmtp', `127.0.0.1:${ports.lmtp}`]
  args.push('--users', users, '--config', config, ...(fresh ? ['--init'] : []))
  const [command, ...rest] = [
    ...(options.wrapper ?? []),
    process.execPath,
    ...(options.program ?? [MAILSTEAD_COMMAND]),
    ...args,
  ]
  const child = spawn(command!, rest, { stdio: ['ignore', 'pipe', 'pipe'], cwd: directory })
  const ended = exitOf(child)
  options.onSpawn?.(child.pid!)
  let log = ''
  let ready: ((line: string) => void) | undefined
  const isReady = new Promise<string>((resolve) => {
    ready = resolve
  })
  const hear = (chunk: Buffer): void => {
    log = (log + chunk.toString()).slice(-1_000_000)
    const line = /^.*\bready\b.*$/m.exec(log)
    if (line !== null && /imap=\S+:\d+/.test(line[0])) ready?.(line[0])
  }
  child.stdout.on('data', hear)
  child.stderr.on('data', hear)
  const line = await Promise.race([isReady, ended.then(() => undefined), sleep(READY_MS, undefined, { ref: false })])
  if (line === undefined) {
    child.kill('SIGKILL')
    throw new Error(`Mailstead did not get ready:\n${log.slice(-4000)}`)
  }
  const pid = servingPid(child, options)
  return {
    name: 'mailstead',
    imap: Number(/imap=\S+?:(\d+)/.exec(line)![1]),
    lmtp: Number(/lmtp=\S+?:(\d+)/.exec(line)?.[1] ?? 0),
    pid,
    directory,
    log: () => log,
    stop: async () => stopChild(pid, ended),
    async kill() {
      process.kill(pid, 'SIGKILL')
      await ended
    },
    async [Symbol.asyncDispose]() {
      await stopChild(pid, ended)
      if (options.directory === undefined) rmSync(directory, { recursive: true, force: true })
    },
  }
}

export interface CheckResult {
  /** 0 clean, 1 findings, 2 could not look. */
  readonly code: number | null
  readonly output: string
}

/** `mailstead check` over the data of a server that does not run; its configuration says where a second tier is. */
export function checkStore(directory: string, program: readonly string[] = [MAILSTEAD_COMMAND]): CheckResult {
  const config = join(directory, 'mailstead.toml')
  const args = [
    'check',
    '--data',
    join(directory, 'data'),
    '--json',
    ...(existsSync(config) ? ['--config', config] : []),
  ]
  const run = spawnSync(process.execPath, [...program, ...args], {
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  })
  return { code: run.status, output: `${run.stdout}${run.stderr}`.slice(-4000) }
}

export function dovecotLack(): Lack | undefined {
  if (!existsSync('/usr/sbin/dovecot')) return { reason: 'no /usr/sbin/dovecot (Debian: dovecot-imapd dovecot-lmtpd)' }
  if (!existsSync('/usr/lib/dovecot/imap') || !existsSync('/usr/lib/dovecot/lmtp')) {
    return { reason: 'no Dovecot imap or lmtp (Debian: dovecot-imapd dovecot-lmtpd)' }
  }
  return process.getuid?.() === 0 ? undefined : { reason: 'Dovecot is started as root' }
}

/** The system user (of Debian's base-passwd) that owns the peer's mail; Dovecot serves nobody's mail as root. */
const MAIL_USER = 'mail'

export async function startDovecot(options: ServerOptions = {}): Promise<Server> {
  const directory = options.directory ?? temporaryDirectory('dovecot')
  const ports = options.ports ?? { imap: await freePort(), lmtp: await freePort() }
  for (const name of ['', 'run', 'home']) mkdirSync(join(directory, name), { recursive: true, mode: 0o755 })
  spawnSync('chmod', ['755', directory])
  spawnSync('chown', [`${MAIL_USER}:${MAIL_USER}`, join(directory, 'home')])
  rmSync(join(directory, 'log'), { force: true })
  const file = join(directory, 'dovecot.conf')
  writeFileSync(file, dovecotConfiguration(directory, ports, options.box) + (options.dovecotConfig?.(directory) ?? ''))
  const [command, ...rest] = [...(options.wrapper ?? []), '/usr/sbin/dovecot', '-F', '-c', file]
  const child = spawn(command!, rest, { stdio: ['ignore', 'pipe', 'pipe'] })
  const ended = exitOf(child)
  options.onSpawn?.(child.pid!)
  let output = ''
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()))
  const log = (): string =>
    output + (existsSync(join(directory, 'log')) ? readFileSync(join(directory, 'log'), 'utf8') : '')
  const deadline = Date.now() + READY_MS
  while (!log().includes('starting up')) {
    if (child.exitCode !== null || Date.now() > deadline) throw new Error(`Dovecot did not get ready:\n${log()}`)
    await sleep(20)
  }
  const pid = servingPid(child, options)
  return {
    name: 'dovecot',
    ...ports,
    pid,
    directory,
    log,
    stop: async () => stopChild(pid, ended),
    async kill() {
      for (const each of processTree(pid)) signal(each, 'SIGKILL')
      await ended
    },
    async [Symbol.asyncDispose]() {
      await stopChild(pid, ended)
      if (options.directory === undefined) rmSync(directory, { recursive: true, force: true })
    },
  }
}

/** `dovecotConfig` with which Dovecot keeps parts from this size outside, equal ones of all users once. */
export function dovecotAttachments(from: string): (directory: string) => string {
  return (directory) => `mail_attachment_dir = ${directory}/home/attachments\nmail_attachment_min_size = ${from}\n`
}

/** Debian's Dovecot 2.3 as it comes, with mdbox if nothing else is said; limits raised so that nothing but its work is measured. */
export function dovecotConfiguration(
  directory: string,
  ports: { readonly imap: number; readonly lmtp: number },
  box: DovecotBox = 'mdbox',
): string {
  return `
base_dir = ${directory}/run
state_dir = ${directory}/run
instance_name = mailstead-peer
protocols = imap lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
log_path = ${directory}/log
default_client_limit = 20000
default_process_limit = 5000
default_vsz_limit = 0
first_valid_uid = 1
mail_uid = ${MAIL_USER}
mail_gid = ${MAIL_USER}
mail_home = ${directory}/home/%n
mail_location = ${box}:~/${box}
mail_fsync = optimized
mail_max_userip_connections = 0
hostname = peer.test
postmaster_address = postmaster@peer.test
auth_username_format = %n
passdb {
  driver = static
  args = password=${PASSWORD}
}
userdb {
  driver = static
  args = uid=${MAIL_USER} gid=${MAIL_USER} home=${directory}/home/%n allow_all_users=yes
}
namespace inbox {
  inbox = yes
  separator = /
}
service anvil {
  client_limit = 20000
}
service auth {
  client_limit = 60000
}
service imap-login {
  service_count = 0
  process_min_avail = 2
  process_limit = 8
  client_limit = 10000
  inet_listener imap {
    address = 127.0.0.1
    port = ${ports.imap}
  }
  inet_listener imaps {
    port = 0
  }
}
service imap {
  process_limit = 5000
  service_count = 1
}
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = ${ports.lmtp}
  }
  process_min_avail = 2
  process_limit = 200
}
`
}

/** A port of loopback that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  await new Promise<void>((resolve) => server.close(() => resolve()))
  if (address === null || typeof address === 'string') throw new Error('no address')
  return address.port
}

/** Servers of this process: they end with it, however it ends. */
const living = new Set<ChildProcess>()
process.once('exit', () => {
  for (const child of living) for (const pid of processTree(child.pid!).toReversed()) signal(pid, 'SIGKILL')
})

async function exitOf(child: ChildProcess): Promise<number | null> {
  living.add(child)
  child.once('exit', () => living.delete(child))
  return new Promise((resolve) => {
    child.once('exit', (code) => resolve(code))
    child.once('error', () => resolve(-1))
  })
}

function servingPid(child: ChildProcess, options: ServerOptions): number {
  return options.wrapper === undefined ? child.pid! : (processTree(child.pid!)[1] ?? child.pid!)
}

function signal(pid: number, name: 'SIGTERM' | 'SIGKILL'): void {
  try {
    process.kill(pid, name)
  } catch {
    // It is gone already.
  }
}

async function stopChild(pid: number, ended: Promise<number | null>): Promise<number | null> {
  // A turn is enough for an end that is known already; a signal must not go to whoever has the number now.
  const running = await Promise.race([ended.then(() => false), sleep(0, true)])
  if (!running) return ended
  signal(pid, 'SIGTERM')
  const code = await Promise.race([ended, sleep(STOP_MS, 'late' as const, { ref: false })])
  if (code !== 'late') return code
  signal(pid, 'SIGKILL')
  await ended
  throw new Error(`the server did not stop within ${STOP_MS} ms of SIGTERM`)
}
