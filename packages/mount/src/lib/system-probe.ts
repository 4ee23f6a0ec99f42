/**
 * The operating system as it is: Linux by /proc/self/mountinfo, macOS and the BSDs by what `mount` prints. Elsewhere, and where
 * that cannot be read, mounts are judged by devices alone.
 */
import { execFile } from 'node:child_process'
import * as fs from 'node:fs'
import { readdir, readFile, realpath } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { Far, type FarOptions } from './far.ts'
import { parseMountOutput } from './mount-output.ts'
import { parseMountinfo } from './mountinfo.ts'
import type { Look, MountProbe, MountRow } from './probe.ts'

export interface SystemProbeOptions {
  /** How long a mount that may hang has for an answer, in milliseconds; then it is away. (default 5000) */
  readonly deadlineMs?: number
  /** How long its answer holds, in milliseconds: as long as a call may still hang that began while all was well. (default 1000) */
  readonly livenessMs?: number
  /** (default `process.platform`) */
  readonly platform?: NodeJS.Platform
}

const MOUNTINFO = '/proc/self/mountinfo'
const BY_UUID = '/dev/disk/by-uuid'
/** Links followed before they are called a loop: what Linux allows. */
const LINKS_MAX = 40
/** How often the table is read until two readings agree. */
const READINGS_MAX = 5

/** Disposing it ends its child processes; it starts them only for mounts that may hang, and they keep no process from ending. */
export function systemProbe(options: SystemProbeOptions = {}): MountProbe & AsyncDisposable {
  const { deadlineMs = 5000, livenessMs = 1000, platform = process.platform } = options
  if (!(deadlineMs > 0)) throw new TypeError(`deadlineMs must be a positive number of milliseconds, not ${deadlineMs}`)
  if (!(livenessMs >= 0)) throw new TypeError(`livenessMs must be a number of milliseconds, not ${livenessMs}`)
  const settings: FarOptions = { deadlineMs, livenessMs }
  const far = new Far(settings)
  return {
    table: () => (platform === 'linux' ? linuxTable() : printedTable(platform, deadlineMs)),
    look,
    realPath,
    read,
    facts: async (path, source) =>
      platform === 'linux'
        ? { uuid: await uuidOf(source), fsid: await fsidOf(path, deadlineMs) }
        : { uuid: '', fsid: '' },
    alive: (path) => far.alive(path),
    async [Symbol.asyncDispose]() {
      far[Symbol.dispose]()
    },
  }
}

/** The kernel gives a page at a time, and what changes meanwhile may be missed: read until it is the same twice. */
async function linuxTable(): Promise<readonly MountRow[] | undefined> {
  try {
    let text = await readFile(MOUNTINFO, 'utf8')
    for (let readings = 1; readings < READINGS_MAX; readings++) {
      const again = await readFile(MOUNTINFO, 'utf8')
      if (again === text) break
      text = again
    }
    return parseMountinfo(text)
  } catch {
    return undefined
  }
}

const printing: ReadonlySet<string> = new Set(['darwin', 'freebsd', 'openbsd', 'netbsd', 'dragonfly'])

async function printedTable(platform: string, deadlineMs: number): Promise<readonly MountRow[] | undefined> {
  if (!printing.has(platform)) return undefined
  const text = await output('mount', [], deadlineMs)
  return text === undefined ? undefined : parseMountOutput(text)
}

/** One system call. */
function look(path: string): Look | undefined {
  let stats: fs.Stats | undefined
  try {
    stats = fs.statSync(path, { throwIfNoEntry: false })
  } catch (error) {
    // A file where a directory is meant.
    if ((error as NodeJS.ErrnoException).code === 'ENOTDIR') return undefined
    throw error
  }
  if (stats === undefined) return undefined
  return {
    device: stats.dev,
    inode: stats.ino,
    directory: stats.isDirectory(),
    size: stats.size,
    modifiedMs: stats.mtimeMs,
    changedMs: stats.ctimeMs,
    bornMs: stats.birthtimeMs,
  }
}

/** As realpath(3), but what is not there stays as it is: the directory that a link leads to may not be mounted. */
function realPath(path: string, isFar: (at: string) => boolean = () => false): string {
  let links = 0
  let real = '/'
  const parts = resolve(path).split('/').filter(Boolean).reverse()
  for (let part = parts.pop(); part !== undefined; part = parts.pop()) {
    if (part === '..') {
      real = dirname(real)
      continue
    }
    const at = join(real, part)
    if (isFar(at)) return resolve(at, ...parts.reverse())
    const stats = lstat(at)
    if (stats?.isSymbolicLink() !== true) {
      real = at
      continue
    }
    if (++links > LINKS_MAX) throw Object.assign(new Error(`${path} is a loop of links`), { code: 'ELOOP' })
    const target = fs.readlinkSync(at)
    if (target.startsWith('/')) real = '/'
    parts.push(
      ...target
        .split('/')
        .filter((name) => name !== '' && name !== '.')
        .reverse(),
    )
  }
  return real
}

/** Undefined if there is nothing, also below a file. */
function lstat(path: string): fs.Stats | undefined {
  try {
    return fs.lstatSync(path, { throwIfNoEntry: false })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOTDIR') return undefined
    throw error
  }
}

function read(path: string, maxBytes: number): Uint8Array | undefined {
  let fd: number
  try {
    fd = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw error
  }
  try {
    const bytes = Buffer.alloc(maxBytes)
    return bytes.subarray(0, fs.readSync(fd, bytes, 0, maxBytes, 0))
  } finally {
    fs.closeSync(fd)
  }
}

/** Of the device, if udev keeps the list. */
async function uuidOf(source: string): Promise<string> {
  if (!source.startsWith('/dev/')) return ''
  try {
    const device = await realpath(source)
    for (const uuid of await readdir(BY_UUID))
      if ((await realpath(join(BY_UUID, uuid)).catch(() => '')) === device) return uuid
  } catch {
    // No udev, or no such device here: a container.
  }
  return ''
}

/** What statfs calls the file system, which Node does not tell. Empty without GNU's or busybox's `stat`. */
async function fsidOf(path: string, deadlineMs: number): Promise<string> {
  const fsid = (await output('stat', ['-f', '-c', '%i', '--', path], deadlineMs))?.trim() ?? ''
  return /^0*$/.test(fsid) ? '' : fsid
}

function output(command: string, args: readonly string[], deadlineMs: number): Promise<string | undefined> {
  return new Promise((done) => {
    const child = execFile(command, args, (error, text) => {
      clearTimeout(timer)
      done(error === null ? text : undefined)
    })
    // What hangs may not even be killed: nobody waits for it.
    const timer = setTimeout(() => {
      child.kill('SIGKILL')
      child.stdout?.destroy()
      child.stderr?.destroy()
      child.unref()
      done(undefined)
    }, deadlineMs)
  })
}
