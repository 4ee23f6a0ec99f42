/** Run by `memory.test.ts` in a process of its own: makes a store with many messages, or rebuilds one that lost `what`, and says what that took. */
import { rmSync } from 'node:fs'
import { posixFs } from '@mailstead/fs/posix'
import { mdbox } from '@mailstead/mdbox'
import { openStore, rebuildStore } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'

const [task, directory, count] = process.argv.slice(2) as [string, string, string]
const fs = await posixFs(directory)
const box = (root: typeof fs): ReturnType<typeof mdbox> => mdbox(root, 'storage')
if (task === 'make') {
  await using store = await openStore({ owner: 'anna', fs, box, create: true })
  const session = store.as({ name: 'anna' })
  for (let n = 0; n < 10; n++) await session.create(`Folder ${n}`)
  const text = Buffer.alloc(8_000, 'what was said of it\r\n')
  for (let n = 0; n < Number(count); ) {
    await using batch = session.save()
    for (let i = 0; i < 500 && n < Number(count); i++, n++) {
      const mailbox = n % 3 === 0 ? 'INBOX' : `Folder ${n % 10}`
      await batch.add(Buffer.concat([Buffer.from(`Subject: ${n}\r\n\r\n`), text.subarray(0, (n * 7_919) % 8_000)]), [
        { mailbox },
      ])
    }
    await batch.commit()
  }
  await using inbox = await session.open('INBOX')
  await inbox.expunge(UidSet.range(1, Math.floor(Number(count) / 20)), { force: true })
  await store.checkpoint()
} else {
  rmSync(task === 'map' ? `${directory}/index/tables/box.snap` : `${directory}/index`, { recursive: true })
  if (task === 'map') rmSync(`${directory}/index/log`, { recursive: true })
  const begin = performance.now()
  let rows = 0
  for await (const page of rebuildStore({ fs, box }))
    for (const { kind, field, mailbox } of page)
      if (mailbox !== undefined && kind === 'changed' && (field === 'row' || field === 'box')) rows++
  const seconds = (performance.now() - begin) / 1_000
  const { user, system } = process.cpuUsage()
  const megabytes = process.resourceUsage().maxRSS / 1_024
  process.stdout.write(JSON.stringify({ rows, seconds, cpu: (user + system) / 1e6, megabytes }))
}
