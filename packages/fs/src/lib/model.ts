/**
 * A driver against the simplest thing that could be right: a map from names to bytes. Seeded sequences of operations,
 * each answer compared, the whole tree compared at the end.
 */
import assert from 'node:assert/strict'
import type { Fs, FsFile, FsSupports } from './contract.ts'
import { FsError } from './error.ts'

/** Deterministic numbers: mulberry32. */
export function randomOf(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

/** Some names hold others, so that a file stands where a directory is wanted, and the reverse. */
const names = ['a', 'b', 'a/x', 'b/x', 'b/y', 'c/d/e', 'c/d', 'é ü', 'b/.hidden']

/** Names without a conflict, for drivers whose directories are prefixes. */
const flatNames = ['a', 'b/x', 'b/y', 'c/d/e', 'é ü', 'b/.hidden']

type Outcome = { readonly value: unknown } | { readonly code: string }

/** Runs `steps` operations chosen by `seed` against `fs`, which must be empty. */
export async function checkAgainstModel(fs: Fs, seed: number, steps: number): Promise<void> {
  const random = randomOf(seed)
  const model = new Model(fs.supports)
  const paths = fs.supports.directories ? names : flatNames
  const open = new Map<string, { readonly file: FsFile; readonly content: { bytes: Uint8Array } }>()
  const trace: string[] = []
  const bytes = (): Uint8Array => {
    const data = new Uint8Array(random(40))
    for (let i = 0; i < data.length; i++) data[i] = random(256)
    return data
  }
  try {
    for (let step = 0; step < steps; step++) {
      const path = paths[random(paths.length)]!
      const other = paths[random(paths.length)]!
      const held = [...open.keys()][random(Math.max(1, open.size))]
      const handle = held === undefined ? undefined : open.get(held)
      const data = bytes()
      const position = random(60)
      const kind = random(13)
      trace.push(`${kind} ${path} ${other} ${held} ${data.length} ${position}`)
      let expected: Outcome
      let actual: Outcome
      switch (kind) {
        case 0:
          expected = outcome(() => model.stat(path))
          actual = await outcomeOf(async () => {
            const stat = await fs.stat(path)
            return stat === undefined ? undefined : { kind: stat.kind, size: stat.size }
          })
          break
        case 1:
          expected = outcome(() => text(model.file(path).bytes))
          actual = await outcomeOf(async () => text(await fs.readFile(path)))
          break
        case 2:
        case 3:
          expected = outcome(() => model.put(path, data, kind === 3))
          actual = await outcomeOf(async () => {
            await fs.writeFile(path, data, kind === 3 ? { ifAbsent: true } : {})
          })
          break
        case 4:
          expected = outcome(() => model.remove(path))
          actual = await outcomeOf(() => fs.remove(path))
          break
        case 5:
          if (!fs.supports.rename) continue
          expected = outcome(() => model.rename(path, other))
          actual = await outcomeOf(() => fs.rename(path, other))
          break
        case 6:
          if (!fs.supports.link) continue
          expected = outcome(() => model.link(path, other))
          actual = await outcomeOf(() => fs.link(path, other))
          break
        case 7:
          expected = outcome(() => model.makeDirectory(path))
          actual = await outcomeOf(() => fs.makeDirectory(path))
          break
        case 8:
          expected = outcome(() => model.list(path))
          actual = await outcomeOf(async () => {
            const found: string[] = []
            for await (const page of fs.list(path)) for (const entry of page) found.push(`${entry.kind} ${entry.name}`)
            return found.sort()
          })
          break
        case 9:
          // A handle for writing; keeps its file through renames and removals.
          if (!fs.supports.overwrite || !fs.supports.append || open.size > 3) continue
          expected = outcome(() => model.open(path))
          actual = await outcomeOf(async () => {
            const file = await fs.open(path, 'write')
            open.set(`${path}#${step}`, { file, content: model.file(path) })
          })
          break
        case 10:
          if (handle === undefined) continue
          expected = outcome(() => {
            const at = handle.content.bytes.length
            handle.content.bytes = joined(handle.content.bytes, data, at)
            return at
          })
          actual = await outcomeOf(() => handle.file.append([data.subarray(0, 3), data.subarray(3)]))
          break
        case 11:
          if (handle === undefined) continue
          if (position % 2 === 0) {
            handle.content.bytes = joined(handle.content.bytes, data, position)
            expected = { value: undefined }
            actual = await outcomeOf(() => handle.file.write(data, position))
          } else {
            const cut = new Uint8Array(position)
            cut.set(handle.content.bytes.subarray(0, position))
            handle.content.bytes = cut
            expected = { value: undefined }
            actual = await outcomeOf(() => handle.file.truncate(position))
          }
          break
        default:
          if (handle === undefined || held === undefined) continue
          expected = outcome(() => text(handle.content.bytes.subarray(position, position + 20)))
          actual = await outcomeOf(async () => {
            const into = new Uint8Array(20)
            const count = handle.file.readSync?.(into, position) ?? (await handle.file.read(into, position))
            return text(into.subarray(0, count))
          })
          if (position % 3 === 0) {
            open.delete(held)
            await handle.file[Symbol.asyncDispose]()
          }
      }
      assert.deepEqual(actual, expected)
    }
    await compareTree(fs, model, '')
  } catch (error) {
    const shown = trace.slice(-12).join('\n  ')
    throw new Error(`seed ${seed}, step ${trace.length} of ${fs.name}, after\n  ${shown}`, { cause: error })
  } finally {
    for (const { file } of open.values()) await file[Symbol.asyncDispose]()
  }
}

async function compareTree(fs: Fs, model: Model, directory: string): Promise<void> {
  const found: string[] = []
  for await (const page of fs.list(directory))
    for (const { name, kind } of page) {
      found.push(`${kind} ${name}`)
      const path = directory === '' ? name : `${directory}/${name}`
      if (kind === 'directory') await compareTree(fs, model, path)
      else assert.equal(text(await fs.readFile(path)), text(model.file(path).bytes), path)
    }
  assert.deepEqual(found.sort(), model.list(directory))
}

/** Names to contents; a directory is a name without content. Two names of one file share the content object. */
class Model {
  readonly #entries = new Map<string, { bytes: Uint8Array } | 'directory'>()
  readonly #directories: boolean

  constructor(supports: FsSupports) {
    this.#directories = supports.directories
  }

  get(path: string): { bytes: Uint8Array } | 'directory' | undefined {
    const there = this.#entries.get(path)
    if (there !== undefined || this.#directories) return there
    return this.#below(path).length > 0 ? 'directory' : undefined
  }

  stat(path: string): unknown {
    const there = this.get(path)
    if (there === undefined) return undefined
    return there === 'directory' ? { kind: 'directory', size: 0 } : { kind: 'file', size: there.bytes.length }
  }

  file(path: string): { bytes: Uint8Array } {
    const there = this.get(path)
    if (there === undefined || there === 'directory') throw new FsError('FS_NOT_FOUND', path)
    return there
  }

  open(path: string): void {
    if (this.get(path) === undefined) this.put(path, new Uint8Array(0), false)
    else if (this.get(path) === 'directory') throw new FsError('FS_EXISTS', path)
  }

  put(path: string, bytes: Uint8Array, ifAbsent: boolean): void {
    this.#parents(path)
    const there = this.get(path)
    if (there === 'directory' || (ifAbsent && there !== undefined)) throw new FsError('FS_EXISTS', path)
    this.#entries.set(path, { bytes: bytes.slice() })
  }

  makeDirectory(path: string): void {
    if (!this.#directories) return
    this.#parents(path)
    const there = this.get(path)
    if (there !== undefined && there !== 'directory') throw new FsError('FS_EXISTS', path)
    this.#entries.set(path, 'directory')
  }

  remove(path: string): void {
    const there = this.get(path)
    if (there === undefined) throw new FsError('FS_NOT_FOUND', path)
    if (there === 'directory' && this.#below(path).length > 0) throw new FsError('FS_NOT_EMPTY', path)
    this.#entries.delete(path)
  }

  rename(from: string, to: string): void {
    const there = this.get(from)
    if (there === undefined) throw new FsError('FS_NOT_FOUND', from)
    if (to.startsWith(`${from}/`)) throw new FsError('FS_DENIED', to)
    if (from === to) return
    if (from.startsWith(`${to}/`)) throw new FsError('FS_NOT_EMPTY', to)
    this.#parents(to)
    const taken = this.get(to)
    if (taken === 'directory' && there !== 'directory') throw new FsError('FS_EXISTS', to)
    if (taken !== undefined && taken !== 'directory' && there === 'directory') throw new FsError('FS_EXISTS', to)
    if (taken === 'directory' && this.#below(to).length > 0) throw new FsError('FS_NOT_EMPTY', to)
    const below = this.#below(from)
    if (this.#entries.delete(from)) this.#entries.set(to, there)
    for (const path of below) {
      const moved = this.#entries.get(path)!
      this.#entries.delete(path)
      this.#entries.set(to + path.slice(from.length), moved)
    }
  }

  link(from: string, to: string): void {
    const there = this.get(from)
    if (there === undefined) throw new FsError('FS_NOT_FOUND', from)
    if (there === 'directory') throw new FsError('FS_DENIED', from)
    this.#parents(to)
    if (this.get(to) !== undefined) throw new FsError('FS_EXISTS', to)
    this.#entries.set(to, there)
  }

  list(directory: string): string[] {
    const found = new Set<string>()
    const prefix = directory === '' ? '' : `${directory}/`
    for (const [path, entry] of this.#entries) {
      if (!path.startsWith(prefix) || path === directory) continue
      const name = path.slice(prefix.length)
      const slash = name.indexOf('/')
      found.add(
        slash < 0 ? `${entry === 'directory' ? 'directory' : 'file'} ${name}` : `directory ${name.slice(0, slash)}`,
      )
    }
    return [...found].sort()
  }

  #below(path: string): string[] {
    return [...this.#entries.keys()].filter((name) => name.startsWith(`${path}/`))
  }

  #parents(path: string): void {
    for (let slash = path.indexOf('/'); slash >= 0; slash = path.indexOf('/', slash + 1)) {
      const parent = path.slice(0, slash)
      const there = this.get(parent)
      if (there !== undefined && there !== 'directory') throw new FsError('FS_EXISTS', path)
      if (this.#directories) this.#entries.set(parent, 'directory')
    }
  }
}

function joined(old: Uint8Array, data: Uint8Array, position: number): Uint8Array {
  if (data.length === 0) return old
  const all = new Uint8Array(Math.max(old.length, position + data.length))
  all.set(old)
  all.set(data, position)
  return all
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}

function outcome(run: () => unknown): Outcome {
  try {
    return { value: run() }
  } catch (error) {
    if (error instanceof FsError) return { code: error.code }
    throw error
  }
}

async function outcomeOf(run: () => Promise<unknown>): Promise<Outcome> {
  try {
    return { value: await run() }
  } catch (error) {
    if (error instanceof FsError) return { code: error.code }
    throw error
  }
}
