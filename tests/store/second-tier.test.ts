/**
 * A second tier and the loss of the index: what is in it is neither forgotten where the configuration does not name it, nor taken for
 * somebody else's.
 */
import type { BoxFormat } from '@mailstead/box'
import { type Fs, FsError } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { mdbox } from '@mailstead/mdbox'
import { sdbox } from '@mailstead/mdbox/sdbox'
import { openStore, type RebuildRecord, rebuildStore, type Store, StoreError } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import { copyOf, removeAll } from '../rebuild/support.ts'

const ANNA = { name: 'anna' }
const FORMATS: readonly (readonly [name: string, make: (fs: Fs, alt: Fs | undefined) => BoxFormat])[] = [
  [
    'mdbox',
    (fs, alt) =>
      mdbox(fs, 'storage', { rotateBytes: 1500, ...(alt && { alt: { fs: kept(alt), path: 'users/anna' } }) }),
  ],
  ['sdbox', (fs, alt) => sdbox(fs, 'storage', alt && { alt: { fs: kept(alt), path: 'users/anna' } })],
]

function kept(fs: Fs): Fs {
  return { ...fs, [Symbol.asyncDispose]: () => Promise.resolve() }
}

describe.each(FORMATS)('a second tier of %s', (_, make) => {
  const opened = (
    fs: Fs,
    alt: Fs | undefined,
    options: { create?: boolean; onEvent?: (event: { kind: string; message: string }) => void } = {},
  ): Promise<Store> => openStore({ owner: ANNA.name, fs, box: (root) => make(root, alt), create: true, ...options })
  const rebuilt = async (fs: Fs, alt: Fs | undefined, dryRunIn?: Fs): Promise<RebuildRecord[]> =>
    (
      await Array.fromAsync(
        rebuildStore({ fs, box: (root) => make(root, alt), ...(dryRunIn === undefined ? {} : { dryRunIn }) }),
      )
    ).flat()
  const deliver = async (store: Store, ...texts: string[]): Promise<void> => {
    await using batch = store.as(ANNA).save()
    for (const text of texts)
      await batch.add(Buffer.from(`Subject: ${text}\r\n\r\n${text.repeat(100)}`), [{ mailbox: 'INBOX' }])
    await batch.commit()
  }
  /** What can be read, or why it cannot. */
  const listed = async (store: Store): Promise<string[]> => {
    await using inbox = await store.as(ANNA).open('INBOX')
    const found: string[] = []
    for (let row = 0; row < inbox.view.count; row++)
      try {
        await using body = await inbox.body(inbox.view, row)
        const text = Buffer.concat(await Array.fromAsync(body.stream(0, body.size))).toString()
        found.push(/^Subject: (\S+)/.exec(text)![1]!)
      } catch (error) {
        found.push((error as StoreError).code)
      }
    return found.sort()
  }
  const moved = async (fs: Fs, alt: Fs, ...texts: string[]): Promise<void> => {
    await using store = await opened(fs, alt)
    await deliver(store, ...texts)
    await store.altmove({ to: 'alt', where: ({ uid }: { uid?: number }) => uid !== 1 })
  }
  const isRefusal = (error: unknown): boolean =>
    error instanceof StoreError &&
    error.code === 'STORE_UNAVAILABLE' &&
    error.cause instanceof FsError &&
    error.cause.code === 'FS_UNAVAILABLE' &&
    /[0-9a-f]{32}/.test(error.message)

  test.each(['index', 'index/log', 'index/tables/box.snap'])(
    'without its configuration and %s a rebuild writes nothing, and says which tier is missing; with it all mail is back',
    async (lost) => {
      const [fs, alt] = [memoryFs(), memoryFs()]
      await moved(fs, alt, 'stays', 'goes', 'goes-too')
      {
        await using store = await opened(fs, alt)
        await store.checkpoint()
        await deliver(store, 'later')
      }
      await removeAll(fs, lost)
      const before = await copyOf(fs)
      for (const away of [undefined, memoryFs()]) {
        await expect(rebuilt(fs, away)).rejects.toSatisfy(isRefusal)
        await expect(rebuilt(fs, away, memoryFs())).rejects.toSatisfy(isRefusal)
        expect(await copyOf(fs)).toEqual(before)
      }
      await rebuilt(fs, alt)
      await using store = await opened(fs, alt)
      expect(await listed(store)).toEqual(['goes', 'goes-too', 'later', 'stays'])
      expect(await rebuilt2(store, fs, alt)).toEqual([])
    },
  )
  /** Closes the store, and gives what a second rebuild changes. */
  const rebuilt2 = async (store: Store, fs: Fs, alt: Fs): Promise<unknown[]> => {
    await store[Symbol.asyncDispose]()
    return (await rebuilt(fs, alt)).filter(({ kind }) => kind === 'changed' || kind === 'lost')
  }

  test('without its configuration it is said to be missing, whatever the index knows, and its mail is unavailable', async () => {
    const [fs, alt] = [memoryFs(), memoryFs()]
    await moved(fs, alt, 'stays', 'goes')
    const events: string[] = []
    const onEvent = ({ kind, message }: { kind: string; message: string }): void =>
      void events.push(`${kind} ${message}`)
    {
      await using store = await opened(fs, undefined, { onEvent })
      expect(events).toEqual([expect.stringMatching(/^tier-unavailable .*not configured.*[0-9a-f]{32}/)])
      expect(await listed(store)).toEqual(['STORE_UNAVAILABLE', 'stays'])
      expect((await store.purge()).unavailable).toBeInstanceOf(FsError)
      await expect(Array.fromAsync(store.check())).rejects.toSatisfy(isRefusal)
    }
    {
      await using store = await opened(fs, alt, { onEvent })
      expect(events.length).toBe(1)
      expect(await listed(store)).toEqual(['goes', 'stays'])
      await store.altmove({ to: 'alt', where: () => true })
    }
    // All mail is there, and nothing else is left: still this is no new store.
    await removeAll(fs, 'index')
    await expect(opened(fs, undefined)).rejects.toMatchObject({ code: 'STORE_CORRUPT' })
    await expect(opened(fs, memoryFs())).rejects.toMatchObject({ code: 'STORE_CORRUPT' })
    await expect(rebuilt(fs, undefined)).rejects.toSatisfy(isRefusal)
    await rebuilt(fs, alt)
    await using store = await opened(fs, alt)
    expect(await listed(store)).toEqual(['goes', 'stays'])
  })

  test('files that somebody of the same name left there are nobody’s: no rebuild takes them, and it says so', async () => {
    const [old, alt] = [memoryFs(), memoryFs()]
    await moved(old, alt, 'first', 'secret', 'secrets')
    const left = await copyOf(alt)
    // The user is removed, all but his second tier; a new one gets his name.
    const fs = memoryFs()
    {
      await using store = await opened(fs, alt)
      await deliver(store, 'mine', 'mine-too')
      await expect(store.altmove({ to: 'alt', where: () => true })).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
      const notes = (await Array.fromAsync(store.check())).flat()
      expect(notes.map(({ severity, kind }) => `${severity} ${kind}`)).toEqual(['note tier-foreign'])
    }
    await removeAll(fs, 'index')
    const records = await rebuilt(fs, alt)
    expect(records.map(({ kind, message }) => `${kind} ${message}`)).toContainEqual(
      expect.stringMatching(/^note .*another box.*[0-9a-f]{32}.*nothing of it is taken/),
    )
    await using store = await opened(fs, alt)
    expect(await listed(store)).toEqual(['mine', 'mine-too'])
    expect(await copyOf(alt)).toEqual(left)
    await store.purge()
    expect(await copyOf(alt)).toEqual(left)
  })

  test('moved there and back, by age and by flags, with copies and expunges: all that is listed can be read after a rebuild', async () => {
    const [fs, alt] = [memoryFs(), memoryFs()]
    await moved(fs, alt, 'one', 'two', 'three', 'four')
    {
      await using store = await opened(fs, alt)
      await store.as(ANNA).create('Archive')
      await using inbox = await store.as(ANNA).open('INBOX')
      await inbox.copy(UidSet.of(1, 2, 3), 'Archive')
      await inbox.expunge(UidSet.of(2, 4), { force: true })
      await inbox[Symbol.asyncDispose]()
      await store.purge()
      await store.altmove({ to: 'primary', where: ({ mailbox }) => mailbox === 'INBOX' })
      await store.altmove({ to: 'alt', where: ({ mailbox }) => mailbox === 'Archive' })
      await store.checkpoint()
    }
    await removeAll(fs, 'index')
    await rebuilt(fs, alt)
    await using store = await opened(fs, alt)
    const all = new Set<string>()
    for (const { name } of store.as(ANNA).mailboxes()) {
      await using mailbox = await store.as(ANNA).open(name)
      for (let row = 0; row < mailbox.view.count; row++) {
        await using body = await mailbox.body(mailbox.view, row)
        const text = Buffer.concat(await Array.fromAsync(body.stream(0, body.size))).toString()
        all.add(/^Subject: (\S+)/.exec(text)![1]!)
      }
    }
    expect([...all].sort()).toEqual(['one', 'three', 'two'])
  })
})
