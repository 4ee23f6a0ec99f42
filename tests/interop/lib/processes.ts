/** What /proc says about processes: descendants, memory. Linux only. */
import { readdirSync, readFileSync } from 'node:fs'

/** The process and everything below it that lives now. */
export function processTree(root: number): readonly number[] {
  const children = new Map<number, number[]>()
  for (const name of readdirSync('/proc')) {
    const pid = Number(name)
    if (!(pid > 0)) continue
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
      const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
      const list = children.get(parent)
      if (list === undefined) children.set(parent, [pid])
      else list.push(pid)
    } catch {
      // It ended while we looked.
    }
  }
  const tree = [root]
  for (let at = 0; at < tree.length; at++) tree.push(...(children.get(tree[at]!) ?? []))
  return tree
}

/** Resident memory of one process in bytes; 0 if it is gone. */
export function residentBytes(pid: number): number {
  try {
    const line = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))
    return line === null ? 0 : Number(line[1]) * 1024
  } catch {
    return 0
  }
}

/** Memory in bytes where pages shared by n processes count for 1/n in each (PSS). */
export function proportionalBytes(pid: number): number {
  try {
    const line = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1'))
    return line === null ? 0 : Number(line[1]) * 1024
  } catch {
    return 0
  }
}

/** User and system time of one process and its waited-for children, in milliseconds. */
export function cpuMs(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return (Number(fields[11]) + Number(fields[12]) + Number(fields[13]) + Number(fields[14])) * 10
  } catch {
    return 0
  }
}
