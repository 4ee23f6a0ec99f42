/**
 * A file system of the kernel on a disk that remembers everything written to it, and every disk that a power cut could
 * have left: what a store promises is proven here against the kernel itself, its journal and its write-back.
 *
 * The kernel writes through a loop device to a file of nbdfuse, which is a disk of nbdkit with our `plugin.py`; that
 * logs each write and flush. `mark` notes what has been acknowledged until then. `images` cuts the power at every
 * flush and at random moments between, where each block not yet flushed may be there or not; mounts what is left, so
 * that the kernel replays its journal; and says which marks had been made before.
 *
 *     await using disk = await BlockLogDisk.create({ sizeMiB: 16 })
 *     … work in disk.mountPoint, calling disk.mark('42') when 42 is acknowledged …
 *     for await (const image of disk.images({ seed: 1 })) … look into image.directory, expect image.marks to be there …
 *
 * Needs root, loop devices, FUSE, nbdkit with its Python plugin, and nbdfuse: see `blockLogUnavailable`.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { CrashBuilder, type CrashPlan, type CrashPlanOptions, planCrashes, readLog } from './log.ts'
import {
  format,
  mountLoop,
  type VolumeOptions,
  released,
  run,
  scratchDirectory,
  unmount,
  volumeUnavailable,
} from './volume.ts'

const PLUGIN = new URL('plugin.py', import.meta.url).pathname
const START_PAUSE_MS = 5

/** Why there can be no such disk here; undefined if there can. */
export function blockLogUnavailable(): string | undefined {
  const reason = volumeUnavailable(['nbdkit', 'nbdfuse', 'python3'])
  if (reason !== undefined) return reason
  return existsSync('/dev/fuse') ? undefined : 'there is no FUSE'
}

export interface BlockLogDiskOptions extends VolumeOptions {
  /** Of the file system while it is written to, such as `data=writeback`. (default: none) */
  readonly mountOptions?: readonly string[]
}

/** A disk as a power cut left it, mounted until the next one is asked for; what is changed in it is forgotten then. */
export interface CrashImage {
  readonly directory: string
  readonly kind: CrashPlan['kind']
  /** Labels of the marks made before the power failed, in their order. */
  readonly marks: readonly string[]
  /** One line that names this image for people: the position in the log and the seed. */
  readonly description: string
}

export class BlockLogDisk implements AsyncDisposable {
  /** Where the file system is mounted, until `unmount`. */
  readonly mountPoint: string
  readonly #directory: string
  readonly #image: string
  readonly #log: string
  readonly #fuse: string
  readonly #mountOptions: readonly string[]
  readonly #labels: string[] = []
  /** Size of the log when each mark was made. */
  readonly #positions: number[] = []
  #server: ChildProcess | undefined
  #ended: Promise<void> | undefined
  #said = ''
  #mounted: 'nothing' | 'device' | 'all' = 'nothing'

  private constructor(directory: string, mountOptions: readonly string[]) {
    this.#directory = directory
    this.#image = join(directory, 'image')
    this.#log = join(directory, 'log')
    this.#fuse = join(directory, 'device')
    this.#mountOptions = mountOptions
    this.mountPoint = join(directory, 'mounted')
  }

  /** Formats and mounts a new disk. Throws what `blockLogUnavailable` says where there can be none. */
  static async create(options: BlockLogDiskOptions = {}): Promise<BlockLogDisk> {
    const reason = blockLogUnavailable()
    if (reason !== undefined) throw new Error(reason)
    const disk = new BlockLogDisk(scratchDirectory(), options.mountOptions ?? [])
    try {
      await disk.#start(options)
      return disk
    } catch (error) {
      await disk[Symbol.asyncDispose]()
      throw error
    }
  }

  async #start(options: BlockLogDiskOptions): Promise<void> {
    await format(this.#image, options.sizeMiB ?? 16, options)
    copyFileSync(this.#image, join(this.#directory, 'formatted'))
    for (const directory of [this.#fuse, this.mountPoint]) mkdirSync(directory)
    const device = join(this.#fuse, 'disk')
    const plugin = ['-s', '--exit-with-parent', 'python', PLUGIN, `image=${this.#image}`, `log=${this.#log}`]
    // In a process group of its own: a signal meant for the tests would take the disk from under the kernel.
    const server = spawn('nbdfuse', [device, '--command', 'nbdkit', ...plugin], {
      stdio: ['ignore', 'ignore', 'pipe'],
      detached: true,
    })
    this.#server = server
    let running = true
    server.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#said += text
    })
    this.#ended = new Promise((resolve) => {
      server.on('error', (error) => {
        this.#said += error.message
      })
      server.on('close', () => {
        running = false
        resolve()
      })
    })
    while (!existsSync(device)) {
      if (!running) throw new Error(`nbdfuse: ${this.#said}`)
      await sleep(START_PAUSE_MS)
    }
    this.#mounted = 'device'
    await mountLoop(device, this.mountPoint, this.#mountOptions)
    this.#mounted = 'all'
  }

  /**
   * Notes that something is acknowledged now: it is among the marks of every image of a later moment. Costs one stat.
   */
  mark(label: string): void {
    this.#labels.push(label)
    this.#positions.push(statSync(this.#log).size)
  }

  /** Lets the kernel write everything of the file system, as it does by itself every few seconds. */
  async writeBack(): Promise<void> {
    await run('sync', '-f', this.mountPoint)
  }

  /** Ends the work on the disk. What the kernel writes while it unmounts is part of the log. */
  async unmount(): Promise<void> {
    if (this.#mounted === 'all') {
      this.#mounted = 'device'
      await unmount(this.mountPoint)
    }
    if (this.#mounted === 'device') {
      this.#mounted = 'nothing'
      await unmount(this.#fuse)
    }
    await this.#ended
  }

  /** Unmounts the disk and then mounts, one by one, what power cuts would have left of it. */
  async *images(options: CrashPlanOptions): AsyncGenerator<CrashImage> {
    await this.unmount()
    const records = readLog(this.#log)
    const durable = join(this.#directory, 'durable')
    copyFileSync(join(this.#directory, 'formatted'), durable)
    const directory = join(this.#directory, 'looked-at')
    mkdirSync(directory, { recursive: true })
    using builder = new CrashBuilder(records, this.#log, durable)
    let number = 0
    for (const plan of planCrashes(records, options)) {
      // A file of its own each: `mount` takes the loop device of the one before, with what the kernel remembers of
      // it, as long as anybody on the machine has that open.
      const image = join(this.#directory, `crashed-${number++}`)
      const position = builder.build(plan, image)
      const description = `${plan.kind} at byte ${position}, records ${plan.durable}…${plan.cut} of ${records.length}, seed ${plan.seed}`
      try {
        await mountLoop(image, directory)
      } catch (error) {
        throw new Error(`the kernel does not mount what is left: ${description}`, { cause: error })
      }
      try {
        yield { directory, kind: plan.kind, marks: this.#marksAt(position), description }
      } finally {
        await unmount(directory)
        rmSync(image)
      }
    }
  }

  #marksAt(position: number): string[] {
    const count = this.#positions.findLastIndex((at) => at <= position) + 1
    return this.#labels.slice(0, count)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.unmount()
    } finally {
      // Without its file system it has ended; if unmounting failed, it must not go on for ever.
      this.#server?.kill('SIGKILL')
      rmSync(this.#directory, { recursive: true, force: true })
      released(this.#directory)
    }
  }
}
