/**
 * Who writes. A process that writes holds one of SLOTS kernel locks for as long as its box is open, and notes in the log, under
 * its slot, each mailbox whose names it may be changing (`TODO`). The lock dies with the process and the notes do not: whoever
 * takes a slot next finishes what they say. A process that closes in order takes back its own.
 */
import type { BoxHost } from '@mailstead/box'
import { type Fs, FsError, type FsLock } from '@mailstead/fs'
import { SLOTS } from './options.ts'

/** Prefix of table-level values without content: `todo.<slot>.<GUID of a mailbox>`. must not change: on disk */
const TODO = 'todo.'

export function todoKey(slot: number, guid: string): string {
  return `${TODO}${slot}.${guid}`
}

/** Mailboxes that are noted, by slot. */
export function readTodo(host: BoxHost): Map<number, string[]> {
  const todo = new Map<number, string[]>()
  for (const key of host.table.view.values?.keys() ?? []) {
    const match = /^todo\.(\d{1,2})\.([0-9a-f]{32})$/.exec(key)
    if (match === null) continue
    const slot = Number(match[1])
    const guids = todo.get(slot)
    if (guids === undefined) todo.set(slot, [match[2]!])
    else guids.push(match[2]!)
  }
  return todo
}

/** The lock of a slot, taken; undefined if somebody else holds it. */
export async function lockSlot(fs: Fs, directory: string, slot: number): Promise<FsLock | undefined> {
  return tryLock(fs, `${directory}/open.${slot}.lock`)
}

export async function tryLock(fs: Fs, path: string): Promise<FsLock | undefined> {
  const lock = await fs.lock(path)
  if (lock.tryAcquire('exclusive')) return lock
  await lock[Symbol.asyncDispose]()
  return undefined
}

/** FS_LOCKED if all are taken. */
export async function takeSlot(fs: Fs, directory: string): Promise<{ readonly slot: number; readonly lock: FsLock }> {
  for (let slot = 0; slot < SLOTS; slot++) {
    const lock = await lockSlot(fs, directory, slot)
    if (lock !== undefined) return { slot, lock }
  }
  throw new FsError('FS_LOCKED', `${SLOTS} processes are writing to ${directory} already`, { path: directory })
}
