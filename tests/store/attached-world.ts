/** Stores whose attachments are kept once, as the tests of this directory and of tests/crash make them. */
import { createHash } from 'node:crypto'
import type { AttachmentFormat } from '@mailstead/box'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { mdbox } from '@mailstead/mdbox'
import { sdbox } from '@mailstead/mdbox/sdbox'
import { type AttachmentsOptions, attachments } from '@mailstead/sis'
import { openStore, type RebuildRecord, rebuildStore, type Store, type StoreOptions } from '@mailstead/store'
import { filesBelow } from './file-tree.ts'

export const GRACE_MS = 1000
/** Of the attachments in these tests. */
export const MIN_SIZE = 3000
export const ANNA = { name: 'anna' }

export interface Clock {
  ms: number
}

export interface Place {
  /** The store's own. */
  readonly fs: Fs
  readonly clock: Clock
  readonly box?: 'mdbox' | 'sdbox'
  /** Where blobs are; its own directory in `fs` otherwise. */
  readonly blobs?: Fs
  /** `none`: the application gives no attachments. */
  readonly attachments?: Partial<AttachmentsOptions> | 'none'
}

/** When these tests begin. */
const START_MS = 1_700_000_000_000

export function newPlace(box: 'mdbox' | 'sdbox' = 'mdbox'): Place {
  return { fs: memoryFs(), clock: { ms: START_MS }, box }
}

export function formatOf({ fs, blobs, clock, attachments: given }: Place): AttachmentFormat {
  const own = given === 'none' ? {} : given
  return attachments(blobs ?? fs, 'attachments', {
    create: true,
    minSize: MIN_SIZE,
    graceMs: GRACE_MS,
    now: () => clock.ms,
    ...own,
  })
}

export function openAttached(place: Place, options: Partial<StoreOptions> = {}): Promise<Store> {
  const { fs, clock, box = 'mdbox' } = place
  return openStore({
    owner: ANNA.name,
    fs,
    box: (root) => (box === 'mdbox' ? mdbox(root, 'storage', { rotateBytes: 60_000 }) : sdbox(root, 'storage')),
    create: true,
    now: () => clock.ms,
    ...(place.attachments === 'none' ? {} : { attachments: formatOf(place) }),
    ...options,
  })
}

export async function rebuildAttached(place: Place): Promise<RebuildRecord[]> {
  const { fs, clock, box = 'mdbox' } = place
  const records = rebuildStore({
    fs,
    box: (root) => (box === 'mdbox' ? mdbox(root, 'storage', { rotateBytes: 60_000 }) : sdbox(root, 'storage')),
    now: () => clock.ms,
    ...(place.attachments === 'none' ? {} : { attachments: formatOf(place) }),
  })
  return (await Array.fromAsync(records)).flat()
}

/** Bytes that look random and are the same for the same name. */
export function noise(name: string, bytes: number): Buffer {
  const out = Buffer.alloc(bytes)
  for (let at = 0, i = 0; at < bytes; at += 32, i++) createHash('sha256').update(`${name} ${i}`).digest().copy(out, at)
  return out
}

/** A message with a text and these attachments, in base64. */
export function mail(text: string, ...parts: readonly Buffer[]): Buffer {
  const encoded = parts.map(
    (part) =>
      `--b\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n${part.toString('base64').replaceAll(/.{76}/g, '$&\r\n')}\r\n`,
  )
  return Buffer.from(
    `Subject: ${text}\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n${text}\r\n${encoded.join('')}--b--\r\n`,
  )
}

export async function deliver(store: Store, mailbox: string, ...messages: readonly Uint8Array[]): Promise<number[]> {
  await using batch = store.as(ANNA).save()
  for (const message of messages) await batch.add(message, [{ mailbox }])
  return (await batch.commit()).map(({ uid }) => uid)
}

export async function bytesOf(store: Store, mailbox: string, uid: number): Promise<Buffer> {
  await using opened = await store.as(ANNA).open(mailbox)
  await using body = await opened.body(opened.view, opened.view.rowOf(uid))
  return Buffer.concat(await Array.fromAsync(body.stream(0, body.size), (chunk) => Buffer.from(chunk)))
}

/** What `check` calls damage. */
export async function damageIn(store: Store): Promise<string[]> {
  const findings = (await Array.fromAsync(store.check())).flat()
  return findings
    .filter(({ severity }) => severity === 'damage')
    .map(({ kind, mailbox, uid, message }) => `${kind} ${mailbox ?? ''} ${uid ?? ''}: ${message}`)
}

/** Files of blobs, and their bytes. */
export async function blobsIn(fs: Fs, path = 'attachments'): Promise<{ files: string[]; bytes: number }> {
  const files = (await filesBelow(fs, path)).filter((file) => /\/[0-9a-f]{64}-[0-9a-f]{16}$/.test(file))
  let bytes = 0
  for (const file of files) bytes += (await fs.stat(file))!.size
  return { files, bytes }
}

/** Sweeps until what nobody uses is gone, as a server does in the course of days. */
export async function sweepAll(store: Store, clock: Clock): Promise<void> {
  for (let i = 0; i < 4; i++) {
    clock.ms += 2 * GRACE_MS
    await store.sweepAttachments()
  }
}
