/** A store whose messages are in an sdbox, and what its files must tell without any index. */
import type { BoxFormat } from '@mailstead/box'
import { memoryTable } from '@mailstead/box/testing'
import type { Fs } from '@mailstead/fs'
import { sdbox } from '@mailstead/mdbox/sdbox'
import type { Picture, StateBox } from './store-states.ts'

export const STORAGE = 'storage'
export const formatOf = (fs: Fs): BoxFormat => sdbox(fs, STORAGE)

/** Which message each file says it is, without any index: `<GUID of the mailbox> <UIDVALIDITY> <UID> <GUID of the message>`. */
async function named(fs: Fs): Promise<Set<string>> {
  const format = formatOf(fs)
  const found = new Set<string>()
  await using box = await format.open(memoryTable(format.columns).process().host)
  for await (const page of box.scan())
    for (const { file, origin, guid, damage, expunged } of page) {
      if (expunged === true) continue
      const mailbox = Buffer.from(origin?.mailbox ?? []).toString('hex')
      const id = Buffer.from(guid ?? []).toString('hex')
      // What was written and never acknowledged has no name.
      if (file.startsWith('unnamed/') && origin?.uid === undefined) continue
      found.add(
        `${mailbox} ${origin?.uidValidity} ${origin?.uid} ${id}${damage === undefined ? '' : ` DAMAGED ${damage}`}`,
      )
    }
  return found
}

async function afterwards(disk: Fs, shown: Picture): Promise<readonly string[]> {
  const expected = new Set<string>()
  for (const { guid, uidValidity, rows } of shown.mailboxes.values())
    for (const row of rows) {
      const parts = row.split(' ')
      expected.add(`${guid} ${uidValidity} ${parts[0]} ${parts.at(-2)}`)
    }
  const found = await named(disk)
  return [
    ...[...expected].filter((one) => !found.has(one)).map((one) => `no file is ${one}`),
    ...[...found].filter((one) => !expected.has(one)).map((one) => `a file is ${one}, which no mailbox has`),
  ]
}

export const namedBox: StateBox = { box: formatOf, afterwards }
