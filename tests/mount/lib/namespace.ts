/**
 * A private mount namespace, in which tests mount and unmount what they like: nothing of it is seen by anybody else, and all of it
 * ends with the process that holds it.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { readlinkSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Lack } from '../../support/depth.ts'

export class Namespace implements AsyncDisposable {
  readonly #holder: ChildProcess

  private constructor(holder: ChildProcess) {
    this.#holder = holder
  }

  static async open(): Promise<Namespace> {
    const holder = spawn('unshare', ['--mount', '--propagation', 'private', 'sleep', 'infinity'], { stdio: 'ignore' })
    const mine = readlinkSync('/proc/self/ns/mnt')
    while (readlinkSync(`/proc/${holder.pid}/ns/mnt`) === mine) {
      if (holder.exitCode !== null) throw new Error('there is no private mount namespace')
      await sleep(5)
    }
    return new Namespace(holder)
  }

  /** The arguments that run a program in it. */
  get enter(): readonly string[] {
    return ['nsenter', `--mount=/proc/${this.#holder.pid}/ns/mnt`, '--']
  }

  /** What this path is there, for whoever is not in it. */
  path(path: string): string {
    return `/proc/${this.#holder.pid}/root${path}`
  }

  /** Runs a program to its end; throws with what it wrote if it fails. */
  run(program: string, ...args: readonly string[]): string {
    const [command, ...rest] = [...this.enter, program, ...args]
    const done = spawnSync(command!, rest, { encoding: 'utf8' })
    if (done.status !== 0) throw new Error(`${program} ${args.join(' ')}: ${done.status}: ${done.stderr}${done.stdout}`)
    return done.stdout
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#holder.exitCode !== null || this.#holder.signalCode !== null) return
    this.#holder.kill('SIGKILL')
    await new Promise((resolve) => this.#holder.once('exit', resolve))
  }
}

/** Root may mount, unless a container forbids it. */
export function namespaceLack(): Lack | undefined {
  if (process.platform !== 'linux') return { reason: 'mount namespaces are of Linux' }
  if (process.getuid?.() !== 0) return { reason: 'only root may mount' }
  const tried = spawnSync('unshare', ['--mount', '--propagation', 'private', 'mount', '-t', 'tmpfs', 'x', '/mnt'])
  return tried.status === 0 ? undefined : { reason: 'no mounting in a namespace of its own here' }
}

/** Images of file systems, mounted by loop devices. */
export function loopLack(): Lack | undefined {
  const lack = namespaceLack()
  if (lack !== undefined) return lack
  const script =
    'set -e; t=$(mktemp -d); mount -t tmpfs x $t; truncate -s 8M $t/i; mkfs.ext4 -q $t/i; mkdir $t/m; mount -o loop $t/i $t/m; umount $t/m'
  const tried = spawnSync('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', script])
  return tried.status === 0 ? undefined : { reason: 'no ext4 on a loop device here' }
}
