/**
 * What the file system benchmarks compare: an operation through a driver, and the same system calls made directly. Each
 * side repeats its operation in a loop of its own, so that nothing but the operation differs.
 */
import * as nodeFs from 'node:fs'
import { join } from 'node:path'
import { kernelLocks, posixFs } from '@mailstead/fs/posix'

/** Repeats the operation `count` times. */
export type Repeat = (count: number) => void | Promise<void>

export interface FsCase {
  readonly row: string
  /** Operations of one timed run. */
  readonly count: number
  /** Whether extra system calls and allocations are held against it; elsewhere they are only told. */
  readonly bare: boolean
  /** What one operation moves, where MB/s say more than operations. */
  readonly bytes?: number
  /** Makes what both sides work on, in an empty directory. */
  prepare(directory: string): Promise<{ readonly ours: Repeat; readonly raw: Repeat } & AsyncDisposable>
}

const FILE_BYTES = 1024 * 1024
const BLOCK = 4096
const RECORD = 100

/** Reads 4 KiB after 4 KiB of a file that is in the kernel's memory. */
const readSync: FsCase = {
  row: 'fs readSync 4 KiB',
  count: 40_000,
  bare: true,
  async prepare(directory) {
    const fs = await posixFs(directory)
    await fs.writeFile('file', new Uint8Array(FILE_BYTES))
    const file = await fs.open('file', 'read')
    const fd = nodeFs.openSync(join(directory, 'file'), 'r')
    const into = new Uint8Array(BLOCK)
    return {
      ours: (count) => {
        for (let at = 0; at < count; at++) file.readSync!(into, (at * BLOCK) % FILE_BYTES)
      },
      raw: (count) => {
        for (let at = 0; at < count; at++) nodeFs.readSync(fd, into, 0, BLOCK, (at * BLOCK) % FILE_BYTES)
      },
      async [Symbol.asyncDispose]() {
        nodeFs.closeSync(fd)
        await fs[Symbol.asyncDispose]()
      },
    }
  },
}

const read: FsCase = {
  row: 'fs read 4 KiB, in the thread pool',
  count: 4000,
  bare: false,
  async prepare(directory) {
    const fs = await posixFs(directory)
    await fs.writeFile('file', new Uint8Array(FILE_BYTES))
    const file = await fs.open('file', 'read')
    const fd = nodeFs.openSync(join(directory, 'file'), 'r')
    const into = new Uint8Array(BLOCK)
    return {
      ours: async (count) => {
        for (let at = 0; at < count; at++) await file.read(into, (at * BLOCK) % FILE_BYTES)
      },
      raw: async (count) => {
        for (let at = 0; at < count; at++)
          await new Promise<void>((resolve, reject) => {
            nodeFs.read(fd, into, 0, BLOCK, (at * BLOCK) % FILE_BYTES, (error) => (error ? reject(error) : resolve()))
          })
      },
      async [Symbol.asyncDispose]() {
        nodeFs.closeSync(fd)
        await fs[Symbol.asyncDispose]()
      },
    }
  },
}

/** An append says where it wrote, and who wants to know that asks the kernel for the size first: so does the raw side. */
function append(row: string, parts: readonly Uint8Array[], atOnce: boolean): FsCase {
  return {
    row,
    count: atOnce ? 20_000 : 10_000,
    bare: atOnce,
    async prepare(directory) {
      const fs = await posixFs(directory)
      const file = await fs.open('ours', 'append')
      const fd = nodeFs.openSync(join(directory, 'raw'), 'a')
      const [only] = parts
      return {
        ours: atOnce
          ? (count) => {
              for (let at = 0; at < count; at++) file.appendSync!(parts)
            }
          : async (count) => {
              for (let at = 0; at < count; at++) await file.append(parts)
            },
        raw: (count) => {
          let end = 0
          for (let at = 0; at < count; at++) {
            end += nodeFs.fstatSync(fd).size
            if (parts.length === 1) nodeFs.writeSync(fd, only!, 0, only!.length, null)
            else nodeFs.writevSync(fd, parts)
          }
          if (Number.isNaN(end)) throw new Error('no size')
        },
        async [Symbol.asyncDispose]() {
          nodeFs.closeSync(fd)
          await fs[Symbol.asyncDispose]()
        },
      }
    },
  }
}

const readFile: FsCase = {
  row: 'fs readFile 4 KiB',
  count: 10_000,
  bare: false,
  async prepare(directory) {
    const fs = await posixFs(directory)
    await fs.writeFile('d/file', new Uint8Array(BLOCK))
    const path = join(directory, 'd/file')
    return {
      ours: async (count) => {
        for (let at = 0; at < count; at++) await fs.readFile('d/file')
      },
      raw: (count) => {
        for (let at = 0; at < count; at++) {
          const fd = nodeFs.openSync(path, 'r')
          const into = new Uint8Array(nodeFs.fstatSync(fd).size)
          nodeFs.readSync(fd, into, 0, into.length, 0)
          nodeFs.closeSync(fd)
        }
      },
      [Symbol.asyncDispose]: () => fs[Symbol.asyncDispose](),
    }
  },
}

/** The raw side writes a temporary file, flushes it, renames it and flushes the directory: all or nothing, but without taking turns. */
const writeFile: FsCase = {
  row: 'fs writeFile 4 KiB, durable',
  count: 40,
  bare: false,
  async prepare(directory) {
    const fs = await posixFs(directory)
    const data = new Uint8Array(BLOCK)
    await fs.writeFile('d/ours', data)
    const under = join(directory, 'd')
    const flush = (fd: number): Promise<void> =>
      new Promise((resolve, reject) => {
        nodeFs.fsync(fd, (error) => (error ? reject(error) : resolve()))
      })
    return {
      ours: async (count) => {
        for (let at = 0; at < count; at++) await fs.writeFile('d/ours', data)
      },
      raw: async (count) => {
        for (let at = 0; at < count; at++) {
          const fd = nodeFs.openSync(join(under, '.raw'), 'w')
          nodeFs.writeSync(fd, data)
          await flush(fd)
          nodeFs.closeSync(fd)
          nodeFs.renameSync(join(under, '.raw'), join(under, 'raw'))
          const parent = nodeFs.openSync(under, 'r')
          await flush(parent)
          nodeFs.closeSync(parent)
        }
      },
      [Symbol.asyncDispose]: () => fs[Symbol.asyncDispose](),
    }
  },
}

const lock: FsCase = {
  row: 'fs lock and unlock',
  count: 50_000,
  bare: true,
  async prepare(directory) {
    const fs = await posixFs(directory)
    const held = await fs.lock('ours')
    const locks = kernelLocks()
    const fd = nodeFs.openSync(join(directory, 'raw'), 'w')
    return {
      ours: (count) => {
        for (let at = 0; at < count; at++) {
          if (!held.tryAcquire()) throw new Error('somebody else has the lock')
          held.release()
        }
      },
      raw: (count) => {
        for (let at = 0; at < count; at++) {
          if (!locks.tryLock(fd, 'exclusive')) throw new Error('somebody else has the lock')
          locks.unlock(fd)
        }
      },
      async [Symbol.asyncDispose]() {
        nodeFs.closeSync(fd)
        await fs[Symbol.asyncDispose]()
      },
    }
  },
}

const record = new Uint8Array(RECORD).fill(0x61)

export const FS_CASES: readonly FsCase[] = [
  readSync,
  read,
  readFile,
  append('fs appendSync 100 bytes', [record], true),
  append(
    'fs appendSync 100 bytes in 3 parts',
    [record.subarray(0, 8), record.subarray(8, 96), record.subarray(96)],
    true,
  ),
  append('fs append 100 bytes', [record], false),
  writeFile,
  lock,
]
