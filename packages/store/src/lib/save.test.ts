import { memoryFs } from '@mailstead/fs/memory'
import { expect, test } from 'vitest'
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
