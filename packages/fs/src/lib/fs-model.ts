/**
 * Any sequence of operations, on a driver and on a map. A sequence whose answers differ is shrunk to a short one, which is
 * printed as a program that fails by itself.
 *
 * Needs `fast-check`, which is loaded only here, so that everything else of `testing` works without it.
 */
import type * as FastCheck from 'fast-check'
import type { Fs } from './contract.ts'
import { type Command, commandsFor, compareTree, PROGRAM_HEAD, type Real } from './model-commands.ts'
import { Model } from './model.ts'

export interface FsModelOptions {
  /** Sequences, each on a fresh file system. (default 100) */
  readonly runs?: number
  /** Most operations of each. (default 120) */
  readonly steps?: number
  /** Most bytes of one write. More than a driver's blocks or chunks are large, if it has them. (default 64) */
  readonly maxBytes?: number
  /** The same sequences again: what a failure printed. (default: new ones) */
  readonly seed?: number
}

export interface FsModelReport {
  readonly runs: number
  /** Operations compared, in all runs. */
  readonly steps: number
}

/** Thrown by `fsModel`: `message` says what differed, and holds the program. */
export class FsModelError extends Error {
  override readonly name = 'FsModelError'
  /** A module that fails by itself, but for `create`, which returns the driver's promise of a fresh, empty file system. */
  readonly program: string
  readonly seed: number
  constructor(message: string, details: { program: string; seed: number; cause: unknown }) {
    super(message, { cause: details.cause })
    this.program = details.program
    this.seed = details.seed
  }
}

/** Compares a driver with a map. `create` makes a fresh, empty file system for each run, which is disposed after it. */
export async function fsModel(create: () => Promise<Fs>, options: FsModelOptions = {}): Promise<FsModelReport> {
  const { runs = 100, steps = 120, maxBytes = 64, seed } = options
  const fc = await loadFastCheck()
  const probe = await create()
  const { name, supports } = probe
  await probe[Symbol.asyncDispose]()
  let compared = 0
  /** Throws if the answers differ; `program` is what was done. */
  const run = async (sequence: Iterable<Command>, program: string[]): Promise<void> => {
    await using fs = await create()
    const model = new Model(supports)
    const real: Real = { fs, files: [], stats: {}, program }
    await fc.asyncModelRun(() => ({ model, real }), sequence)
    await compareTree(model, real)
    compared += program.length
  }
  const sequences = fc.commands(commandsFor(fc, supports, maxBytes), { maxCommands: steps, size: 'max' })
  const property = fc.asyncProperty(sequences, (sequence) => run(sequence, []))
  const result = await fc.check(property, { numRuns: runs, ...(seed === undefined ? {} : { seed }) })
  if (!result.failed) return { runs: result.numRuns, steps: compared }

  let failing = [...(result.counterexample?.[0] ?? [])]
  let { program, cause } = (await failureOf(run, failing)) ?? { program: [], cause: result.errorInstance }
  // fast-check shortens in large steps; what is left is tried without each operation.
  for (let at = failing.length - 1; at >= 0; at--) {
    const without = failing.toSpliced(at, 1)
    const failure = await failureOf(run, without)
    if (failure === undefined) continue
    failing = without
    program = failure.program
    cause = failure.cause
  }
  const text = [...PROGRAM_HEAD, ...program].join('\n')
  const why = cause instanceof Error ? cause.message : String(cause)
  throw new FsModelError(
    `${name} does not answer as a map from names to bytes would (seed ${result.seed}):\n\n${text}\n\n${why}`,
    { program: text, seed: result.seed, cause },
  )
}

/** What a sequence fails with, and its program; undefined if it does not fail. */
async function failureOf(
  run: (sequence: readonly Command[], program: string[]) => Promise<void>,
  sequence: readonly Command[],
): Promise<{ program: string[]; cause: unknown } | undefined> {
  const program: string[] = []
  try {
    await run(sequence, program)
    return undefined
  } catch (cause) {
    return { program, cause }
  }
}

async function loadFastCheck(): Promise<typeof FastCheck> {
  try {
    return await import('fast-check')
  } catch (error) {
    throw new TypeError('fsModel needs the package fast-check (4.x) beside this one', { cause: error })
  }
}
