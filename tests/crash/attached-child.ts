/**
 * A process of attached-processes.test.ts: works on one store for a number of steps and says what was acknowledged.
 *
 *   saved <UID> <content>     expunging <UID>     purged     swept     refused
 */
import { writeSync } from 'node:fs'
import { posixFs } from '@mailstead/fs/posix'
import { seeded } from '../support/depth.ts'
import { UidSet } from '@mailstead/uidset'
import { StoreError } from '@mailstead/store'
import { ANNA, openAttached } from '../store/attached-world.ts'
import { contentMail, CONTENTS, GRACE_MS, storeAt } from './attached-contents.ts'

const [root, owner, box, seed, steps] = process.argv.slice(2) as [string, string, 'mdbox' | 'sdbox', string, string]
const random = seeded(Number(seed))
const below = (limit: number): number => Math.floor(random() * limit)
const tell = (line: string): void => void writeSync(1, `${line}\n`)

await using fs = await posixFs(storeAt(root, owner))
await using blobs = await posixFs(root)
await using store = await openAttached(
  { fs, blobs, clock: { ms: 0 }, box, attachments: { shared: true, graceMs: GRACE_MS, now: Date.now } },
  { now: Date.now, create: true },
)
const session = store.as(ANNA)
const own: number[] = []
for (let step = 0; step < Number(steps); step++) {
  const what = random()
  try {
    if (what < 0.55 || own.length === 0) {
      const content = below(CONTENTS)
      await using batch = session.save()
      await batch.add(contentMail(content), [{ mailbox: 'INBOX' }])
      const [saved] = await batch.commit()
      own.push(saved!.uid)
      tell(`saved ${saved!.uid} ${content}`)
    } else if (what < 0.8) {
      const [uid] = own.splice(below(own.length), 1)
      tell(`expunging ${uid!}`)
      await using inbox = await session.open('INBOX')
      await inbox.expunge(UidSet.of(uid!), { force: true })
    } else if (what < 0.9) {
      await store.purge()
      tell('purged')
    } else {
      await store.sweepAttachments()
      tell('swept')
    }
  } catch (error) {
    // Slower than the grace period, which is very short here: nothing was kept.
    if (!(error instanceof StoreError && error.code === 'STORE_UNAVAILABLE')) throw error
    tell(`refused ${error.message.replaceAll('\n', ' ')}`)
  }
}
