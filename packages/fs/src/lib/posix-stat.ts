import type { Stats } from 'node:fs'
import type { FsStat } from './contract.ts'

/**
 * The tag is inode, size and time of the last change of content. A replaced file has another inode; where a freed inode is
 * used again, another time, since `writeFile` sets one of microseconds. An appended file has another size. A file that
 * is overwritten in place has another time only as finely as the kernel keeps it: since Linux 6.13 for every change
 * that follows a look at it, before every 4 ms.
 */
export class PosixStat implements FsStat {
  readonly kind: 'file' | 'directory'
  readonly size: number
  readonly modifiedMs: number
  readonly #inode: number

  constructor(stats: Stats) {
    const file = stats.isFile()
    this.kind = file ? 'file' : 'directory'
    this.size = file ? stats.size : 0
    this.modifiedMs = stats.mtimeMs
    this.#inode = file ? stats.ino : -1
  }

  // Made on demand: whoever looks whether a file has grown does not pay for text.
  get tag(): string {
    return this.#inode < 0 ? '' : `${this.#inode}.${this.size}.${this.modifiedMs}`
  }
}
