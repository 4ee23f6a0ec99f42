/** What the parts of the suite share: how a test is declared, and short ways to write and look. */
import assert from 'node:assert/strict'
import type { Fs, FsEntry, FsFile, FsOpenMode } from '../contract.ts'
import { FsError, type FsErrorCode } from '../error.ts'

/** Declares one test; the body gets a fresh, empty file system. */
export type Test = (name: string, body: (fs: Fs) => Promise<void>) => void

export function modesOf(fs: Fs): FsOpenMode[] {
  const modes: FsOpenMode[] = []
  if (fs.supports.append) modes.push('append')
  if (fs.supports.overwrite) modes.push('write')
  if (fs.supports.append || fs.supports.overwrite) modes.push('create')
  return modes
}

export async function fails(promise: Promise<unknown>, code: FsErrorCode): Promise<void> {
  let result: unknown
  try {
    result = await promise
  } catch (error) {
    if (!(error instanceof FsError)) throw error
    assert.equal(error.code, code, error.message)
    return
  }
  if (result !== null && typeof result === 'object' && Symbol.asyncDispose in result)
    await (result as FsFile)[Symbol.asyncDispose]()
  assert.fail(`resolved, and should have failed with ${code}`)
}

export function throws(run: () => unknown, code: FsErrorCode): void {
  assert.throws(run, (error) => error instanceof FsError && error.code === code)
}

export async function entries(fs: Fs, directory: string, signal?: AbortSignal): Promise<FsEntry[]> {
  const found: FsEntry[] = []
  for await (const page of fs.list(directory, signal === undefined ? {} : { signal })) found.push(...page)
  return byName(found)
}

export function byName(list: readonly FsEntry[]): FsEntry[] {
  return list.toSorted((a, b) => (a.name < b.name ? -1 : 1))
}

export async function put(fs: Fs, path: string, content: string): Promise<void> {
  await fs.writeFile(path, bytes(content))
}

export async function get(fs: Fs, path: string): Promise<string> {
  return textOf(await fs.readFile(path))
}

export function bytes(text: string): Uint8Array {
  return Buffer.from(text)
}

export function textOf(data: Uint8Array): string {
  return Buffer.from(data).toString()
}

export function pattern(size: number, seed: number): Uint8Array {
  const data = new Uint8Array(size)
  for (let i = 0; i < size; i++) data[i] = (i * 31 + (i >> 8) * 7 + seed * 101) & 0xff
  return data
}

export function same(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0
}
