/** Stores that are damaged and rebuilt, and what a client sees of them. */
import type { BoxFormat } from '@mailstead/box'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { mdbox } from '@mailstead/mdbox'
import { sdbox } from '@mailstead/mdbox/sdbox'
import {
  openStore,
  type RebuildOptions,
  type RebuildRecord,
  rebuildStore,
  type Store,
  StoreError,
  type StoreOptions,
} from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'

export const OWNER: { readonly name: string } = { name: 'anna' }
/** Small, so that a few messages fill several files. */
const ROTATE_BYTES = 1_500
let clock = 1_800_000_000_000

export type Format = 'mdbox' | 'sdbox'
let format: Format = 'mdbox'
let tiered = false
/** What stores are made with from now on. `tiers`: they know a second tier, beside the first. */
export function useFormat(name: Format, tiers = false): void {
  format = name
  tiered = tiers
}
export function hasTiers(): boolean {
  return tiered
}
const ALTERNATE = 'alternate'

export function boxOf(root: Fs): BoxFormat {
  const tiers = tiered ? { alt: { fs: root, path: ALTERNATE } } : {}
  return format === 'sdbox'
    ? sdbox(root, 'storage', tiers)
    : mdbox(root, 'storage', { rotateBytes: ROTATE_BYTES, ...tiers })
}

const common = {
  box: boxOf,
  now: (): number => (clock += 1000),
}

export async function openTest(fs: Fs, options: Partial<StoreOptions> = {}): Promise<Store> {
  return openStore({ owner: OWNER.name, fs, create: true, ...common, ...options })
}
export async function openRebuilt(fs: Fs): Promise<Store> {
  return openTest(fs, { create: false })
}

/** Runs to the end; gives everything that was said. */
export async function rebuild(fs: Fs, options: Partial<RebuildOptions> = {}): Promise<RebuildRecord[]> {
  return (await Array.fromAsync(rebuildStore({ fs, ...common, ...options }))).flat()
}

export async function deliver(store: Store, mailbox: string, text: string): Promise<number> {
  await using batch = store.as(OWNER).save()
  await batch.add(Buffer.from(`Subject: ${text}\r\n\r\n${text}`), [{ mailbox }])
  return (await batch.commit())[0]!.uid
}

export async function expunge(store: Store, mailbox: string, uids: readonly number[]): Promise<void> {
  await using open = await store.as(OWNER).open(mailbox)
  await open.expunge(UidSet.of(...uids), { force: true })
}

export interface SeenRow {
  readonly uid: number
  readonly flags: number
  readonly keywords: string
  /** What the message says; the code of the error if it cannot be read. */
  readonly text: string
}
export interface SeenMailbox {
  readonly guid: string
  readonly uidValidity: number
  readonly rows: readonly SeenRow[]
}

/** What a client sees. */
export async function picture(fs: Fs): Promise<Map<string, SeenMailbox>> {
  await using store = await openTest(fs, { create: false, readOnly: true })
  const session = store.as(OWNER)
  const mailboxes = new Map<string, SeenMailbox>()
  for (const { name, guid, uidValidity } of session.mailboxes()) {
    await using mailbox = await session.open(name)
    const { view } = mailbox
    const rows: SeenRow[] = []
    for (let row = 0; row < view.count; row++) {
      const keywords = view.keywordSets[view.keywordSet(row)]!.map((k) => view.keywords[k]!).toSorted()
      let text: string
      try {
        await using body = await mailbox.body(view, row)
        const bytes = Buffer.concat(await Array.fromAsync(body.stream(0, body.size)))
        text = bytes.toString().split('\r\n\r\n')[1]!
      } catch (error) {
        if (!(error instanceof StoreError)) throw error
        text = error.code
      }
      rows.push({ uid: view.uid(row), flags: view.flags(row), keywords: keywords.join(' '), text })
    }
    mailboxes.set(name, { guid, uidValidity, rows })
  }
  return mailboxes
}

/** Every file, by its path. */
export async function copyOf(fs: Fs): Promise<Map<string, Uint8Array>> {
  const files = new Map<string, Uint8Array>()
  const walk = async (directory: string): Promise<void> => {
    for await (const page of fs.list(directory))
      for (const { name, kind } of page) {
        const path = directory === '' ? name : `${directory}/${name}`
        if (kind === 'directory') await walk(path)
        else files.set(path, Uint8Array.from(await fs.readFile(path)))
      }
  }
  await walk('')
  return files
}

export async function fromCopy(files: ReadonlyMap<string, Uint8Array>): Promise<Fs> {
  const fs = memoryFs()
  for (const [path, bytes] of files) await fs.writeFile(path, bytes)
  return fs
}

/** A file, or everything below a directory, which goes too; but in `storage` only message files. */
export async function removeAll(fs: Fs, path: string): Promise<void> {
  const isStorage = path === 'storage'
  const stat = await fs.stat(path)
  if (stat?.kind === 'directory') {
    const names: string[] = []
    for await (const page of fs.list(path)) for (const { name } of page) names.push(name)
    for (const name of names) if (!isStorage || name.startsWith('m.')) await removeAll(fs, `${path}/${name}`)
  }
  if (stat !== undefined && !isStorage) await fs.remove(path)
}
