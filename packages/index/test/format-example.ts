/** The index that the documents of the formats show: the same bytes each time. */
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import { openIndex } from '../src/lib/open-index.ts'
import { createBoxAndInbox } from './schema.ts'

/** Every file of it, by path. */
export async function exampleFiles(): Promise<ReadonlyMap<string, Uint8Array>> {
  const fs = memoryFs()
  let seed = 1
  const options = {
    create: true,
    now: () => 1_700_000_000_000,
    random: (bytes: Uint8Array) => void bytes.fill(seed++),
  }
  {
    await using index = await openIndex(fs, '', options)
    await using tx = index.begin()
    createBoxAndInbox(tx)
    const ref = tx.append('box', { columns: { size: 1234 } })
    for (let n = 1; n <= 3; n++)
      tx.append('inbox', {
        flags: 8,
        keywords: n === 2 ? ['$Label1'] : [],
        columns: { ref, guid: new Uint8Array(16).fill(n) },
      })
    await tx.commit()
    await index.checkpoint()
    await using more = index.begin()
    more.changeFlags('inbox', UidSet.of(1, 3), { add: 1, remove: 8 })
    more.expunge('inbox', UidSet.of(2))
    more.setValue('inbox', 'name', Buffer.from('INBOX'))
    await more.commit()
    await using inbox = (await index.open('inbox'))!
    inbox.cacheWrite([{ uid: 1, guid: new Uint8Array(16).fill(1), fields: [['envelope', Buffer.from('(NIL)')]] }])
  }
  const files = new Map<string, Uint8Array>()
  await collect(fs, '', files)
  // Closed after more log than is read again: the list alone is written anew.
  {
    await using index = await openIndex(fs, '', { ...options, segmentBytes: 300 })
    for (const flag of [2, 4, 16]) {
      await using tx = index.begin()
      tx.changeFlags('inbox', UidSet.of(1), { add: flag })
      await tx.commit()
    }
  }
  files.set('later/tables/directory', await fs.readFile('tables/directory'))
  return files
}

async function collect(fs: Fs, directory: string, files: Map<string, Uint8Array>): Promise<void> {
  for await (const page of fs.list(directory))
    for (const { name, kind } of page) {
      const path = directory === '' ? name : `${directory}/${name}`
      if (kind === 'directory') await collect(fs, path, files)
      else if (!['lock', 'open', 'checkpoint'].includes(name)) files.set(path, await fs.readFile(path))
    }
}
