/**
 * What the file system benchmarks compare: an operation through a driver, and the same system calls made directly. Each
 * side repeats its operation in a loop of its own, so that nothing but the operation differs.
 */
import { createCipheriv, createDecipheriv } from 'node:crypto'
import * as nodeFs from 'node:fs'
import { join } from 'node:path'
import { crc32, constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { kernelLocks, posixFs } from '@mailstead/fs/posix'
import { cached, compressed, encrypted } from '@mailstead/fs/wrappers'

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

/** A small object that was read before, and whose name says that it never changes, so that nobody is asked; beside a plain file. */
const cachedHit: FsCase = {
  row: 'fs cached hit 4 KiB',
  count: 4000,
  bare: false,
  async prepare(directory) {
    const objects = { append: false, overwrite: false, rename: false, link: false, lock: false, directories: false }
    const remote = memoryFs({ ...objects, syncRead: false, watch: false })
    const local = await posixFs(join(directory, 'copies'), { create: true })
    const fs = cached(remote, { local, maxBytes: FILE_BYTES, immutable: () => true })
    await fs.writeFile('object', new Uint8Array(BLOCK))
    await fs.readFile('object')
    const plain = await posixFs(join(directory, 'plain'), { create: true })
    await plain.writeFile('object', new Uint8Array(BLOCK))
    return {
      ours: async (count) => {
        for (let at = 0; at < count; at++) await fs.readFile('object')
      },
      raw: async (count) => {
        for (let at = 0; at < count; at++) await plain.readFile('object')
      },
      async [Symbol.asyncDispose]() {
        await fs[Symbol.asyncDispose]()
        await plain[Symbol.asyncDispose]()
      },
    }
  },
}

const CHUNK = 65_536
const LARGE_BYTES = 2 * 1024 * 1024
const KEY = new Uint8Array(32).fill(7)
const NONCE_BYTES = 12

/** Text as mail has it: words in no order, about a third of its size when compressed. */
function mailLike(size: number): Uint8Array {
  const text = 'the message was delivered to a mailbox of somebody who reads it later on another device and answers'
  const words = text.split(' ')
  const bytes = Buffer.alloc(size, 0x20)
  let state = 1
  for (let at = 0; at < size - 12; ) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    const word = words[(state >>> 16) % words.length]!
    at += bytes.write(`${word} `, at) + bytes.write((state >>> 20).toString(36), at + word.length + 1)
  }
  return bytes
}

/** A large file through a wrapper over memory, beside the cipher or codec alone on the same chunks, and a copy of what it made. */
function transformed(
  row: string,
  wrap: (inner: Fs) => Fs,
  raw: { readonly write: (chunk: Uint8Array) => Uint8Array; readonly read: (chunk: Uint8Array) => Uint8Array },
  chunkBytes: number,
): FsCase[] {
  const prepare = async (
    side: 'write' | 'read',
  ): Promise<{ readonly ours: Repeat; readonly raw: Repeat } & AsyncDisposable> => {
    const data = mailLike(LARGE_BYTES)
    const fs = wrap(memoryFs())
    await fs.writeFile('file', data)
    const chunks: Uint8Array[] = []
    for (let at = 0; at < data.length; at += chunkBytes) chunks.push(data.subarray(at, at + chunkBytes))
    const made = chunks.map((chunk) => raw.write(chunk))
    const out = new Uint8Array(2 * LARGE_BYTES)
    return {
      ours: async (count) => {
        for (let at = 0; at < count; at++)
          if (side === 'write') await fs.writeFile('file', data)
          else await fs.readFile('file')
      },
      raw: (count) => {
        for (let at = 0; at < count; at++) {
          let end = 0
          for (const chunk of side === 'write' ? chunks : made) {
            const done = raw[side](chunk)
            out.set(done, end)
            end += done.length
          }
        }
      },
      [Symbol.asyncDispose]: () => fs[Symbol.asyncDispose](),
    }
  }
  return (['write', 'read'] as const).map((side) => ({
    row: `fs ${row} ${side} 2 MiB`,
    count: 3,
    bare: false,
    bytes: LARGE_BYTES,
    prepare: () => prepare(side),
  }))
}

const TAG_BYTES = 16
const nonce = new Uint8Array(NONCE_BYTES)

const encryption = transformed(
  'encrypted',
  (inner) => encrypted(inner, { keys: { current: 'one', get: () => KEY }, chunkBytes: CHUNK }),
  {
    write(chunk) {
      const cipher = createCipheriv('aes-256-gcm', KEY, nonce)
      const sealed = cipher.update(chunk)
      cipher.final()
      return Buffer.concat([sealed, cipher.getAuthTag()])
    },
    read(sealed) {
      const cipher = createDecipheriv('aes-256-gcm', KEY, nonce)
      cipher.setAuthTag(sealed.subarray(-TAG_BYTES))
      const plain = cipher.update(sealed.subarray(0, -TAG_BYTES))
      cipher.final()
      return plain
    },
  },
  CHUNK,
)

const COMPRESSED_CHUNK = 131_072

/** The codec, and the checksum without which no compressed byte is believed. */
const compression = transformed(
  'compressed',
  (inner) => compressed(inner, { level: 1, chunkBytes: COMPRESSED_CHUNK }),
  {
    write(chunk) {
      const packed = zstdCompressSync(chunk, { params: { [constants.ZSTD_c_compressionLevel]: 1 } })
      crc32(packed)
      return packed
    },
    read(packed) {
      crc32(packed)
      return zstdDecompressSync(packed)
    },
  },
  COMPRESSED_CHUNK,
)

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
  cachedHit,
  ...encryption,
  ...compression,
]
