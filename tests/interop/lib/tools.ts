/** Debian's mail clients as processes: where they are, and how they are run. */
import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import type { Lack } from '../../support/depth.ts'

/** Each program and the Debian package that brings it. */
const PACKAGES: Readonly<Record<string, string>> = {
  mbsync: 'isync',
  mutt: 'mutt',
  curl: 'curl',
  fetchmail: 'fetchmail',
  python3: 'python3',
  script: 'bsdutils',
}

export function toolLack(...programs: readonly string[]): Lack | undefined {
  const missing = programs.filter((program) => find(program) === undefined)
  if (missing.length === 0) return undefined
  return { reason: `no ${missing.map((name) => `${name} (Debian: ${PACKAGES[name] ?? name})`).join(', ')}` }
}

function find(program: string): string | undefined {
  for (const directory of (process.env['PATH'] ?? '').split(delimiter)) {
    const file = join(directory, program)
    try {
      accessSync(file, constants.X_OK)
      return file
    } catch {
      // Not here.
    }
  }
  return undefined
}

export interface ToolRun {
  readonly code: number | null
  readonly stdout: Buffer
  readonly stderr: string
}

export interface ToolOptions {
  readonly input?: string
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string>>
  /** Kills it after this long. (default 300,000) */
  readonly timeoutMs?: number
}

/** Runs a program to its end. Never throws for what it answers. */
export async function run(program: string, args: readonly string[], options: ToolOptions = {}): Promise<ToolRun> {
  const child = spawn(program, args, {
    cwd: options.cwd,
    env: { ...process.env, LC_ALL: 'C', TERM: 'xterm', ...options.env },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  const timer = setTimeout(() => child.kill('SIGKILL'), options.timeoutMs ?? 300_000)
  const out: Buffer[] = []
  let stderr = ''
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk))
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString('latin1')
  })
  child.stdin.on('error', () => undefined)
  child.stdin.end(options.input ?? '')
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  clearTimeout(timer)
  return { code, stdout: Buffer.concat(out), stderr }
}

/** As `run`, but throws, with what it said, unless it ends with 0. */
export async function runOk(program: string, args: readonly string[], options: ToolOptions = {}): Promise<ToolRun> {
  const result = await run(program, args, options)
  if (result.code !== 0) {
    throw new Error(
      `${program} ended with ${result.code}: ${result.stderr.slice(-2000)} ${result.stdout.toString('latin1').slice(-2000)}`,
    )
  }
  return result
}
