/** Other processes that work on the same directory through the posix driver: what one process alone cannot show. */
import { type ChildProcess, spawn } from 'node:child_process'

export interface OtherProcess {
  readonly child: ChildProcess
  /** The next line of its output; fails if it ends first. */
  line(): Promise<string>
  /** Its exit status, once it has ended; null if a signal ended it. */
  readonly ended: Promise<number | null>
  /** Ends it as a power cut would end it, and waits until it is no more. */
  kill(): Promise<void>
}

/** Runs `body`, a module, in another process, with `fs` open on `root`. */
export function start(root: string, body: string): OtherProcess {
  const code = `
    import { posixFs } from ${JSON.stringify(new URL('../src/posix.ts', import.meta.url).href)}
    const fs = await posixFs(${JSON.stringify(root)})
    ${body}`
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['pipe', 'pipe', 'inherit'] })
  const lines: string[] = []
  let wake = (): void => {}
  let rest = ''
  child.stdout.setEncoding('utf8').on('data', (data: string) => {
    const parts = (rest + data).split('\n')
    rest = parts.pop()!
    lines.push(...parts)
    wake()
  })
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve))
  return {
    child,
    ended,
    async line() {
      while (lines.length === 0)
        await new Promise<void>((resolve, reject) => {
          wake = resolve
          void ended.then((status) => reject(new Error(`the process ended with ${status}`)))
        })
      return lines.shift()!
    },
    async kill() {
      child.kill('SIGKILL')
      await ended
    },
  }
}
