/**
 * A mail server whose roots are mounts of their own, in a private mount namespace: what the tests of outages take away.
 *
 *   <directory>/data, index, alternate, attachments    the mount points
 *   <directory>/volumes/                               what is mounted there: directories of a tmpfs, or ext4 images
 *   <directory>/state, mailstead.toml, users           never away
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { initRoot, ROOT_FILE } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { REPOSITORY } from '../../support/corpus.ts'
import { ImapClient } from '../../interop/lib/imap.ts'
import { Namespace } from './namespace.ts'

export const ROLES = ['data', 'index', 'alternate', 'attachments'] as const
export type Role = (typeof ROLES)[number]
export type Volumes = 'tmpfs' | 'ext4'
export const USER = 'ann'
export const PASSWORD = 'secret'
const PROGRAM = ['--conditions=@mailstead/source', join(REPOSITORY, 'tests', 'crash', 'mailstead-command.ts')]

export interface Ran {
  readonly code: number | null
  readonly output: string
}

export class World implements AsyncDisposable {
  readonly directory: string
  readonly namespace: Namespace
  readonly #volumes: Volumes
  #server: { readonly child: ChildProcess; readonly ended: Promise<number | null>; log: string } | undefined
  imap = 0
  lmtp = 0

  private constructor(directory: string, namespace: Namespace, volumes: Volumes) {
    this.directory = directory
    this.namespace = namespace
    this.#volumes = volumes
  }

  /** With every root mounted and marked, and no server. */
  static async make(volumes: Volumes): Promise<World> {
    const directory = mkdtempSync(join(tmpdir(), 'mailstead-outage-'))
    const world = new World(directory, await Namespace.open(), volumes)
    for (const name of ['volumes', 'state', ...ROLES]) mkdirSync(join(directory, name))
    world.namespace.run('mount', '-t', 'tmpfs', 'volumes', join(directory, 'volumes'))
    writeFileSync(join(directory, 'users'), `${USER}:{PLAIN}${PASSWORD}\n`, { mode: 0o600 })
    writeFileSync(
      world.config,
      [
        'data = "data"',
        'users = "users"',
        'state = "state"',
        '[imap]\nlisten = "127.0.0.1:0"',
        '[lmtp]\nlisten = "127.0.0.1:0"',
        '[store]\nidle_seconds = 1',
        '[index]\npath = "index"',
        '[alternate]\npath = "alternate"',
        '[attachments]\npath = "attachments"\nmin_bytes = 4096',
        '',
      ].join('\n'),
    )
    for (const role of ROLES) {
      world.makeVolume(role)
      world.mount(role)
      await world.#mark(role)
    }
    // Another one, that is marked too, and one that holds nothing.
    for (const role of ROLES) {
      world.makeVolume(`wrong-${role}`)
      world.makeVolume(`empty-${role}`)
      world.unmount(role)
      world.mount(role, `wrong-${role}`)
      await world.#mark(role)
      world.unmount(role)
      world.mount(role)
    }
    return world
  }

  get config(): string {
    return join(this.directory, 'mailstead.toml')
  }
  /** The mount point. */
  at(role: Role): string {
    return join(this.directory, role)
  }

  /** As `mailstead init` does. */
  async #mark(role: Role): Promise<void> {
    await using fs = memoryFs()
    await initRoot(fs, role)
    writeFileSync(join(this.namespace.path(this.at(role)), ROOT_FILE), await fs.readFile(ROOT_FILE), { flag: 'wx' })
  }

  makeVolume(name: string): void {
    const volume = join(this.directory, 'volumes', name)
    if (this.#volumes === 'tmpfs') {
      this.namespace.run('mkdir', volume)
      return
    }
    this.namespace.run('truncate', '-s', '24M', volume)
    this.namespace.run('mkfs.ext4', '-q', '-m', '0', volume)
  }

  mount(role: Role, volume: string = role): void {
    if (this.#volumes === 'tmpfs')
      this.namespace.run('mount', '--bind', join(this.directory, 'volumes', volume), this.at(role))
    // The loop device ends with the mount, whatever becomes of the test.
    else this.namespace.run('mount', '-o', 'loop', join(this.directory, 'volumes', volume), this.at(role))
  }

  /** `lazy`: whoever has files open keeps them; otherwise it fails while somebody has. */
  unmount(role: Role, how: 'lazy' | 'plain' = 'plain'): void {
    this.namespace.run('umount', ...(how === 'lazy' ? ['--lazy'] : []), this.at(role))
  }

  /** Names below the mount point, as whoever is in the namespace sees them now. */
  names(role: Role): string[] {
    return readdirSync(this.namespace.path(this.at(role)), { recursive: true, encoding: 'utf8' })
      .filter((name) => !name.startsWith('lost+found'))
      .sort()
  }

  get log(): string {
    return this.#server?.log ?? ''
  }

  /** Resolves with the exit code if it ends before it is ready. */
  async start(): Promise<number | null | 'ready'> {
    const [command, ...rest] = [...this.namespace.enter, process.execPath, ...PROGRAM, 'serve', '--config', this.config]
    const child = spawn(command!, rest, { stdio: ['ignore', 'pipe', 'pipe'], cwd: '/' })
    const ended = new Promise<number | null>((resolve) => child.once('exit', resolve))
    const server = { child, ended, log: '' }
    this.#server = server
    const ready = Promise.withResolvers<'ready'>()
    const hear = (chunk: Buffer): void => {
      server.log += chunk.toString()
      const line = /^ready imap=\S+?:(\d+) lmtp=\S+?:(\d+)$/m.exec(server.log)
      if (line === null) return
      this.imap = Number(line[1])
      this.lmtp = Number(line[2])
      ready.resolve('ready')
    }
    child.stdout.on('data', hear)
    child.stderr.on('data', hear)
    return Promise.race([ready.promise, ended])
  }

  async stop(): Promise<number | null> {
    const server = this.#server
    if (server === undefined) return null
    this.#server = undefined
    server.child.kill('SIGTERM')
    return server.ended
  }

  /** Runs the `mailstead` command with the configuration. */
  async command(...args: readonly string[]): Promise<Ran> {
    const [command, ...rest] = [...this.namespace.enter, process.execPath, ...PROGRAM, ...args, '--config', this.config]
    const child = spawn(command!, rest, { stdio: ['pipe', 'pipe', 'pipe'], cwd: '/' })
    let output = ''
    child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
    child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()))
    child.stdin.end('Subject: by the command\r\n\r\nIt is.\r\n')
    return { code: await new Promise((resolve) => child.once('close', resolve)), output }
  }

  logIn(): Promise<ImapClient> {
    return ImapClient.login(this.imap, USER, PASSWORD)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
    for (const role of ROLES)
      try {
        this.unmount(role, 'lazy')
      } catch {
        // It is not mounted now.
      }
    await this.namespace[Symbol.asyncDispose]()
    rmSync(this.directory, { recursive: true, force: true })
  }
}
