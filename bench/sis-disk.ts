/**
 * What the same mail takes on disk, in bytes of files: the store over mdbox with whole messages and with attachments kept once, beside
 * Dovecot's mdbox, its mdbox with attachments outside, and its Maildir. Every one of them is read again and counted.
 */
import { readdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { posixFs } from '@mailstead/fs/posix'
import { mdbox } from '@mailstead/mdbox'
import { attachments, Extraction } from '@mailstead/sis'
import { openStore } from '@mailstead/store'
import {
  dovecotAttachments,
  dovecotLack,
  type ServerOptions,
  startDovecot,
  temporaryDirectory,
} from '../tests/interop/lib/servers.ts'
import { corpus, corpusLack } from '../tests/support/corpus.ts'
import { DovecotBoxes } from './box-sides.ts'
import { updateBaseline } from './lib/baseline.ts'
import { nowhere } from './sis-cases.ts'

export const DISK_SIDES = ['mail', 'whole', 'once', 'dovecot mdbox', 'dovecot sis', 'dovecot maildir'] as const
export type DiskSide = (typeof DISK_SIDES)[number]

export interface DiskFigure {
  readonly row: string
  readonly messages: number
  readonly users: number
  /** Bytes of files; of the mail itself as it was delivered. */
  readonly bytes: Readonly<Partial<Record<DiskSide, number>>>
}

export interface DiskOptions {
  readonly wanted: (row: string) => boolean
  readonly machine: string
  readonly update: boolean
}

interface DiskRow {
  readonly row: string
  /** Smallest part that is taken out, in bytes. */
  readonly minBytes: number
  readonly users: number
  /** Only messages that have such a part. */
  readonly onlyWith: boolean
}

const KiB = 1024
const BATCH = 400
const ROWS: readonly DiskRow[] = [
  { row: 'sis disk corpus, parts from 128 KiB', minBytes: 128 * KiB, users: 1, onlyWith: false },
  { row: 'sis disk corpus, parts from 4 KiB', minBytes: 4 * KiB, users: 1, onlyWith: false },
  { row: 'sis disk mail with such parts, to 10 users', minBytes: 128 * KiB, users: 10, onlyWith: true },
]

/** Measures the rows that are wanted, and prints them. */
export async function diskBench({ wanted, machine, update }: DiskOptions): Promise<readonly string[]> {
  const rows = ROWS.filter(({ row }) => wanted(row))
  if (rows.length === 0) return []
  const lack = corpusLack()
  if (lack !== undefined) {
    process.stdout.write(`sis disk: skipped, ${lack.reason}\n`)
    return []
  }
  process.stdout.write(`\n${'row, in MB'.padEnd(44)} ${DISK_SIDES.map((side) => side.padStart(16)).join(' ')}\n`)
  const complaints: string[] = []
  for (const one of rows) {
    const figure = await measureDisk(one)
    const cells = DISK_SIDES.map((side) => megabytes(figure.bytes[side]).padStart(16))
    process.stdout.write(`${figure.row.padEnd(44)} ${cells.join(' ')}\n`)
    if (update) updateBaseline('sis', [figure], { machine, rounds: 1 })
    const { once, whole } = figure.bytes
    if (once! >= whole!) complaints.push(`${figure.row}: ${once} bytes with attachments once, ${whole} without`)
  }
  return complaints
}

export function megabytes(bytes: number | undefined): string {
  return bytes === undefined ? '–' : (bytes / 1e6).toFixed(2)
}

async function measureDisk({ row, minBytes, users, onlyWith }: DiskRow): Promise<DiskFigure> {
  const messages: Buffer[] = []
  // Dovecot takes none that is empty.
  for (const { bytes } of corpus())
    if (bytes.length > 0 && (!onlyWith || (await hasPart(bytes, minBytes)))) messages.push(bytes)
  const names = Array.from({ length: users }, (_, at) => `user${at + 1}`)
  const bytes: Partial<Record<DiskSide, number>> = {
    mail: users * messages.reduce((sum, one) => sum + one.length, 0),
    whole: await ours(messages, names, undefined),
    once: await ours(messages, names, minBytes),
  }
  if (dovecotLack() === undefined) {
    bytes['dovecot mdbox'] = await dovecot(messages, names, { box: 'mdbox' })
    bytes['dovecot sis'] = await dovecot(messages, names, {
      box: 'mdbox',
      dovecotConfig: dovecotAttachments(`${minBytes}`),
    })
    bytes['dovecot maildir'] = await dovecot(messages, names, { box: 'maildir' })
  }
  return { row, messages: messages.length, users, bytes }
}

async function hasPart(message: Buffer, minSize: number): Promise<boolean> {
  if (message.length < minSize) return false
  const extraction = new Extraction({ blobs: nowhere, keep: () => {} }, { minSize })
  await extraction.write(message)
  return (await extraction.end()).segments !== undefined
}

/** A store for each user; attachments of all of them together, as `domain = "server"` has it. */
async function ours(
  messages: readonly Buffer[],
  names: readonly string[],
  minSize: number | undefined,
): Promise<number> {
  const directory = temporaryDirectory('bench-disk')
  try {
    await using root = await posixFs(directory)
    for (const owner of names) {
      await using fs = await posixFs(join(directory, owner), { create: true })
      await using store = await openStore({
        owner,
        fs,
        box: (home) => mdbox(home, 'storage'),
        create: true,
        ...(minSize === undefined
          ? {}
          : { attachments: attachments(root, 'attachments', { create: true, shared: true, minSize }) }),
      })
      const session = store.as({ name: owner })
      for (let at = 0; at < messages.length; at += BATCH) {
        await using batch = session.save()
        for (const message of messages.slice(at, at + BATCH)) await batch.add(message, [{ mailbox: 'INBOX' }])
        await batch.commit()
      }
      const there = session.mailbox('INBOX')?.count
      if (there !== messages.length) throw new Error(`${owner} has ${there} of ${messages.length} messages`)
    }
    return bytesBelow(directory)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

async function dovecot(
  messages: readonly Buffer[],
  names: readonly string[],
  options: Pick<ServerOptions, 'box' | 'dovecotConfig'>,
): Promise<number> {
  await using server = await startDovecot(options)
  const boxes = new DovecotBoxes(server)
  for (const name of names) {
    await boxes.fill(name, messages)
    const there = await boxes.count(name, 'INBOX')
    if (there !== messages.length) throw new Error(`Dovecot has ${there} of ${messages.length} messages`)
  }
  return bytesBelow(join(server.directory, 'home'))
}

/** Of all files, links once. */
function bytesBelow(directory: string): number {
  let bytes = 0
  const seen = new Set<bigint>()
  for (const name of readdirSync(directory, { recursive: true, encoding: 'utf8' })) {
    const stat = statSync(join(directory, name), { bigint: true, throwIfNoEntry: false })
    if (stat?.isFile() !== true || seen.has(stat.ino)) continue
    seen.add(stat.ino)
    bytes += Number(stat.size)
  }
  return bytes
}
