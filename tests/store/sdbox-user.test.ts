import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { posixFs } from '@mailstead/fs/posix'
import { mdbox } from '@mailstead/mdbox'
import { openStore, type Store } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { afterAll, expect, test } from 'vitest'

import { emptyConfig, initDataDirectory, openUserStore, rebuildUserStore } from '@mailstead/app-server'

const data = mkdtempSync(join(tmpdir(), 'mailstead-user-box-'))
afterAll(() => rmSync(data, { recursive: true, force: true }))
const anna = { name: 'anna' }
const settings = { ...emptyConfig, store: { ...emptyConfig.store, box: 'sdbox' as const } }

async function deliver(store: Store, mailbox: string, ...texts: readonly string[]): Promise<void> {
  await using batch = store.as(anna).save()
  for (const text of texts) await batch.add(Buffer.from(`Subject: ${text}\r\n\r\n`), [{ mailbox }])
  await batch.commit()
}

async function shown(store: Store): Promise<Record<string, readonly string[]>> {
  const session = store.as(anna)
  const found: Record<string, readonly string[]> = {}
  for (const { name, guid, uidValidity, count } of session.mailboxes()) {
    if (count === 0) continue
    await using mailbox = await session.open(name)
    const lines = [`${guid} ${uidValidity}`]
    for (let row = 0; row < count; row++) {
      await using body = await mailbox.body(mailbox.view, row)
      const text = Buffer.from(body.sliceSync(0, body.size)!).toString()
      lines.push(`${mailbox.view.uid(row)} ${text.trim()}`)
    }
    found[name] = lines
  }
  return found
}

test('a store stays in the format it was made in, and one in sdbox loses nothing with its index', async () => {
  await initDataDirectory(data)
  const storage = join(data, 'users/anna/storage')
  let before: Awaited<ReturnType<typeof shown>>
  {
    await using opened = await openUserStore(data, anna, { create: true, settings })
    const { store } = opened
    await deliver(store, 'INBOX', 'one', 'two', 'three')
    await store.as(anna).create('Work/Büro')
    await using inbox = await store.as(anna).open('INBOX')
    await inbox.copy(UidSet.of(1), 'Work/Büro')
    await inbox.move(UidSet.of(2), 'Work/Büro')
    await deliver(store, 'Work/Büro', 'four')
    await using work = await store.as(anna).open('Work/Büro')
    await work.expunge(UidSet.of(3), { force: true })
    before = await shown(store)
    expect(store.hasTiers).toBe(true)
  }
  expect(before).toMatchObject({ INBOX: [expect.any(String), '1 Subject: one', '3 Subject: three'] })
  expect(readdirSync(storage).filter((name) => /^[0-9a-f]{32}$/.test(name))).toHaveLength(2)
  {
    // Whatever the configuration says now.
    await using opened = await openUserStore(data, anna)
    expect(await shown(opened.store)).toEqual(before)
    await deliver(opened.store, 'INBOX', 'five')
    before = await shown(opened.store)
  }
  expect(readdirSync(storage).some((name) => name.startsWith('m.'))).toBe(false)
  {
    await using fs = await posixFs(join(data, 'users/anna'))
    await expect(openStore({ owner: 'anna', fs, box: (root) => mdbox(root, 'storage') })).rejects.toMatchObject({
      code: 'STORE_UNAVAILABLE',
      message: expect.stringMatching(/sdbox, not mdbox/) as string,
    })
  }
  const changes = async (): Promise<unknown[]> =>
    (await Array.fromAsync(rebuildUserStore(data, anna))).flat().filter(({ kind }) => kind !== 'note')
  expect(await changes()).toEqual([])
  rmSync(join(data, 'users/anna/index'), { recursive: true })
  await expect(openUserStore(data, anna, { create: true })).rejects.toMatchObject({ code: 'STORE_CORRUPT' })
  expect(existsSync(join(data, 'users/anna/index'))).toBe(false)
  expect((await changes()).length).toBeGreaterThan(0)
  expect(await changes()).toEqual([])
  await using opened = await openUserStore(data, anna)
  expect(await shown(opened.store)).toEqual(before)
  const damages = (await Array.fromAsync(opened.store.check())).flat().filter(({ severity }) => severity === 'damage')
  expect(damages).toEqual([])
  await opened.store.purge()
  expect(await shown(opened.store)).toEqual(before)
  await deliver(opened.store, 'INBOX', 'six')
  // How many UIDs were given, and expunged, nobody knows any more: a new one is far beyond.
  const [uid, text] = (await shown(opened.store))['INBOX']!.at(-1)!.split(/ (.*)/)
  expect([Number(uid) > 4, text]).toEqual([true, 'Subject: six'])
})
