/** Seeded work on a file system: everything that changes something, in all orders, flushed now and then. */
import { type Fs, type FsFile, FsError, type FsOpenMode } from '../src/index.ts'
import { type Random, random } from './block-log/random.ts'

export interface WorkloadOptions {
  readonly seed: number
  readonly operations: number
  /** Called after every operation that was answered, whatever the answer. */
  readonly onAnswer: (what: string) => Promise<void> | void
}

const DIRECTORIES = ['', 'd', 'd/e', 'f']
const NAMES = ['a', 'b', 'c']
const MODES: readonly FsOpenMode[] = ['append', 'write', 'write', 'create']
/** Around a sector, a block, and what a file system keeps in memory together. */
const SIZES = [1, 100, 511, 512, 513, 4095, 4096, 4097, 9000, 40_000]
const OPEN_FILES = 4

/** Does `operations` things to `fs`. Failures that a file system announces are answers; anything else is thrown. */
export async function work(fs: Fs, options: WorkloadOptions): Promise<void> {
  const { seed, operations, onAnswer } = options
  const chance = random(seed)
  const files: FsFile[] = []
  for (let i = 0; i < operations; i++) {
    const { what, run } = choose(fs, chance, files, i)
    let answer = 'done'
    try {
      await run()
    } catch (error) {
      if (!(error instanceof FsError)) throw error
      answer = error.code
    }
    await onAnswer(`${i} ${what}: ${answer}`)
  }
  for (const file of files) await file[Symbol.asyncDispose]()
}

interface Step {
  readonly what: string
  readonly run: () => Promise<unknown>
}

function choose(fs: Fs, chance: Random, files: FsFile[], number: number): Step {
  const directory = (): string => chance.pick(DIRECTORIES)
  const path = (): string => {
    const parent = directory()
    return parent === '' ? chance.pick(NAMES) : `${parent}/${chance.pick(NAMES)}`
  }
  // Bytes that tell which operation wrote them, and where in it they were.
  const data = (): Buffer => {
    const size = chance.pick(SIZES)
    return Buffer.alloc(size, `<${number}:${chance.below(100_000)}>`)
  }
  const file = files.length === 0 ? undefined : chance.pick(files)
  const kind = chance.below(100)
  if (file === undefined || kind < 8) {
    if (files.length >= OPEN_FILES) {
      const [closed] = files.splice(chance.below(files.length), 1)
      return { what: `close ${closed!.path}`, run: async () => closed![Symbol.asyncDispose]() }
    }
    const [at, mode] = [path(), chance.pick(MODES)]
    return { what: `open ${at} ${mode}`, run: async () => files.push(await fs.open(at, mode)) }
  }
  if (kind < 24) {
    const parts = [data(), data()].slice(0, 1 + chance.below(2))
    return { what: `append ${file.path}`, run: () => file.append(parts) }
  }
  if (kind < 36) {
    const [bytes, position] = [data(), chance.pick([0, 1, 500, 4000, 8192, 30_000])]
    return { what: `write ${file.path} @${position}+${bytes.length}`, run: () => file.write(bytes, position) }
  }
  if (kind < 42) {
    const size = chance.pick([0, 0, 10, 600, 5000, 50_000])
    return { what: `truncate ${file.path} ${size}`, run: () => file.truncate(size) }
  }
  if (kind < 56) return { what: `sync ${file.path}`, run: () => file.sync() }
  if (kind < 66) {
    const [at, bytes, ifAbsent] = [path(), data(), chance.below(3) === 0]
    return { what: `writeFile ${at} ${bytes.length}`, run: () => fs.writeFile(at, bytes, ifAbsent ? { ifAbsent } : {}) }
  }
  if (kind < 75) {
    const [from, to] = [path(), path()]
    return { what: `rename ${from} ${to}`, run: () => fs.rename(from, to) }
  }
  if (kind < 80) {
    const [from, to] = [path(), path()]
    return { what: `link ${from} ${to}`, run: () => fs.link(from, to) }
  }
  if (kind < 87) {
    const at = path()
    return { what: `remove ${at}`, run: () => fs.remove(at) }
  }
  if (kind < 90) {
    const [from, to] = [chance.pick(DIRECTORIES.slice(1)), chance.pick(['d', 'f', 'g', 'd/g'])]
    return { what: `rename ${from} ${to}`, run: () => fs.rename(from, to) }
  }
  if (kind < 93) {
    const at = chance.pick(['d', 'd/e', 'f', 'g', 'g/h'])
    return { what: `makeDirectory ${at}`, run: () => fs.makeDirectory(at) }
  }
  if (kind < 94) {
    const at = chance.pick(['d/e', 'f', 'g', 'g/h'])
    return { what: `remove ${at}`, run: () => fs.remove(at) }
  }
  const at = directory()
  return { what: `syncDirectory ${at}`, run: () => fs.syncDirectory(at) }
}
