import { memoryFs } from '@mailstead/fs/memory'
import { expect, test } from 'vitest'
import type { CacheField, Store } from './contract.ts'
import { plainBox } from './plain-box.ts'
import { BATCH_FIELDS_MAX } from './save.ts'
import { openStore } from './store.ts'

const FIELD_BYTES = 1024 * 1024

test('a batch computes and keeps a bounded amount of derived fields; every message is kept', async () => {
  let computed = 0
  await using store = await openStore({
    owner: 'anna',
    fs: memoryFs(),
    box: (root) => plainBox(root, 'storage'),
    cacheFields: [
      {
        name: 'large',
        compute: () => {
          computed++
          return Buffer.alloc(FIELD_BYTES)
        },
      },
    ],
    create: true,
  })
  await using batch = store.as({ name: 'anna' }).save()
  const count = 40
  for (let at = 0; at < count; at++)
    await batch.add(Buffer.from(`Subject: ${at}\r\n\r\nbody\r\n`), [{ mailbox: 'INBOX' }])
  expect((await batch.commit()).length).toBe(count)
  expect(computed).toBe(BATCH_FIELDS_MAX / FIELD_BYTES)
})

test('a field that a mailbox keeps of no message is not computed when one is saved, until somebody asks for it', async () => {
  const dayMs = 86_400_000
  let now = 20_000 * dayMs
  const computed: string[] = []
  const field = (name: string, decision: 'no' | 'temp' | 'yes'): CacheField => ({
    name,
    decision,
    compute: () => {
      computed.push(name)
      return Buffer.from(name)
    },
  })
  const fs = memoryFs()
  const open = (): Promise<Store> =>
    openStore({
      owner: 'anna',
      fs,
      box: (root) => plainBox(root, 'storage'),
      cacheFields: [field('never', 'no'), field('recent', 'temp'), field('always', 'yes')],
      create: true,
      now: () => now,
    })
  const save = async (store: Store): Promise<string[]> => {
    computed.length = 0
    await using batch = store.as({ name: 'anna' }).save()
    await batch.add(Buffer.from('Subject: x\r\n\r\nbody\r\n'), [{ mailbox: 'INBOX' }])
    await batch.commit()
    return [...computed]
  }
  {
    await using store = await open()
    expect(await save(store)).toEqual(['recent', 'always'])
    await using inbox = await store.as({ name: 'anna' }).open('INBOX')
    expect(inbox.view.cache('never').value(0)).toBeUndefined()
    // What is computed again is all there is, for whoever asked.
    expect([...(await inbox.recompute(inbox.view, 0)).keys()]).toEqual(['never', 'recent', 'always'])
    expect(Buffer.from(inbox.view.cache('never').value(0)!).toString()).toBe('never')
    expect(await save(store)).toEqual(['never', 'recent', 'always'])
    inbox.table.forceCache('always', 'no')
    expect(await save(store)).toEqual(['never', 'recent'])
  }
  // Who only delivers knows it too; and what nobody asks for is not computed for ever.
  {
    await using store = await open()
    expect(await save(store)).toEqual(['never', 'recent'])
  }
  now += 61 * dayMs
  await using store = await open()
  expect(await save(store)).toEqual([])
  await using inbox = await store.as({ name: 'anna' }).open('INBOX')
  expect(inbox.table.cacheFields().map(({ name, decision }) => [name, decision])).toEqual([
    ['never', 'no'],
    ['recent', 'no'],
    ['always', 'no'],
  ])
})
