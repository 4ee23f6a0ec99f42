/**
 * The operations of a file system as fast-check commands: each runs on the model and on a driver, and their answers, or
 * the codes of their failures, must be equal. Each leaves a line of a program behind that does the same.
 */
import assert from 'node:assert/strict'
import type * as FastCheck from 'fast-check'
import type { Fs, FsFile, FsMetadata, FsOpenMode, FsStat, FsSupports } from './contract.ts'
import { FsError } from './error.ts'
import type { Model } from './model.ts'

/** What a sequence of commands runs on. */
export interface Real {
  readonly fs: Fs
  /** By slot. */
  readonly files: FsFile[]
  /** What `stat` last told about a name. */
  readonly stats: Record<string, FsStat | undefined>
  /** The program that does the same, line by line. */
  readonly program: string[]
}

export type Command = FastCheck.AsyncCommand<Model, Real>

/** What a program begins with; `create` is the caller's. */
export const PROGRAM_HEAD: readonly string[] = [
  `import assert from 'node:assert/strict'`,
  `const bytes = (length, seed) => Uint8Array.from({ length }, (_, at) => seed + 7 * at)`,
  `const hex = (data) => Buffer.from(data).toString('hex')`,
  `const read = async (file, length, at, into = new Uint8Array(length)) => into.subarray(0, await file.read(into, at))`,
  `const readSync = (file, length, at, into = new Uint8Array(length)) => into.subarray(0, file.readSync(into, at))`,
  `const known = (stat) => stat && { kind: stat.kind, size: stat.size, ...(stat.metadata && { metadata: { ...stat.metadata } }) }`,
  `const entries = async (pages) => (await Array.fromAsync(pages)).flat().map(({ kind, name }) => kind + ' ' + name).sort()`,
  `const [files, stats] = [[], {}]`,
  `await using fs = await create()`,
]

type Outcome = { readonly value: unknown } | { readonly code: string }

/** One operation with its arguments. */
interface Operation {
  /** The call, as text of a program. */
  readonly call: string
  /** How the program compares what the call resolves to; without it, that it resolves is all. */
  readonly compare?: (awaited: string, expected: unknown) => string
  /** Whether the contract says what happens. (default: always) */
  readonly ready?: (model: Model) => boolean
  readonly expected: (model: Model) => unknown
  readonly actual: (real: Real) => unknown
}

class Step implements Command {
  readonly #operation: Operation

  constructor(operation: Operation) {
    this.#operation = operation
  }

  check(model: Readonly<Model>): boolean {
    return this.#operation.ready?.(model as Model) ?? true
  }

  async run(model: Model, real: Real): Promise<void> {
    const { call, compare = (awaited): string => awaited, expected, actual } = this.#operation
    const wanted = outcomeOf(() => expected(model))
    real.program.push(
      'code' in wanted
        ? `await assert.rejects(async () => ${call}, { code: '${wanted.code}' })`
        : compare(`await ${call}`, wanted.value),
    )
    assert.deepEqual(await outcomeLater(async () => actual(real)), wanted)
  }

  toString(): string {
    return this.#operation.call
  }
}

/** Some names hold others, so that a file stands where a directory is wanted, and the reverse. */
const NAMES = ['a', 'b/x', 'b', 'a/x', 'b/y', 'c/d/e', 'c/d', 'é ü', 'b/.hidden']
/** Names without a conflict, for drivers whose directories are prefixes. */
const FLAT_NAMES = ['a', 'b/x', 'b/y', 'c/d/e', 'é ü', 'b/.hidden']
/** Files open at once. */
const SLOTS = 3

/** A generator for each operation that such a driver knows; those that change something come twice. */
export function commandsFor(
  fc: typeof FastCheck,
  supports: FsSupports,
  maxBytes: number,
): FastCheck.Arbitrary<Command>[] {
  // The first names more often: it takes several operations on one name to show something.
  const names = supports.directories ? NAMES : FLAT_NAMES
  const path = fc.oneof(fc.constantFrom(...names), fc.constantFrom(...names.slice(0, 3)))
  const slot = fc.nat({ max: SLOTS - 1 })
  // Often the same few sizes: contents of one size are what is easily mixed up.
  const length = fc.oneof(fc.constantFrom(0, 1, 5), fc.nat({ max: maxBytes }))
  const data = fc.record({ length, seed: fc.nat({ max: 255 }) })
  const position = fc.nat({ max: maxBytes + (maxBytes >> 1) })
  const step = <T extends unknown[]>(
    of: (...values: T) => Operation,
    ...values: { [K in keyof T]: FastCheck.Arbitrary<T[K]> }
  ): FastCheck.Arbitrary<Command> => fc.tuple(...values).map((all) => new Step(of(...(all as T))))

  const modes: FsOpenMode[] = ['read']
  if (supports.append) modes.push('append')
  if (supports.overwrite) modes.push('write')
  if (supports.append || supports.overwrite) modes.push('create')
  const metadata = supports.metadata ? [{ a: 'b' }, { a: 'c d', 'x-1': '' }] : []

  const puts = step(put, path, data, fc.boolean(), fc.constantFrom(undefined, ...metadata))
  const opens = step(open, slot, path, fc.constantFrom(...modes))
  const commands = [step(stat, path), step(readFile, path, position, data), puts, puts, puts, step(remove, path)]
  commands.push(step(list, path), step(makeDirectory, path), opens, opens)
  commands.push(step(read, slot, position, data, fc.boolean()), step(statOpen, slot), step(sync, slot))
  commands.push(step(close, slot), step(append, slot, data, fc.boolean()))
  if (supports.conditional) commands.push(step(match, path, data), step(match, path, data))
  if (supports.directories) commands.push(step(syncDirectory, path))
  if (supports.rename) commands.push(step(rename, path, path))
  if (supports.link) commands.push(step(link, path, path))
  if (supports.append) commands.push(step(append, slot, data, fc.boolean()))
  commands.push(step(write, slot, data, position), step(truncate, slot, position))
  return commands
}

interface Data {
  readonly length: number
  readonly seed: number
}

function bytesOf({ length, seed }: Data): Uint8Array {
  const bytes = new Uint8Array(length)
  for (let at = 0; at < length; at++) bytes[at] = seed + 7 * at
  return bytes
}
const codeOf = ({ length, seed }: Data): string => `bytes(${length}, ${seed})`
const quoted = (path: string): string => `'${path}'`
const hex = (bytes: Uint8Array): string => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex')

const equal = (awaited: string, expected: unknown): string => `assert.equal(${awaited}, ${JSON.stringify(expected)})`
const equalHex = (awaited: string, expected: unknown): string => equal(`hex(${awaited})`, expected)
const like = (awaited: string, expected: unknown): string =>
  expected === undefined
    ? equal(awaited, undefined)
    : `assert.deepEqual(known(${awaited}), ${JSON.stringify(expected)})`

/** Of what a driver tells, what the model knows too. */
function known(told: FsStat | undefined): unknown {
  if (told === undefined) return undefined
  const { kind, size, metadata } = told
  return metadata === undefined ? { kind, size } : { kind, size, metadata: { ...metadata } }
}

const stat = (path: string): Operation => ({
  call: `(stats[${quoted(path)}] = await fs.stat(${quoted(path)}))`,
  compare: like,
  expected: (model) => model.stat(path),
  actual: async ({ fs, stats }) => known((stats[path] = await fs.stat(path))),
})

const readFile = (path: string, start: number, { length, seed }: Data): Operation => {
  const range = seed % 2 === 0 ? {} : { start, end: start + length }
  return {
    call: `fs.readFile(${quoted(path)}${seed % 2 === 0 ? '' : `, ${JSON.stringify(range)}`})`,
    compare: equalHex,
    expected: (model) => hex(model.file(path).bytes.subarray(range.start, range.end)),
    actual: async ({ fs }) => hex(await fs.readFile(path, range)),
  }
}

const put = (path: string, data: Data, ifAbsent: boolean, metadata: FsMetadata | undefined): Operation => {
  const options = { ...(ifAbsent ? { ifAbsent } : {}), ...(metadata === undefined ? {} : { metadata }) }
  return {
    call: `fs.writeFile(${quoted(path)}, ${codeOf(data)}, ${JSON.stringify(options)})`,
    compare: like,
    expected: (model) => {
      model.put(path, bytesOf(data), options)
      return model.statOf(model.file(path))
    },
    actual: async ({ fs }) => known(await fs.writeFile(path, bytesOf(data), options)),
  }
}

const match = (path: string, data: Data): Operation => ({
  call: `fs.writeFile(${quoted(path)}, ${codeOf(data)}, { ifMatch: stats[${quoted(path)}].tag })`,
  ready: (model) => model.canMatch(path),
  expected: (model) => model.match(path, bytesOf(data)),
  actual: async ({ fs, stats }) => void (await fs.writeFile(path, bytesOf(data), { ifMatch: stats[path]!.tag })),
})

const remove = (path: string): Operation => ({
  call: `fs.remove(${quoted(path)})`,
  expected: (model) => model.remove(path),
  actual: ({ fs }) => fs.remove(path),
})

const rename = (from: string, to: string): Operation => ({
  call: `fs.rename(${quoted(from)}, ${quoted(to)})`,
  expected: (model) => model.rename(from, to),
  actual: ({ fs }) => fs.rename(from, to),
})

const link = (from: string, to: string): Operation => ({
  call: `fs.link(${quoted(from)}, ${quoted(to)})`,
  expected: (model) => model.link(from, to),
  actual: ({ fs }) => fs.link(from, to),
})

const makeDirectory = (path: string): Operation => ({
  call: `fs.makeDirectory(${quoted(path)})`,
  expected: (model) => model.makeDirectory(path),
  actual: ({ fs }) => fs.makeDirectory(path),
})

const syncDirectory = (path: string): Operation => ({
  call: `fs.syncDirectory(${quoted(path)})`,
  expected: (model) => model.syncDirectory(path),
  actual: ({ fs }) => fs.syncDirectory(path),
})

const list = (path: string): Operation => ({
  call: `entries(fs.list(${quoted(path)}))`,
  compare: (awaited, expected) => `assert.deepEqual(${awaited}, ${JSON.stringify(expected)})`,
  expected: (model) => model.list(path),
  actual: ({ fs }) => entriesOf(fs, path),
})

const open = (slot: number, path: string, mode: FsOpenMode): Operation => ({
  call: `(files[${slot}] = await fs.open(${quoted(path)}, '${mode}'))`,
  ready: (model) => !model.handles.has(slot),
  expected: (model) => model.open(slot, path, mode),
  actual: async ({ fs, files }) => {
    files[slot] = await fs.open(path, mode)
  },
})

const close = (slot: number): Operation => ({
  call: `files[${slot}][Symbol.asyncDispose]()`,
  ready: (model) => model.handles.has(slot),
  expected: (model) => model.close(slot),
  actual: ({ files }) => files[slot]![Symbol.asyncDispose](),
})

const read = (slot: number, position: number, { length }: Data, atOnce: boolean): Operation => ({
  call: `read${atOnce ? 'Sync' : ''}(files[${slot}], ${length}, ${position})`,
  compare: equalHex,
  ready: (model) => model.canRead(slot) && (!atOnce || model.supports.syncRead),
  expected: (model) => hex(model.read(slot, position, length)),
  actual: async ({ files }) => {
    const into = new Uint8Array(length)
    const file = files[slot]!
    const count = atOnce ? file.readSync!(into, position) : await file.read(into, position)
    return hex(into.subarray(0, count))
  },
})

const statOpen = (slot: number): Operation => ({
  call: `files[${slot}].stat()`,
  compare: like,
  ready: (model) => model.canRead(slot),
  expected: (model) => model.statOf(model.handles.get(slot)!.content),
  actual: async ({ files }) => known(await files[slot]!.stat()),
})

const append = (slot: number, data: Data, atOnce: boolean): Operation => {
  const cut = data.seed % (data.length + 1)
  return {
    call: `files[${slot}].append${atOnce ? 'Sync' : ''}([${codeOf(data)}.subarray(0, ${cut}), ${codeOf(data)}.subarray(${cut})])`,
    compare: equal,
    ready: (model) => model.handles.has(slot) && (model.supports.append ? !atOnce || model.supports.syncRead : !atOnce),
    expected: (model) => model.append(slot, bytesOf(data)),
    actual: ({ files }) => {
      const bytes = bytesOf(data)
      const parts = [bytes.subarray(0, cut), bytes.subarray(cut)]
      return atOnce ? files[slot]!.appendSync!(parts) : files[slot]!.append(parts)
    },
  }
}

const write = (slot: number, data: Data, position: number): Operation => ({
  call: `files[${slot}].write(${codeOf(data)}, ${position})`,
  ready: (model) => model.handles.has(slot),
  expected: (model) => model.write(slot, bytesOf(data), position),
  actual: ({ files }) => files[slot]!.write(bytesOf(data), position),
})

const truncate = (slot: number, size: number): Operation => ({
  call: `files[${slot}].truncate(${size})`,
  ready: (model) => model.handles.has(slot),
  expected: (model) => model.truncate(slot, size),
  actual: ({ files }) => files[slot]!.truncate(size),
})

const sync = (slot: number): Operation => ({
  call: `files[${slot}].sync()`,
  ready: (model) => model.handles.has(slot),
  expected: () => undefined,
  actual: ({ files }) => files[slot]!.sync(),
})

/** `kind name` of each entry, sorted. */
async function entriesOf(fs: Fs, directory: string): Promise<string[]> {
  const found: string[] = []
  for await (const page of fs.list(directory)) for (const { kind, name } of page) found.push(`${kind} ${name}`)
  return found.sort()
}

/** Compares everything that is there. */
export async function compareTree(model: Model, real: Real, directory = ''): Promise<void> {
  await new Step(list(directory)).run(model, real)
  for (const entry of model.list(directory)) {
    const [kind, ...rest] = entry.split(' ')
    const name = rest.join(' ')
    const path = directory === '' ? name : `${directory}/${name}`
    if (kind === 'directory') await compareTree(model, real, path)
    else await new Step(readFile(path, 0, { length: 0, seed: 0 })).run(model, real)
  }
}

function outcomeOf(run: () => unknown): Outcome {
  try {
    return { value: run() }
  } catch (error) {
    if (error instanceof FsError) return { code: error.code }
    throw error
  }
}

async function outcomeLater(run: () => Promise<unknown>): Promise<Outcome> {
  try {
    return { value: await run() }
  } catch (error) {
    if (error instanceof FsError) return { code: error.code }
    throw error
  }
}
