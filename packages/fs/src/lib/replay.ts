/** What was recorded, done again: on another file system, or on one that can tell what a power cut would have left. */
import type { FsCallOptions, FsFile, FsLock, FsOpenMode, Fs } from './contract.ts'
import type { CrashImage, CrashModel, CrashProfile } from './crash-types.ts'
import { CrashLog, crashableWith, noteFailedSync } from './crashable.ts'
import { FsError } from './error.ts'
import { digest } from './recorded.ts'
import { printEntry, type Trace, type TraceEntry } from './trace.ts'

export interface Replayed {
  /** A line for each entry that ended otherwise than in the trace. */
  readonly differences: readonly string[]
}

/** Does everything in `trace` on `fs`, one after the other, and compares the answers. What is still open at the end is closed. */
export async function replay(trace: Trace, fs: Fs, options: FsCallOptions = {}): Promise<Replayed> {
  const differences: string[] = []
  const player = new Player(fs)
  try {
    for (const [at, entry] of trace.entries.entries()) {
      options.signal?.throwIfAborted()
      const answer = await player.play(entry)
      const expected = entry.error ?? entry.result ?? ''
      // Where an append began, when others may have appended meanwhile, is no difference of its own.
      if (answer !== expected) differences.push(`${at}: ${printEntry(entry)}: now ${answer || 'done'}`)
    }
  } finally {
    await player.close()
  }
  return { differences }
}

export interface CrashModelOptions {
  /** (default 'posix-minimum') */
  readonly profile?: CrashProfile
  /** What was there before. (default: nothing) */
  readonly image?: CrashImage
}

/**
 * What a power cut could have left of the file system on which `trace` was recorded, empty at the beginning: positions are ticks of the recorder.
 * What had begun may have had its effect, whole or in part; what had ended is as durable as the contract says.
 */
export async function crashModelOf(trace: Trace, options: CrashModelOptions = {}): Promise<CrashModel> {
  const log = new CrashLog(options)
  const player = new Player(crashableWith(log, options), true)
  try {
    for (const entry of trace.entries) {
      const { begin, error, operation } = entry
      if (error !== undefined && (operation === 'write' || operation === 'append')) {
        if (!error.startsWith('FS_') || UNTOUCHED.has(error)) continue
        // Some of it may be there, and no flush covers it for sure.
        log.clock = { begin, end: Number.POSITIVE_INFINITY }
        const size = await player.partlyWrite(entry)
        if (size === undefined || error === 'FS_UNCERTAIN') continue
        // A driver takes back what was added; of an append that is promised.
        if (operation === 'append') log.clock = { begin, end: entry.end }
        await player.cut(entry, size)
        continue
      }
      // What else failed had no effect, or one that nothing makes durable.
      if (error !== undefined && error !== 'FS_UNCERTAIN' && operation !== 'sync') continue
      log.clock = { begin, end: error === undefined ? entry.end : Number.POSITIVE_INFINITY }
      if (operation === 'sync' && error !== undefined) player.failedSync(entry)
      else {
        const answer = await player.play(entry)
        if (answer.startsWith('FS_')) throw new TypeError(`${printEntry(entry)} cannot be done again: ${answer}`)
      }
    }
    log.clock = { begin: log.tick, end: log.tick }
  } finally {
    await player.close()
  }
  return log
}

/** What is said before anything is written. */
const UNTOUCHED: ReadonlySet<string> = new Set(['FS_DENIED', 'FS_READ_ONLY', 'FS_UNSUPPORTED'])

class Player {
  readonly #fs: Fs
  /** Bytes go where they went then, not to the end. */
  readonly #placed: boolean
  readonly #files = new Map<number, FsFile>()
  readonly #locks = new Map<number, FsLock>()
  /** Tags of then and now. */
  readonly #tags = new Map<string, string>()

  constructor(fs: Fs, placed = false) {
    this.#fs = fs
    this.#placed = placed
  }

  /** What `recordedFs` would have noted as `error` or `result`, or ''. */
  async play(entry: TraceEntry): Promise<string> {
    try {
      return await this.#play(entry)
    } catch (error) {
      return error instanceof FsError ? error.code : (error as Error).name
    }
  }

  failedSync(entry: TraceEntry): void {
    noteFailedSync(this.#file(entry))
  }

  /** Writes what may have been written. Answers the size before, if the file has grown. */
  async partlyWrite(entry: TraceEntry): Promise<number | undefined> {
    const { data = new Uint8Array(0) } = entry
    const file = this.#file(entry)
    const { size } = await file.stat()
    // An append that failed does not say where it would have been.
    const position = entry.position ?? size
    await file.write(data, position)
    return data.length > 0 && position + data.length > size ? size : undefined
  }

  async cut(entry: TraceEntry, size: number): Promise<void> {
    await this.#file(entry).truncate(size)
  }

  async close(): Promise<void> {
    for (const open of [...this.#files.values(), ...this.#locks.values()]) await open[Symbol.asyncDispose]()
  }

  #file({ handle }: TraceEntry): FsFile {
    const file = this.#files.get(handle ?? 0)
    if (file === undefined) throw new TypeError(`no open file ${handle}`)
    return file
  }

  async #play(entry: TraceEntry): Promise<string> {
    const fs = this.#fs
    const { operation, path, handle = 0, data = new Uint8Array(0), position = 0, to = '' } = entry
    const tagged = (stat: Awaited<ReturnType<Fs['stat']>>): string => {
      if (stat === undefined) return 'nothing'
      if (entry.tag !== undefined) this.#tags.set(entry.tag, stat.tag)
      return `${stat.kind} ${stat.size}`
    }
    switch (operation) {
      case 'stat':
        return tagged(await (entry.handle === undefined ? fs.stat(path) : this.#file(entry).stat()))
      case 'open': {
        const mode = entry.mode as FsOpenMode
        this.#files.set(handle, await fs.open(path, this.#placed && mode === 'append' ? 'write' : mode))
        return ''
      }
      case 'readFile': {
        const end = entry.length === undefined ? {} : { end: entry.length }
        return digest(await fs.readFile(path, { start: position, ...end }))
      }
      case 'writeFile': {
        const { ifAbsent = false, ifMatch, metadata } = entry
        const stat = await fs.writeFile(path, data, {
          ifAbsent,
          ...(ifMatch === undefined || this.#placed ? {} : { ifMatch: this.#tags.get(ifMatch) ?? ifMatch }),
          ...(metadata === undefined ? {} : { metadata }),
        })
        return tagged(stat)
      }
      case 'list': {
        let count = 0
        for await (const page of fs.list(path)) count += page.length
        return `${count}`
      }
      case 'makeDirectory':
        await fs.makeDirectory(path)
        return ''
      case 'rename':
        await fs.rename(path, to)
        return ''
      case 'link':
        await fs.link(path, to)
        return ''
      case 'remove':
        await fs.remove(path)
        return ''
      case 'syncDirectory':
        await fs.syncDirectory(path)
        return ''
      case 'lock':
        this.#locks.set(handle, await fs.lock(path))
        return ''
      case 'acquire':
        return this.#acquire(entry)
      case 'release':
        this.#locks.get(handle)?.release()
        return ''
      case 'read': {
        const into = new Uint8Array(entry.length ?? 0)
        const file = this.#file(entry)
        const now = entry.sync === true && file.readSync !== undefined
        const count = now ? file.readSync!(into, position) : await file.read(into, position)
        return digest(into.subarray(0, count))
      }
      case 'append': {
        const file = this.#file(entry)
        if (this.#placed) await file.write(data, position)
        else if (entry.sync === true && file.appendSync !== undefined) file.appendSync([data])
        else await file.append([data])
        return ''
      }
      case 'write':
        await this.#file(entry).write(data, position)
        return ''
      case 'truncate':
        await this.#file(entry).truncate(position)
        return ''
      case 'sync':
        await this.#file(entry).sync()
        return ''
      case 'close':
        await (this.#files.get(handle) ?? this.#locks.get(handle))?.[Symbol.asyncDispose]()
        this.#files.delete(handle)
        this.#locks.delete(handle)
        return ''
    }
  }

  async #acquire({ handle = 0, mode, sync }: TraceEntry): Promise<string> {
    if (this.#placed) return ''
    const lock = this.#locks.get(handle)
    // Nobody waits for itself: what another program held then is not held now.
    const kind = mode === 'shared' ? 'shared' : 'exclusive'
    const taken = lock?.tryAcquire(kind) === true
    return sync === true ? (taken ? 'taken' : 'not taken') : taken ? '' : 'FS_LOCKED'
  }
}
