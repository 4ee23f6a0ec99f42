/** What tests of the store share: a store of one user over plain message files, and small mail. */
import type { Fs } from '@mailstead/fs'
import type { CacheField, Mailbox, Store, StoreFinding, StoreOptions } from '../src/lib/contract.ts'
import { plainBox } from '../src/lib/plain-box.ts'
import { openStore } from '../src/lib/store.ts'

export const anna: { readonly name: string } = { name: 'anna' }

/** The simplest derived field. */
export const subject: CacheField = {
  name: 'subject',
  compute: ({ header }) => Buffer.from(/^Subject: ([^\r]*)/m.exec(Buffer.from(header).toString('latin1'))?.[1] ?? ''),
}

let box: StoreOptions['box'] = (root) => plainBox(root, 'storage')
let share = 1
/** Runs the tests with another box; of those with random operations, this share. */
export function useBox(other: StoreOptions['box'], runShare: number): void {
  box = other
  share = runShare
}
export const runsOf = (runs: number): number => Math.ceil(runs * share)
/** What stores of these tests keep their messages in. */
export const usedBox: StoreOptions['box'] = (root) => box(root)

export function open(fs: Fs, options: Partial<StoreOptions> = {}): Promise<Store> {
  return openStore({
    owner: 'anna',
    fs,
    box: usedBox,
    cacheFields: [subject],
    create: true,
    ...options,
  })
}

export function mail(n: number | string, body = 'hello'): Buffer {
  return Buffer.from(`Subject: ${n}\r\n\r\n${body}\r\n`)
}

/** All in one batch. Returns their UIDs. */
export async function save(store: Store, mailbox: string, ...messages: Uint8Array[]): Promise<readonly number[]> {
  await using batch = store.as(anna).save()
  for (const message of messages) await batch.add(message, [{ mailbox }])
  return (await batch.commit()).map(({ uid }) => uid)
}

export async function bytesOf(mailbox: Mailbox, row: number): Promise<string> {
  await using body = await mailbox.body(mailbox.view, row)
  const chunks: Uint8Array[] = []
  for await (const chunk of body.stream(0, body.size)) chunks.push(chunk)
  return Buffer.concat(chunks).toString('latin1')
}

export async function findings(store: Store): Promise<StoreFinding[]> {
  return (await Array.fromAsync(store.check())).flat()
}
export async function damage(store: Store): Promise<StoreFinding[]> {
  return (await findings(store)).filter(({ severity }) => severity === 'damage')
}
