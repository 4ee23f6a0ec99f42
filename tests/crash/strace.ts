/**
 * System calls that fail, in a server that runs: strace attaches to it and injects an error or a signal at the n-th call.
 *
 * strace counts calls by thread, so the server should have one worker thread (UV_THREADPOOL_SIZE=1) beside its main one.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { processTree } from '../interop/lib/processes.ts'
import type { Lack } from '../support/depth.ts'

export interface Fault {
  /** As strace names them: `fdatasync`, `pwrite64,pwritev`. */
  readonly calls: string
  /** `error=EIO`, `signal=KILL`. */
  readonly effect: string
  /** Which call fails, from 1: `3`, or `3+` for it and all that follow. */
  readonly when: string
}

export interface TracedCall {
  readonly call: string
  /** The file that the descriptor (or, for openat, the result) stands for; undefined for others. */
  readonly path: string | undefined
  /** `EIO` and so on; undefined if it succeeded. */
  readonly error: string | undefined
  readonly injected: boolean
}

export interface TracedRun {
  readonly calls: readonly TracedCall[]
  readonly killed: boolean
  /** Its exit code; null if it was killed. */
  readonly code: number | null
  readonly said: string
}

/** What is shown of every run, beside what is injected. */
const SHOWN = 'fdatasync,fsync,ftruncate,pwrite64,pwritev,write,writev,rename,unlink,openat'
/** How long strace may take to attach. */
const ATTACH_MS = 20_000
/** How often it is asked whether strace has ended, and how long it may take to notice that the server has. */
const POLL_MS = 20
const NOTICE_MS = 500

export function straceLack(): Lack | undefined {
  const version = spawnSync('strace', ['-V'])
  if (version.error !== undefined) return { reason: 'no strace (Debian: strace)' }
  const child = spawn('sleep', ['60'])
  try {
    const tried = spawnSync('timeout', ['1', 'strace', '-qq', '-p', String(child.pid)], { encoding: 'utf8' })
    return tried.stderr.includes('attach') ? { reason: `strace may not attach: ${tried.stderr.trim()}` } : undefined
  } finally {
    child.kill('SIGKILL')
  }
}

export class Strace {
  readonly #child: ChildProcess
  readonly #output: string
  readonly #pid: number
  readonly #ended: Promise<void>

  /** Resolves when every thread of `pid` is traced, or only its main one. */
  static async attach(
    pid: number,
    output: string,
    faults: readonly Fault[],
    threads: 'all' | 'main' = 'all',
  ): Promise<Strace> {
    const shown = [SHOWN, ...faults.map(({ calls }) => calls)].join()
    const args = [...(threads === 'all' ? ['-f'] : []), '-y', '-s', '0', '-o', output, '-e', `trace=${shown}`]
    for (const { calls, effect, when } of faults) args.push('-e', `inject=${calls}:${effect}:when=${when}`)
    const child = spawn('strace', [...args, '-p', String(pid)], { stdio: ['ignore', 'ignore', 'pipe'] })
    let said = ''
    await new Promise<void>((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`strace did not attach: ${said}`)), ATTACH_MS)
      child.stderr.on('data', (chunk: Buffer) => {
        said += chunk.toString()
        if (!/ attached/.test(said)) return
        clearTimeout(late)
        resolve()
      })
      child.once('exit', () => reject(new Error(`strace ended: ${said}`)))
    })
    return new Strace(child, output, pid)
  }

  /** Runs a command under strace to its end. */
  static async run(command: readonly string[], output: string, faults: readonly Fault[]): Promise<TracedRun> {
    const shown = [SHOWN, ...faults.map(({ calls }) => calls)].join()
    const args = ['-f', '-y', '-s', '0', '-o', output, '-e', `trace=${shown}`]
    for (const { calls, effect, when } of faults) args.push('-e', `inject=${calls}:${effect}:when=${when}`)
    const child = spawn('strace', [...args, ...command], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, UV_THREADPOOL_SIZE: '1' },
    })
    let said = ''
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => {
        said += chunk.toString()
      })
    let code: number | null = null
    const ended = new Promise<boolean>((resolve, reject) => {
      child.once('error', reject)
      child.once('exit', (status) => {
        code = status
        resolve(true)
      })
    })
    for (let deadMs = 0; !(await Promise.race([ended, sleep(POLL_MS, false)])); ) {
      const [, traced] = processTree(child.pid!)
      deadMs = traced !== undefined && isDead(traced) ? deadMs + POLL_MS : 0
      // QUIRK: as in `detach`.
      if (deadMs >= NOTICE_MS) child.kill('SIGKILL')
    }
    const text = readFileSync(output, 'utf8')
    rmSync(output, { force: true })
    return { calls: parseTrace(text), killed: text.includes('+++ killed by SIGKILL'), code, said }
  }

  private constructor(child: ChildProcess, output: string, pid: number) {
    this.#child = child
    this.#output = output
    this.#pid = pid
    this.#ended = new Promise((resolve) => child.once('exit', () => resolve()))
  }

  /** Lets the server go on alone (if it still runs), and tells what was traced. */
  async detach(): Promise<readonly TracedCall[]> {
    this.#child.kill('SIGINT')
    const ended = this.#ended.then(() => true)
    for (let deadMs = 0; !(await Promise.race([ended, sleep(POLL_MS, false)])); ) {
      // QUIRK: strace 6.1 can wait for ever for a thread of a process that it killed.
      deadMs = isDead(this.#pid) ? deadMs + POLL_MS : 0
      if (deadMs >= NOTICE_MS) this.#child.kill('SIGKILL')
    }
    const calls = parseTrace(readFileSync(this.#output, 'utf8'))
    rmSync(this.#output, { force: true })
    return calls
  }
}

/** Gone, or waiting for whoever traces it to see that it is. */
function isDead(pid: number): boolean {
  try {
    return /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return true
  }
}

/** The calls of a trace written with -f and -y, in the order in which they ended. */
export function parseTrace(text: string): readonly TracedCall[] {
  const unfinished = new Map<string, string>()
  const calls: TracedCall[] = []
  for (const line of text.split('\n')) {
    // Where only one thread is traced it is not named.
    const thread = /^\d+ /.exec(line)?.[0] ?? ''
    let rest = line.slice(thread.length).trim()
    if (rest.endsWith('<unfinished ...>')) {
      unfinished.set(thread, rest.slice(0, -'<unfinished ...>'.length))
      continue
    }
    const resumed = /^<\.\.\. \w+ resumed>/.exec(rest)
    if (resumed !== null) rest = (unfinished.get(thread) ?? '') + rest.slice(resumed[0].length)
    const call = /^(\w+)\(/.exec(rest)?.[1]
    const result = /\)\s*= (-?\d+|\?)(.*)$/.exec(rest)
    if (call === undefined || result === null) continue
    const path = call === 'openat' ? /^<([^>]*)>/.exec(result[2]!)?.[1] : /^\w+\(\d+<([^>]*)>/.exec(rest)?.[1]
    calls.push({ call, path, error: /^ (E[A-Z]+)/.exec(result[2]!)?.[1], injected: rest.endsWith('(INJECTED)') })
  }
  return calls
}

/**
 * Flushes that failed and were then taken for done: a file that is flushed again, with success, though it was neither cut back nor
 * opened anew after the failure. What the kernel could not write it may have thrown away, and says so only once.
 */
export function retriedFlushes(calls: readonly TracedCall[]): readonly string[] {
  const suspect = new Set<string>()
  const wrong: string[] = []
  for (const { call, path, error } of calls) {
    if (path === undefined) continue
    if (call === 'fdatasync' || call === 'fsync') {
      // An interrupted flush has failed at nothing: it is to be asked for again.
      if (error === 'EINTR') continue
      if (error !== undefined) suspect.add(path)
      else if (suspect.has(path)) wrong.push(`${path} was flushed again as if nothing had failed`)
    } else if ((call === 'ftruncate' || call === 'openat') && error === undefined) suspect.delete(path)
  }
  return wrong
}
