/**
 * Which roots a server has served: the UUIDs of their markers, by where the configuration has them. Another volume in the place of
 * one is marked, too, and may be mounted where nobody kept a list of mounts, or where nothing tells volumes apart.
 *
 *   STATE/roots        the list (docs/formats/mounts.md)
 *   STATE/roots.lock   a kernel lock, held from reading to writing
 *
 * FORMAT   lines: `mailstead-roots 0`; for each root ROLE, UUID in hex and its path as a JSON string, with a space between; the
 *          CRC-32 of what is before it, as 8 hex digits
 */
import { relative, resolve } from 'node:path'
import { crc32 } from 'node:zlib'
import { type Fs, FsError, readRoot, type RootRole } from '@mailstead/fs'
import { posixFs } from '@mailstead/fs/posix'
import { answers, type MountProbe } from '@mailstead/mount'
import { ServerError } from '@mailstead/server'

export interface KnownRoot {
  readonly role: RootRole
  /** Absolute, as it was configured. */
  readonly path: string
  /** 16 bytes in hex. */
  readonly uuid: string
}

// must not change: on disk
const FILE = 'roots'
const LOCK_FILE = 'roots.lock'
const HEAD = 'mailstead-roots 0'
const LINE = /^(data|index|alternate|attachments) ([0-9a-f]{32}) (".*")$/

/** How long others may work on the list, in milliseconds. */
const LOCK_WAIT_MS = 10_000
/** Longest file, in bytes. */
const FILE_MAX_BYTES = 1024 * 1024

export class KnownRoots {
  readonly #fs: Fs
  readonly #probe: MountProbe

  /** Of a state directory, which is disposed by whoever gave it. */
  constructor(fs: Fs, probe: MountProbe) {
    this.#fs = fs
    this.#probe = probe
  }

  /** SERVER_NO_ROOT if the list is damaged. */
  async find(path: string, role: RootRole): Promise<KnownRoot | undefined> {
    return (await this.#read()).find((root) => root.path === resolve(path) && root.role === role)
  }

  /** SERVER_NO_ROOT if another is known there. */
  async check(path: string, role: RootRole, uuid: Uint8Array): Promise<void> {
    const known = await this.find(path, role)
    const is = hex(uuid)
    if (known !== undefined && known.uuid !== is)
      throw new ServerError(
        'SERVER_NO_ROOT',
        `${known.path} is marked as ${role} directory ${is}, and was ${known.uuid} before: another volume is mounted there. If that was intended, run: mailstead mount accept ${known.path}`,
      )
  }

  /** From now on this one is expected there, unless another is already. */
  async learn(path: string, role: RootRole, uuid: Uint8Array): Promise<void> {
    if ((await this.find(path, role)) !== undefined) return
    await this.#change(async (roots) => {
      if (roots.some((root) => root.path === resolve(path) && root.role === role)) return roots
      return [...roots, { role, path: resolve(path), uuid: hex(uuid) }]
    })
  }

  /**
   * What is at the roots at or below `path` now is what is to be there; one that carries no marker is known no more. Gives them as
   * they were. FS_UNAVAILABLE if one cannot be reached.
   */
  async accept(path: string): Promise<readonly KnownRoot[]> {
    const accepted: KnownRoot[] = []
    await this.#change(async (roots) => {
      const changed: KnownRoot[] = []
      for (const root of roots) {
        if (!(await this.#isWithin(root.path, path))) {
          changed.push(root)
          continue
        }
        await using fs = await posixFs(root.path)
        const marker = await readRoot(fs)
        accepted.push(root)
        if (marker?.role === root.role) changed.push({ ...root, uuid: hex(marker.uuid) })
      }
      return changed
    })
    return accepted
  }

  /** By the path as it was configured, or as it is. */
  async #isWithin(root: string, path: string): Promise<boolean> {
    const isBelow = (at: string): boolean => !/^\.\.(?:\/|$)/.test(relative(resolve(path), at))
    if (isBelow(root)) await answers(this.#probe, root)
    else
      try {
        await answers(this.#probe, root)
        return isBelow(this.#probe.realPath(root))
      } catch {
        // Where it is cannot be told now: it is not what is meant.
        return false
      }
    return true
  }

  async #change(change: (roots: readonly KnownRoot[]) => Promise<readonly KnownRoot[]>): Promise<void> {
    await using lock = await this.#fs.lock(LOCK_FILE)
    await lock.acquire({ waitMs: LOCK_WAIT_MS })
    await this.#fs.writeFile(FILE, encodeRoots(await change(await this.#read())))
  }

  async #read(): Promise<readonly KnownRoot[]> {
    try {
      return decodeRoots(await this.#fs.readFile(FILE, { start: 0, end: FILE_MAX_BYTES }))
    } catch (error) {
      if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return []
      throw error
    }
  }
}

export function encodeRoots(roots: readonly KnownRoot[]): Uint8Array {
  const lines = roots.map(({ role, uuid, path }) => `${role} ${uuid} ${JSON.stringify(path)}`).sort()
  const text = `${[HEAD, ...lines].join('\n')}\n`
  return Buffer.from(`${text}${sum(text)}\n`)
}

/** SERVER_NO_ROOT for anything that `encodeRoots` does not write. */
export function decodeRoots(bytes: Uint8Array): readonly KnownRoot[] {
  const text = Buffer.from(bytes).toString()
  const end = text.lastIndexOf('\n', text.length - 2) + 1
  const lines = text.slice(0, end).split('\n')
  const roots = lines.slice(1, -1).map((line) => LINE.exec(line))
  if (lines[0] !== HEAD || text.slice(end) !== `${sum(text.slice(0, end))}\n` || roots.includes(null))
    throw new ServerError(
      'SERVER_NO_ROOT',
      `the file ${FILE} of the state directory is damaged. See that the right volumes are mounted, then remove it`,
    )
  return roots.map((parts) => ({
    role: parts![1] as RootRole,
    uuid: parts![2]!,
    path: JSON.parse(parts![3]!) as string,
  }))
}

function sum(text: string): string {
  return crc32(text).toString(16).padStart(8, '0')
}

function hex(uuid: Uint8Array): string {
  return Buffer.from(uuid).toString('hex')
}
