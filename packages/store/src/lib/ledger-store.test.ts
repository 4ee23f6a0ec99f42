/** The ledger as a store keeps it: after every change of mailboxes, and before that is acknowledged. */
import { encodePrivacyPolicy } from '@mailstead/acl/private-flags'
import { failNth, faultyFs } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import { expect, test } from 'vitest'
import { anna, mail, open, save } from '../../test/support.ts'
import { LEDGER, Ledger } from './ledger.ts'
import type { LedgerState } from './ledger-format.ts'
import { aclKey, mailboxKey, privacyKey } from './tree.ts'

async function read(fs: ReturnType<typeof memoryFs>): Promise<LedgerState> {
  const state = await new Ledger(fs).read()
  if (typeof state !== 'object') throw new Error(state)
  return state
}

test('every change of mailboxes is in the ledger when it is acknowledged, and mail is not', async () => {
  const fs = memoryFs()
  await using store = await open(fs)
  const session = store.as(anna)
  const { guid } = await session.create('Work')
  const has = async (key: string): Promise<boolean> => (await read(fs)).values.has(key)
  expect(await has(mailboxKey(guid))).toBe(true)
  await session.changeAcl('Work', () => Buffer.of(1, 2, 3))
  expect((await read(fs)).values.get(aclKey(guid))).toEqual(Uint8Array.of(1, 2, 3))
  const policy = { default: 'private', rules: [] } as const
  await session.changePrivacy('Work', policy)
  expect((await read(fs)).values.get(privacyKey(guid))).toEqual(Uint8Array.from(encodePrivacyPolicy(policy)))
  const child = await session.create('Work/Plans')
  expect((await read(fs)).values.get(aclKey(child.guid))).toEqual(Uint8Array.of(1, 2, 3))
  await session.rename('Work', 'Job')
  expect(Buffer.from((await read(fs)).values.get(mailboxKey(child.guid))!).includes('Job/Plans')).toBe(true)

  const { tag } = (await fs.stat(LEDGER))!
  await save(store, 'INBOX', mail(1), mail(2), mail(3))
  await using inbox = await session.open('INBOX')
  await inbox.changeFlags(UidSet.of(1), { add: 1 })
  await inbox.expunge(UidSet.of(1), { force: true })
  expect((await fs.stat(LEDGER))!.tag).toBe(tag)
  // The first message that goes another way, and no other.
  await inbox.copy(UidSet.of(2), 'Job')
  const linked = (await fs.stat(LEDGER))!.tag
  expect(linked).not.toBe(tag)
  await inbox.move(UidSet.of(2, 3), 'Job')
  expect((await fs.stat(LEDGER))!.tag).toBe(linked)
  expect((await read(fs)).links?.get(session.mailbox('INBOX')!.guid)).toEqual(new Set([guid]))

  await session.changeAcl('Job', () => undefined)
  await session.remove('Job/Plans')
  const { values } = await read(fs)
  expect([aclKey(guid), aclKey(child.guid), mailboxKey(child.guid)].filter((key) => values.has(key))).toEqual([])
})

test('a change that the ledger could not take is not acknowledged, and the next one takes it along', async () => {
  const fs = memoryFs()
  await (await open(fs))[Symbol.asyncDispose]()
  const failing = faultyFs(fs, failNth({ operation: 'writeFile', nth: 1, path: /^ledger$/, fault: 'FS_NO_SPACE' }))
  await using store = await open(failing)
  const session = store.as(anna)
  await expect(session.create('Work')).rejects.toMatchObject({ name: 'StoreError' })
  const work = session.mailbox('Work')!
  expect((await read(fs)).values.has(mailboxKey(work.guid))).toBe(false)
  await session.changeAcl('INBOX', () => Buffer.of(1))
  const { values } = await read(fs)
  expect([mailboxKey(work.guid), aclKey(session.mailbox('INBOX')!.guid)].filter((key) => !values.has(key))).toEqual([])
})

test.each(['gone', 'damaged', 'older'])(
  'a ledger that is %s is as the tree again once the store is opened',
  async (how) => {
    const fs = memoryFs()
    {
      await using store = await open(fs)
      await store.as(anna).create('Work')
    }
    const older = await fs.readFile(LEDGER)
    {
      await using store = await open(fs)
      await store.as(anna).changeAcl('Work', () => Buffer.of(1))
    }
    const { version, values } = await read(fs)
    if (how === 'gone') await fs.remove(LEDGER)
    else if (how === 'older') await fs.writeFile(LEDGER, older)
    else await fs.writeFile(LEDGER, older.subarray(1))
    {
      await using store = await open(fs, { create: false, readOnly: true })
      const kinds = (await Array.fromAsync(store.check())).flat().map(({ kind }) => kind)
      expect(kinds).toEqual(how === 'damaged' ? ['ledger'] : [])
    }
    await (await open(fs))[Symbol.asyncDispose]()
    const after = await read(fs)
    expect([after.version, after.values]).toEqual([version, values])
    // Where it was lost, nobody knows where messages went before.
    expect(after.links === undefined).toBe(how !== 'older')
  },
)
