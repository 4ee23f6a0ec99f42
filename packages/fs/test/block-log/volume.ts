/**
 * A small file system of the kernel on a file: for tests of a disk that is full, read-only or gone.
 *
 * Whatever happens, it is unmounted and its loop device freed: when it is disposed, when the process ends, or, if that was
 * killed, when the next one makes a disk.
 */
import { execFile, execFileSync } from 'node:child_process'
import {
  accessSync,
  constants,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
} from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

const CAP_SYS_ADMIN = 21n
/** How long somebody may keep a mounted directory busy (a file about to be closed) before it is taken away. */
const BUSY_TRIES = 100
const BUSY_PAUSE_MS = 20

const execute = promisify(execFile)

/** Why no loop device can be mounted here; undefined if one can. */
export function volumeUnavailable(programs: readonly string[] = []): string | undefined {
  if (process.platform !== 'linux') return 'this is not Linux'
  const capabilities = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1] ?? '0'
  if (((BigInt(`0x${capabilities}`) >> CAP_SYS_ADMIN) & 1n) === 0n) return 'only root may mount'
  if (!existsSync('/dev/loop-control')) return 'there are no loop devices'
  for (const program of ['mount', 'umount', 'mkfs.ext4', ...programs])
    if (!isProgram(program)) return `${program} is not installed`
  return undefined
}

function isProgram(name: string): boolean {
  return `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`.split(':').some((directory) => {
    try {
      accessSync(join(directory, name), constants.X_OK)
      return statSync(join(directory, name)).isFile()
    } catch {
      return false
    }
  })
}

/** Runs a program; what it said is part of the failure. */
export async function run(program: string, ...parameters: string[]): Promise<string> {
  const path = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`
  try {
    const { stdout } = await execute(program, parameters, { env: { ...process.env, PATH: path, LC_ALL: 'C' } })
    return stdout
  } catch (error) {
    const said = (error as { stderr?: string }).stderr ?? ''
    throw new Error(`${program} ${parameters.join(' ')}: ${said.trim()}`, { cause: error })
  }
}

/** Directories of this process with what belongs to a disk. */
const scratch = new Set<string>()

process.on('exit', () => {
  for (const directory of scratch) abandon(directory)
})

/** What a scratch directory is called: with the process that it belongs to. */
const SCRATCH = /^mailstead-disk-(\d+)-/

/**
 * A new directory for disks: in memory where that is possible, since whole disks are written over and over. It is removed
 * when the process ends, unless `released`. What processes left behind that were killed is removed now.
 */
export function scratchDirectory(): string {
  let base = tmpdir()
  try {
    accessSync('/dev/shm', constants.W_OK)
    base = '/dev/shm'
  } catch {
    // No shared memory here.
  }
  for (const name of readdirSync(base)) {
    const owner = SCRATCH.exec(name)?.[1]
    if (owner !== undefined && !existsSync(`/proc/${owner}`)) abandon(join(base, name))
  }
  const directory = mkdtempSync(join(base, `mailstead-disk-${process.pid}-`))
  scratch.add(directory)
  return directory
}

/** Unmounts whatever is mounted below a directory, whoever uses it, and removes the directory. */
function abandon(directory: string): void {
  const places = readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
    .filter((place) => place.startsWith(`${directory}/`))
  for (const place of places.reverse()) {
    try {
      execFileSync('umount', ['-l', place], { stdio: 'ignore' })
    } catch {
      // Somebody else was first.
    }
  }
  rmSync(directory, { recursive: true, force: true })
}

/** A scratch directory was removed. */
export function released(directory: string): void {
  scratch.delete(directory)
}

/** Mounts a file through a loop device, which is freed with the mount. */
export async function mountLoop(image: string, directory: string, options: readonly string[] = []): Promise<void> {
  await run('mount', '-o', ['loop', ...options].join(','), image, directory)
}

/** Unmounts. What keeps it busy for long loses its files, and the test that left it open fails. */
export async function unmount(directory: string): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      await run('umount', directory)
      break
    } catch (error) {
      if (!String(error).includes('busy')) throw error
      if (tries === BUSY_TRIES) {
        await run('umount', '-l', directory)
        throw new Error(`somebody still uses ${directory}`, { cause: error })
      }
      await sleep(BUSY_PAUSE_MS)
    }
  }
}

export interface FormatOptions {
  /** (default 'ext4') */
  readonly kind?: 'ext4'
  /** How many files there can be, about. (default: as the size suggests) */
  readonly inodes?: number
}

/** Makes an empty file system in a new file. Nothing of it is left for the kernel to initialize later. */
export async function format(image: string, sizeMiB: number, options: FormatOptions = {}): Promise<void> {
  await writeFile(image, '', { flag: 'wx' })
  truncateSync(image, sizeMiB * 1024 * 1024)
  const eager = 'lazy_itable_init=0,lazy_journal_init=0,nodiscard'
  // No blocks that only root may use: the tests run as root, and full is to mean full.
  const inodes = options.inodes === undefined ? [] : ['-N', `${options.inodes}`]
  await run(`mkfs.${options.kind ?? 'ext4'}`, '-q', '-F', '-b', '4096', '-m', '0', ...inodes, '-E', eager, image)
}

export interface VolumeOptions extends FormatOptions {
  /** (default 16, the least that has a journal) */
  readonly sizeMiB?: number
}

export class Volume implements AsyncDisposable {
  readonly mountPoint: string
  readonly #directory: string
  #mounted = false

  private constructor(directory: string) {
    this.#directory = directory
    this.mountPoint = join(directory, 'mounted')
  }

  static async create(options: VolumeOptions = {}): Promise<Volume> {
    const directory = scratchDirectory()
    const volume = new Volume(directory)
    try {
      await format(join(directory, 'image'), options.sizeMiB ?? 16, options)
      await mkdir(volume.mountPoint)
      await volume.mount()
      return volume
    } catch (error) {
      await volume[Symbol.asyncDispose]()
      throw error
    }
  }

  async mount(): Promise<void> {
    await mountLoop(join(this.#directory, 'image'), this.mountPoint)
    this.#mounted = true
  }

  /** 'ro' fails while a file is open for writing. */
  async remount(mode: 'ro' | 'rw'): Promise<void> {
    await run('mount', '-o', `remount,${mode}`, this.mountPoint)
  }

  /** What the kernel does after an error of the device: read-only, whoever has files open, and nothing is written any more. */
  async abort(): Promise<void> {
    await run('mount', '-o', 'remount,abort', this.mountPoint)
  }

  /** Makes it visible at another place too, hiding what is there. */
  async mountOver(directory: string): Promise<void> {
    await run('mount', '--bind', this.mountPoint, directory)
  }

  async uncover(directory: string): Promise<void> {
    await unmount(directory)
  }

  async unmount(): Promise<void> {
    this.#mounted = false
    await unmount(this.mountPoint)
  }

  /** Takes it away beneath whoever uses it: the name leads elsewhere at once, open files live on. */
  async takeAway(): Promise<void> {
    this.#mounted = false
    await run('umount', '-l', this.mountPoint)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      if (this.#mounted) await this.unmount()
    } finally {
      rmSync(this.#directory, { recursive: true, force: true })
      released(this.#directory)
    }
  }
}
