/**
 * Counts what a server flushes and writes, from a trace of its system calls. Only calls on files below the server's
 * directory are counted; sockets, pipes and logs elsewhere are not.
 */
import { readFileSync } from 'node:fs'

export interface SyscallCounts {
  /** fsync, fdatasync and sync_file_range, directories included. */
  readonly flushes: number
  /** Bytes handed to write, pwrite64, writev, pwritev. */
  readonly bytesWritten: number
}

/** The command to put before the server's own. `seccomp` stops it only at the calls that are traced. */
export function straceCommand(output: string): readonly string[] {
  const calls = 'fsync,fdatasync,sync_file_range,write,pwrite64,writev,pwritev,pwritev2'
  return ['strace', '-f', '--seccomp-bpf', '-y', '-s', '0', '-qq', '-ttt', '-e', `trace=${calls}`, '-o', output]
}

/** When a counted run began and ended, in seconds since the epoch. */
export interface TraceWindow {
  readonly from: number
  readonly to: number
}

/** Reads a finished trace: strace buffers what it writes until the server has ended. */
export function countSyscalls(output: string, window: TraceWindow, directory: string): SyscallCounts {
  let flushes = 0
  let bytesWritten = 0
  const unfinished = new Map<string, string>()
  for (const whole of readFileSync(output, 'latin1').split('\n')) {
    const parts = /^(\d+)\s+([\d.]+) (.*)$/.exec(whole)
    if (parts === null) continue
    const time = Number(parts[2])
    if (time < window.from || time > window.to) continue
    const pid = parts[1]!
    let line = parts[3]!
    if (line.endsWith('<unfinished ...>')) {
      unfinished.set(pid, line.slice(0, -'<unfinished ...>'.length))
      continue
    }
    const resumed = /^<\.\.\. \w+ resumed>/.exec(line)
    if (resumed !== null) line = (unfinished.get(pid) ?? '') + line.slice(resumed[0].length)
    const match = /^(\w+)\(\d+<([^>]*)>.*\)\s+= (\d+)/.exec(line)
    if (match === null || !match[2]!.startsWith(`${directory}/`)) continue
    if (match[1]!.includes('sync')) flushes++
    else if (!match[2]!.endsWith('/log')) bytesWritten += Number(match[3])
  }
  return { flushes, bytesWritten }
}

/** System calls on files below a directory, by descriptor or by name, in a finished trace made with `-f -y`. */
export function countFileCalls(output: string, directory: string): number {
  let count = 0
  // The second half of a call that another thread's interrupted in the trace says `resumed`, without arguments.
  for (const line of readFileSync(output, 'latin1').split('\n'))
    if (/^\d+\s+\w+\(/.test(line) && line.includes(`${directory}/`)) count++
  return count
}
