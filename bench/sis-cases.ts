/**
 * What the benchmarks of attachments compare: a message with one attachment of base64 on its way into the store and out again, and
 * the least that could be done with the same bytes. Each side repeats its work in a loop of its own.
 */
import { createHash, createHmac } from 'node:crypto'
import { closeSync, fdatasyncSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { posixFs } from '@mailstead/fs/posix'
import { mdbox } from '@mailstead/mdbox'
import { attachments, type BlobSink, type BlobSource, Extraction, type SisAttachmentStore, weave } from '@mailstead/sis'
import { openStore } from '@mailstead/store'
import { Journal } from '../packages/sis/src/lib/journal.ts'
import { seeded } from '../tests/support/depth.ts'

/** Repeats the work `count` times. */
export type Repeat = (count: number) => Promise<void> | void

export interface SisCase {
  readonly row: string
  /** What `raw` does. */
  readonly beside: string
  /** Bytes of the attachment, as it is in the message: what one operation is about. */
  readonly bytes: number
  /** Operations of one timed run. */
  readonly count: number
  /** What the ratio must reach. */
  readonly target?: number
  prepare(directory: string): Promise<{ readonly ours: Repeat; readonly raw: Repeat } & AsyncDisposable>
}

const MiB = 1024 * 1024
/** As a socket hands them over. */
const PIECE_BYTES = 65_536
const HEAD =
  'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nHello\r\n' +
  '--b\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n'

interface Mail {
  readonly data: Buffer
  /** The attachment as it is in the message. */
  readonly encoded: Buffer
  readonly message: Buffer
}

/** Lines of 76 characters, or of 60 to 76 in turn. */
function mail(size: number, seed: number, lines: 'equal' | 'unequal' = 'equal'): Mail {
  const random = seeded(seed)
  const data = Buffer.allocUnsafe(size)
  for (let at = 0; at < size; at++) data[at] = random() * 256
  const chars = data.toString('base64')
  const text: string[] = []
  for (let at = 0, i = 0; at < chars.length; i++) {
    const length = lines === 'equal' ? 76 : 60 + (i % 17)
    text.push(chars.slice(at, at + length))
    at += length
  }
  const encoded = Buffer.from(`${text.join('\r\n')}\r\n`, 'latin1')
  return { data, encoded, message: Buffer.concat([Buffer.from(HEAD), encoded, Buffer.from('\r\n--b--\r\n')]) }
}

/** Blobs that are hashed, and kept nowhere. */
export const nowhere: BlobSink = {
  begin: () => {
    const hash = createHmac('sha256', 'key')
    let size = 0
    return {
      write: (bytes) => {
        size += bytes.length
        hash.update(bytes)
      },
      end: async () => Promise.resolve({ ref: Buffer.concat([hash.digest(), Buffer.alloc(8)]), size, shared: true }),
      abort: async () => {},
    }
  },
}

async function opened(fs: Fs): Promise<{ store: SisAttachmentStore; journal: Journal } & AsyncDisposable> {
  const journal = await Journal.open(fs, 'attachments', {
    create: true,
    salvage: false,
    lost: false,
    lockWaitMs: 30_000,
    random: (bytes) => void globalThis.crypto.getRandomValues(bytes),
  })
  const store = await attachments(fs, 'attachments', { create: true }).open(journal)
  return {
    store,
    journal,
    async [Symbol.asyncDispose]() {
      await store[Symbol.asyncDispose]()
      await journal[Symbol.asyncDispose]()
      await fs[Symbol.asyncDispose]()
    },
  }
}

/** A message as a box saves it: through the batch, flushed, and recorded in a frame. */
async function save(store: SisAttachmentStore, journal: Journal, message: Buffer): Promise<void> {
  await using batch = store.begin()
  const entry = batch.message(() => {})
  await inPieces(message, (piece) => entry.write(piece))
  await entry.end()
  await batch.flush()
  await journal.transact((tx) => entry.record(tx))
}

async function inPieces(message: Buffer, write: (piece: Buffer) => void | Promise<void>): Promise<void> {
  for (let at = 0; at < message.length; at += PIECE_BYTES) {
    const written = write(message.subarray(at, at + PIECE_BYTES))
    if (written !== undefined) await written
  }
}

async function extract(message: Buffer, blobs: BlobSink): Promise<{ segments: Uint8Array; inline: Buffer }> {
  const kept: Buffer[] = []
  const extraction = new Extraction({ blobs, keep: (bytes) => void kept.push(Buffer.from(bytes)) })
  await inPieces(message, (piece) => extraction.write(piece))
  const { segments } = await extraction.end()
  if (segments === undefined) throw new Error('nothing was taken out')
  return { segments, inline: Buffer.concat(kept) }
}

function hashing(bytes: Buffer): Repeat {
  return (count) => {
    for (let i = 0; i < count; i++) createHash('sha256').update(bytes).digest()
  }
}

function known(row: string, size: number, count: number, target?: number): SisCase {
  const one = mail(size, 1)
  return {
    row,
    beside: 'one SHA-256 of the same bytes',
    bytes: one.encoded.length,
    count,
    ...(target === undefined ? {} : { target }),
    async prepare() {
      const open = await opened(memoryFs())
      await save(open.store, open.journal, one.message)
      return {
        ours: async (times) => {
          for (let i = 0; i < times; i++) await save(open.store, open.journal, one.message)
        },
        raw: hashing(one.encoded),
        [Symbol.asyncDispose]: async () => open[Symbol.asyncDispose](),
      }
    },
  }
}

function extraction(row: string, lines: 'equal' | 'unequal'): SisCase {
  const one = mail(2 * MiB, 2, lines)
  return {
    row,
    beside: 'one SHA-256 of the same bytes',
    bytes: one.encoded.length,
    count: 8,
    async prepare() {
      return Promise.resolve({
        ours: async (times) => {
          for (let i = 0; i < times; i++) await extract(one.message, nowhere)
        },
        raw: hashing(one.encoded),
        [Symbol.asyncDispose]: async () => {},
      })
    },
  }
}

/** The whole of a delivery: a store over mdbox on the memory driver, its log and its message files. */
function delivered(): SisCase {
  const one = mail(10 * MiB, 5)
  return {
    row: 'sis deliver known 10 MiB',
    beside: 'one SHA-256 of the same bytes',
    bytes: one.encoded.length,
    count: 2,
    async prepare() {
      const fs = memoryFs()
      const store = await openStore({
        owner: 'bench',
        fs,
        box: (root) => mdbox(root, 'storage'),
        attachments: attachments(fs, 'attachments', { create: true }),
        create: true,
      })
      const session = store.as({ name: 'bench' })
      const deliver = async (): Promise<void> => {
        await using batch = session.save()
        await batch.add(pieces(one.message), [{ mailbox: 'INBOX' }])
        await batch.commit()
      }
      await deliver()
      return {
        ours: async (times) => {
          for (let i = 0; i < times; i++) await deliver()
        },
        raw: hashing(one.encoded),
        async [Symbol.asyncDispose]() {
          await store[Symbol.asyncDispose]()
          await fs[Symbol.asyncDispose]()
        },
      }
    },
  }
}

/** What looking a blob up, counting its use and a frame cost, beside the pass over the bytes. */
function hit(): SisCase {
  const one = mail(100 * 1024, 6)
  return {
    row: 'sis hit 100 KiB',
    beside: 'the same bytes taken out and hashed, nothing looked up',
    bytes: one.encoded.length,
    count: 100,
    async prepare() {
      const open = await opened(memoryFs())
      await save(open.store, open.journal, one.message)
      return {
        ours: async (times) => {
          for (let i = 0; i < times; i++) await save(open.store, open.journal, one.message)
        },
        raw: async (times) => {
          for (let i = 0; i < times; i++) await extract(one.message, nowhere)
        },
        [Symbol.asyncDispose]: async () => open[Symbol.asyncDispose](),
      }
    },
  }
}

async function* pieces(message: Buffer): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < message.length; at += PIECE_BYTES)
    yield await Promise.resolve(message.subarray(at, at + PIECE_BYTES))
}

/** A new attachment each time, and a file of as many bytes, flushed. Both on the disk of the temporary directory. */
function fresh(): SisCase {
  const one = mail(10 * MiB, 3)
  return {
    row: 'sis save new 10 MiB',
    beside: 'a file of the decoded bytes, flushed',
    bytes: one.encoded.length,
    count: 1,
    async prepare(directory) {
      const open = await opened(await posixFs(directory))
      let number = 0
      return {
        ours: async (times) => {
          for (let i = 0; i < times; i++) {
            // The first quantum is another one.
            const at = one.message.indexOf('\r\n\r\n', HEAD.length - 8) + 4
            one.message.write((number++).toString().padStart(8, 'A'), at, 'latin1')
            await save(open.store, open.journal, one.message)
          }
        },
        raw: (times) => {
          for (let i = 0; i < times; i++) {
            const fd = openSync(join(directory, `raw-${number++}`), 'w')
            writeSync(fd, one.data)
            fdatasyncSync(fd)
            closeSync(fd)
          }
        },
        [Symbol.asyncDispose]: async () => open[Symbol.asyncDispose](),
      }
    },
  }
}

const weaving: SisCase = {
  row: 'sis read 10 MiB, re-encoded',
  beside: 'base64 of the same bytes, without line ends',
  bytes: mail(10 * MiB, 4).encoded.length,
  count: 2,
  async prepare() {
    const { data, message } = mail(10 * MiB, 4)
    const { segments, inline } = await extract(message, nowhere)
    const blobs: BlobSource = {
      open: async () =>
        Promise.resolve({
          size: data.length,
          read: async (into, at) => Promise.resolve(data.copy(into, 0, at, Math.min(data.length, at + into.length))),
          async [Symbol.asyncDispose]() {},
        }),
    }
    const read = async (into: Uint8Array, at: number): Promise<number> => Promise.resolve(inline.copy(into, 0, at))
    const into = Buffer.alloc(PIECE_BYTES)
    return {
      ours: async (times) => {
        for (let i = 0; i < times; i++) {
          await using whole = weave(segments, { size: inline.length, read }, blobs)
          for (let at = 0; at < whole.size; ) at += await whole.read(into, at)
        }
      },
      raw: (times) => {
        for (let i = 0; i < times; i++)
          for (let at = 0; at < data.length; at += 49_152)
            into.write(data.toString('base64', at, at + 49_152), 0, 'latin1')
      },
      [Symbol.asyncDispose]: async () => {},
    }
  },
}

export const SIS_CASES: readonly SisCase[] = [
  known('sis save known 10 MiB', 10 * MiB, 2, 0.35),
  known('sis save known 200 KiB', 200 * 1024, 50),
  delivered(),
  hit(),
  extraction('sis extract, equal lines', 'equal'),
  extraction('sis extract, unequal lines', 'unequal'),
  weaving,
  fresh(),
]
