/**
 * What a process leaves behind that dies before the frame: files in `unnamed/` that no row names. Whoever has its
 * slot after it calls them expunged by their name, so that a rebuild without the index does not take them for mail,
 * and the next purge removes them.
 *
 * HOW      Before its first message a process writes down, durably, what its slot has in `unnamed/` without a row: of
 *          that nobody knows why it is there, and an index that is lost or older may be the only reason. When it has
 *          closed, and everything else has its row or is called expunged, it takes that away. So whoever finds it
 *          when the lock is free knows that its writer died.
 *
 * FORMAT   `open.<slot>.open` := "sdbox-open 0" ( SP id )* SP crc LF
 *          id: 16 hex digits; crc: CRC-32 of what is before its space, 8 lower-case hex digits.
 *          must not change: on disk
 */
import { crc32 } from '@mailstead/bytes'
import { type Fs, FsError } from '@mailstead/fs'
import { hex8 } from '../format.ts'
import { listUnnamed, removeFile, renameFile } from './directory.ts'
import type { NamesContext } from './finish.ts'
import { leftoverName, slotOfId, UNNAMED } from './names.ts'
import { hex } from './row.ts'
import { lockSlot } from './slots.ts'

/** A record is not longer, in bytes: more than a hundred thousand ids. */
const OPEN_MAX: number = 2 * 1024 * 1024

export function writeOpen(ids: readonly string[]): Buffer {
  const text = ['sdbox-open 0', ...ids].join(' ')
  return Buffer.from(`${text} ${hex8(crc32(Buffer.from(text)))}\n`)
}

/** Undefined: damage. */
export function readOpen(bytes: Uint8Array): string[] | undefined {
  const match = /^(sdbox-open 0((?: [0-9a-f]{16})*)) ([0-9a-f]{8})\n$/.exec(Buffer.from(bytes).toString('latin1'))
  if (match === null || match[3] !== hex8(crc32(Buffer.from(match[1]!)))) return undefined
  return match[2] === '' ? [] : match[2]!.slice(1).split(' ')
}

/** What the holder of a slot wrote down, and what becomes of that. */
export class Leftovers {
  readonly #context: NamesContext
  /** It is written down that we write. */
  #isNoted = false
  #noting: Promise<void> | undefined

  constructor(context: NamesContext) {
    this.#context = context
  }

  /** Before the first message that the holder of this slot writes. */
  async note(slot: number): Promise<void> {
    if (this.#isNoted) return
    this.#noting ??= this.#note(slot).finally(() => {
      this.#noting = undefined
    })
    await this.#noting
  }

  async #note(slot: number): Promise<void> {
    const { fs } = this.#context
    const path = this.#path(slot)
    // What could not be seen to goes on to be asked about.
    if ((await fs.stat(path)) === undefined) await fs.writeFile(path, writeOpen(await this.#without(slot)))
    this.#isNoted = true
  }

  /** Sees to what the last holder of a slot left, whose lock is ours. Where it cannot be told now it waits. */
  async settle(slot: number): Promise<void> {
    const { fs, directory, host } = this.#context
    const path = this.#path(slot)
    if ((await fs.stat(path)) === undefined) return
    await host.refresh()
    if (host.isIncomplete === true || host.rebuilding === true) return
    const before = readOpen(await fs.readFile(path, { end: OPEN_MAX }))
    // Of a damaged one nobody can say anything.
    const left = before === undefined ? [] : (await this.#without(slot)).filter((id) => !before.includes(id))
    let renamed = 0
    for (const id of left)
      if (await renameFile(fs, `${directory}/${UNNAMED}/${id}`, `${directory}/${UNNAMED}/${leftoverName(id)}`))
        renamed++
    if (renamed > 0) await fs.syncDirectory(`${directory}/${UNNAMED}`)
    await removeFile(fs, path)
  }

  /** Nothing is written any more. */
  async finish(slot: number): Promise<void> {
    await this.#noting?.catch(() => {})
    if (!this.#isNoted) return
    this.#isNoted = false
    await this.settle(slot)
  }

  /** The same of all who died. */
  async settleOthers(own: number): Promise<void> {
    const { fs, directory } = this.#context
    const slots: number[] = []
    for await (const page of fs.list(directory))
      for (const { name } of page) {
        const slot = /^open\.(\d{1,2})\.open$/.exec(name)?.[1]
        if (slot !== undefined && Number(slot) !== own) slots.push(Number(slot))
      }
    for (const slot of slots) {
      await using lock = await lockSlot(fs, directory, slot)
      if (lock !== undefined) await this.settle(slot)
    }
  }

  /** Ids of a slot in `unnamed/` that no row has. */
  async #without(slot: number): Promise<string[]> {
    const { fs, directory, host, rows } = this.#context
    const ids = new Set<string>()
    for (const id of await listUnnamed(fs, directory)) if (slotOfId(id) === slot) ids.add(id)
    if (ids.size === 0) return []
    await host.refresh()
    const all = await rows.loaded()
    for (let at = 0; at < all.view.count; at++) ids.delete(hex(all.id.value(at)))
    return [...ids].sort()
  }

  #path(slot: number): string {
    return `${this.#context.directory}/open.${slot}.open`
  }
}

/** Removes what was called expunged and no row has. Gives how many files that were, and their bytes. */
export async function removeLeftovers({
  fs,
  directory,
  rows,
}: NamesContext): Promise<{ readonly files: number; readonly bytes: number }> {
  const ids = await listLeftovers(fs, directory)
  if (ids.size === 0) return { files: 0, bytes: 0 }
  const all = await rows.loaded()
  for (let at = 0; at < all.view.count; at++) ids.delete(hex(all.id.value(at)))
  let files = 0
  let bytes = 0
  for (const id of ids) {
    const path = `${directory}/${UNNAMED}/${leftoverName(id)}`
    const size = (await fs.stat(path))?.size ?? 0
    if (!(await removeFile(fs, path))) continue
    files++
    bytes += size
  }
  if (files > 0) await fs.syncDirectory(`${directory}/${UNNAMED}`)
  return { files, bytes }
}

/** Ids of messages without a name that were called expunged. */
export async function listLeftovers(fs: Fs, directory: string): Promise<Set<string>> {
  const ids = new Set<string>()
  for await (const page of fs.list(`${directory}/${UNNAMED}`))
    for (const { name, kind } of page) if (kind === 'file' && /^x\.[0-9a-f]{16}$/.test(name)) ids.add(name.slice(2))
  return ids
}

/** What fails now is tried again by whoever has the slot next. */
export function notNow(error: unknown): void {
  if (!(error instanceof FsError)) throw error
}
