import { memoryFs } from '@mailstead/fs/memory'
import { sdbox } from '@mailstead/mdbox/sdbox'
import { openStore, rebuildStore } from '@mailstead/store'
import { expect, test } from 'vitest'

const OWNER = { name: 'anna' }

test('a mailbox that is above another is itself again, whichever of their messages is found first', async () => {
  // Directories are gone through by the GUIDs of their mailboxes, which are drawn: in some of these stores the one below comes first.
  for (let round = 0; round < 6; round++) {
    await using fs = memoryFs()
    const box = (root: typeof fs): ReturnType<typeof sdbox> => sdbox(root, 'storage')
    const shown = async (): Promise<unknown> => {
      await using store = await openStore({ owner: OWNER.name, fs, box })
      const list = store.as(OWNER).mailboxes()
      return list.map(({ name, guid, uidValidity, count }) => ({ name, guid, uidValidity, count }))
    }
    {
      await using store = await openStore({ owner: OWNER.name, fs, box, create: true })
      const session = store.as(OWNER)
      await session.create('Lists')
      await session.create('Lists/dev')
      await using batch = session.save()
      for (const mailbox of ['INBOX', 'Lists', 'Lists/dev', 'Lists'])
        await batch.add(Buffer.from(`Subject: to ${mailbox}\r\n\r\n`), [{ mailbox }])
      await batch.commit()
    }
    const before = await shown()
    const files: string[] = []
    for (const directory of ['index', 'index/log', 'index/tables'])
      for await (const page of fs.list(directory))
        for (const { name, kind } of page) if (kind !== 'directory') files.push(`${directory}/${name}`)
    for (const file of files) await fs.remove(file)
    for await (const _ of rebuildStore({ fs, box }));
    expect(await shown()).toEqual(before)
    const again = (await Array.fromAsync(rebuildStore({ fs, box }))).flat()
    expect(again.filter(({ kind }) => kind !== 'note')).toEqual([])
  }
})
