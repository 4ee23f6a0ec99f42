/**
 * One task over a large store, in a process of its own: `node box-large-child.ts TASK DIRECTORY [MESSAGES]`. Prints one line of JSON.
 *
 *   make       a store of the corpus, again and again: each a message of its own
 *   expunge    every second message
 *   there      every message to the second tier
 *   back       and back
 *   purge      what was expunged
 *   rebuild    a store that nobody has open
 *   read       the message files, in order
 *   checksum   the CRC-32s of what each record's checksums cover, piece by piece, in one thread; the files are in memory
 */
import { closeSync, openSync, readdirSync, readFileSync, readSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { posixFs } from '@mailstead/fs/posix'
import { mdbox } from '@mailstead/mdbox'
import { CHUNK_BYTES, HEADER_BYTES } from '@mailstead/mdbox/format'
import { openStore, rebuildStore, type Store } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { corpus } from '../tests/support/corpus.ts'

export type LargeTask = 'make' | 'expunge' | 'there' | 'back' | 'purge' | 'rebuild' | 'read' | 'checksum'

export interface LargeRun {
  readonly messages: number
  /** Of message files: all of them, or those that were moved, or of the files that were purged. */
  readonly bytes: number
  readonly seconds: number
  readonly cpuSeconds: number
  /** Most memory of the process, in MB. */
  readonly memory: number
}

export const LARGE = 50_000
const MAILBOXES = 10
const BATCH = 500
const READ_BYTES = 1024 * 1024
/** Between a body and its metadata. */
const POST_BYTES = 4

if (import.meta.main) {
  const [task, directory, messages] = process.argv.slice(2)
  const found = await largeTask(task as LargeTask, directory!, Number(messages ?? LARGE))
  const memory = Number(/^VmHWM:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'latin1'))![1]) / 1000
  process.stdout.write(JSON.stringify({ ...found, memory }))
}

type Found = Omit<LargeRun, 'memory'>

/** A clock that starts now. */
function clock(): () => Pick<LargeRun, 'seconds' | 'cpuSeconds'> {
  const started = performance.now()
  const before = process.cpuUsage()
  return () => {
    const { user, system } = process.cpuUsage(before)
    return { seconds: (performance.now() - started) / 1000, cpuSeconds: (user + system) / 1e6 }
  }
}

export async function largeTask(task: LargeTask, directory: string, messages: number): Promise<Found> {
  const main = join(directory, 'main')
  if (task === 'read') return readFiles(messageFiles(main))
  if (task === 'checksum') return checksums(messageFiles(main))
  await using fs = await posixFs(main, { create: true })
  await using alt = await posixFs(join(directory, 'alt'), { create: true })
  const box = (root: typeof fs): ReturnType<typeof mdbox> =>
    mdbox(root, 'storage', { alt: { fs: alt, path: 'storage' } })
  if (task === 'rebuild') {
    const { bytes } = filesOf(main)
    const spent = clock()
    for await (const _ of rebuildStore({ fs, box }));
    const took = spent()
    await using store = await openStore({ owner: 'large', fs, box })
    return { messages: countOf(store), bytes, ...took }
  }
  await using store = await openStore({ owner: 'large', fs, box, create: task === 'make' })
  if (task === 'make') await make(store, messages)
  if (task === 'expunge') await expunge(store)
  const count = countOf(store)
  const { bytes } = filesOf(main)
  const spent = clock()
  if (task === 'purge') {
    const report = await store.purge()
    return { messages: report.messages, bytes, ...spent() }
  }
  if (task === 'there' || task === 'back') {
    const report = await store.altmove({ to: task === 'there' ? 'alt' : 'primary', where: () => true })
    if (report.messages !== count) throw new Error(`${report.messages} of ${count} messages were moved`)
    return { messages: report.messages, bytes: report.bytes, ...spent() }
  }
  return { messages: count, bytes, ...spent() }
}

function countOf(store: Store): number {
  const mailboxes = store.as({ name: 'large' }).mailboxes()
  return mailboxes.reduce((sum, { count }) => sum + count, 0)
}

async function make(store: Store, messages: number): Promise<void> {
  const session = store.as({ name: 'large' })
  for (let number = 0; number < MAILBOXES; number++) await session.create(`Folder ${number}`)
  const mail = corpus()
  for (let number = 0; number < messages; ) {
    await using batch = session.save()
    for (const end = Math.min(messages, number + BATCH); number < end; number++)
      await batch.add(mail[number % mail.length]!.bytes, [{ mailbox: `Folder ${number % MAILBOXES}` }])
    await batch.commit()
  }
  await store.checkpoint()
}

async function expunge(store: Store): Promise<void> {
  const session = store.as({ name: 'large' })
  for (let number = 0; number < MAILBOXES; number++) {
    await using mailbox = await session.open(`Folder ${number}`)
    const { view } = mailbox
    const uids = new Uint32Array(Math.floor(view.count / 2))
    for (let at = 0; at < uids.length; at++) uids[at] = view.uid(2 * at)
    await mailbox.expunge(UidSet.fromSorted(uids), { force: true })
  }
}

function messageFiles(main: string): readonly string[] {
  const storage = join(main, 'storage')
  return readdirSync(storage)
    .filter((name) => /^m\.\d+$/.test(name))
    .map((name) => join(storage, name))
}

function filesOf(main: string): { readonly bytes: number } {
  return { bytes: messageFiles(main).reduce((sum, path) => sum + statSync(path).size, 0) }
}

/** Only what the reads take. */
function readFiles(paths: readonly string[]): Found {
  const into = Buffer.alloc(READ_BYTES)
  let bytes = 0
  let spent = 0
  for (const path of paths) {
    const fd = openSync(path, 'r')
    for (;;) {
      const before = performance.now()
      const read = readSync(fd, into)
      spent += performance.now() - before
      bytes += read
      if (read === 0) break
    }
    closeSync(fd)
  }
  return { messages: 0, bytes, seconds: spent / 1000, cpuSeconds: 0 }
}

/** What no rebuild can do in less: header, 64 KiB of the body at a time, metadata. Where they lie is found out before. */
function checksums(paths: readonly string[]): Found {
  let bytes = 0
  let spent = 0
  let all = 0
  for (const path of paths) {
    const file = readFileSync(path)
    const pieces = piecesOf(file)
    const before = performance.now()
    for (let i = 0; i < pieces.length; i += 2) all ^= crc32(file.subarray(pieces[i], pieces[i + 1]))
    spent += performance.now() - before
    bytes += file.length
  }
  if (!Number.isInteger(all)) throw new Error('no checksum')
  return { messages: 0, bytes, seconds: spent / 1000, cpuSeconds: 0 }
}

/** First byte and the one after the last, of all that has a checksum of its own. */
function piecesOf(file: Buffer): readonly number[] {
  const pieces: number[] = []
  for (let at = file.indexOf('\n') + 1; at < file.length; ) {
    const body = at + HEADER_BYTES
    const end = body + Number.parseInt(file.toString('latin1', body - 17, body - 1), 16)
    const metadata = end + POST_BYTES
    pieces.push(at, body)
    for (let from = body; from < end; from += CHUNK_BYTES) pieces.push(from, Math.min(from + CHUNK_BYTES, end))
    at = file.indexOf('\n\n', metadata) + 2
    if (!(at > metadata)) throw new Error(`no metadata at ${metadata}`)
    pieces.push(metadata, at - 1)
  }
  return pieces
}
