/**
 * Whether a mount answers, asked in a child process: a `stat` of what hangs cannot be taken back, and would hang us.
 *
 * One child for each mount point that is asked about. One that does not answer in time is left to wait, since it may not even
 * be killed; nobody waits with it, and no other is started beside it. When it answers, the mount is back.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { FsError } from '@mailstead/fs'

/** Answers every line (a path, as JSON) by a line: `true`, or the code of the error. */
const PROGRAM = `const { stat } = require('node:fs')
require('node:readline').createInterface({ input: process.stdin }).on('line', (line) =>
  stat(JSON.parse(line), (error) => process.stdout.write(JSON.stringify(error === null ? true : error.code) + '\\n')),
)`

export interface FarOptions {
  /** How long an answer may take, in milliseconds. */
  readonly deadlineMs: number
  /** How long an answer holds, in milliseconds. */
  readonly livenessMs: number
  /** Starts the child; for tests. */
  readonly start?: (program: string) => ChildProcess
}

export class Far implements Disposable {
  readonly #options: FarOptions
  readonly #asked = new Map<string, Asked>()

  constructor(options: FarOptions) {
    this.#options = options
  }

  /** See `MountProbe.alive`. What answers with an error is there: whoever looks next is told. */
  alive(path: string): Promise<void> | undefined {
    let asked = this.#asked.get(path)
    if (asked === undefined) {
      asked = new Asked(path, this.#options)
      this.#asked.set(path, asked)
    }
    return asked.alive()
  }

  [Symbol.dispose](): void {
    for (const asked of this.#asked.values()) asked.end()
    this.#asked.clear()
  }
}

class Asked {
  readonly #path: string
  readonly #options: FarOptions
  #child: ChildProcess | undefined
  /** By a clock that does not jump. */
  #answeredMs = Number.NEGATIVE_INFINITY
  /** The question under way; settled by its answer. */
  #asking: Promise<void> | undefined
  #answer: () => void = () => {}
  #fail: (error: FsError) => void = () => {}
  /** It did not answer in time, and has not since. */
  #hangs = false

  constructor(path: string, options: FarOptions) {
    this.#path = path
    this.#options = options
  }

  alive(): Promise<void> | undefined {
    if (this.#hangs) return Promise.reject(this.#unavailable())
    if (this.#asking === undefined && performance.now() - this.#answeredMs < this.#options.livenessMs) return undefined
    return this.#inTime(this.#ask())
  }

  end(): void {
    this.#child?.kill('SIGKILL')
    this.#child = undefined
  }

  #ask(): Promise<void> {
    if (this.#asking !== undefined) return this.#asking
    this.#asking = new Promise((resolve, reject) => {
      this.#fail = reject
      this.#answer = () => {
        this.#answeredMs = performance.now()
        this.#hangs = false
        this.#asking = undefined
        resolve()
      }
    })
    const asking = this.#asking
    // Nobody may be waiting any more.
    asking.catch(() => {})
    this.#child ??= this.#start()
    this.#child.stdin?.write(`${JSON.stringify(this.#path)}\n`)
    return asking
  }

  #start(): ChildProcess {
    const start = this.#options.start ?? startNode
    const child = start(PROGRAM)
    // Whoever waits for nothing else may end.
    child.unref()
    for (const pipe of [child.stdin, child.stdout]) (pipe as { unref?: () => void } | null)?.unref?.()
    child.stdout?.on('data', () => this.#answer())
    const gone = (): void => {
      if (this.#child !== child) return
      // Not an answer: the next question starts another.
      this.#child = undefined
      this.#asking = undefined
      this.#hangs = false
      this.#fail(new FsError('FS_UNAVAILABLE', `nobody could be asked whether ${this.#path} answers`))
    }
    child.on('error', gone)
    child.on('exit', gone)
    child.stdin?.on('error', () => {})
    return child
  }

  /** Waits for the answer, but not for ever. */
  async #inTime(asking: Promise<void>): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), this.#options.deadlineMs)
    })
    try {
      if ((await Promise.race([asking, late])) !== 'late') return
    } finally {
      clearTimeout(timer)
    }
    if (this.#asking === asking) this.#hangs = true
    throw this.#unavailable()
  }

  #unavailable(): FsError {
    return new FsError('FS_UNAVAILABLE', `${this.#path} does not answer within ${this.#options.deadlineMs} ms`)
  }
}

function startNode(program: string): ChildProcess {
  return spawn(process.execPath, ['-e', program], { stdio: ['pipe', 'pipe', 'ignore'], env: {} })
}
