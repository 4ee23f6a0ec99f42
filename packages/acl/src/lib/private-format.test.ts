import { readFileSync } from 'node:fs'
import { memoryFs } from '@mailstead/fs/memory'
import type { TableView } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { expect, test } from 'vitest'
import { createShared, KEY, MAILBOX, openHandle } from '../../test/private-world.ts'
import { decodePrivacyPolicy, encodePrivacyPolicy, formatPrivacyPolicy, type PrivacyPolicy } from './private-policy.ts'
import { decodeModSeq, flagsTable, keyOfTable, orderTable } from './private-tables.ts'

const page = readFileSync(new URL('../../../../docs/formats/private-flags.md', import.meta.url), 'utf8')

test('the examples in docs/formats/private-flags.md are what is written', async () => {
  const bytes = Uint8Array.from({ length: 16 }, (_, i) => i)
  const key = { store: bytes, mailbox: Buffer.from(bytes).toString('hex') }
  expect(page).toContain(`\n${flagsTable(key).slice('private-'.length)}\n`)
  expect(orderTable(key).slice('order-'.length)).toBe(flagsTable(key).slice('private-'.length))
  expect(keyOfTable(flagsTable(key))).toEqual({ store: bytes, mailbox: key.mailbox })

  const hex = [...page.matchAll(/^[0-9a-f]{8} {2}([0-9a-f ]{48})/gm)]
    .map(([, line]) => line!.replaceAll(' ', ''))
    .join('')
  const stored = Buffer.from(hex, 'hex')
  const policy = decodePrivacyPolicy(stored) as PrivacyPolicy
  expect(formatPrivacyPolicy(policy)).toBe('shared \\Seen $Label* consent:\\Deleted')
  expect(policy.since).toBe(258)
  expect(Buffer.from(encodePrivacyPolicy(policy)).equals(stored)).toBe(true)

  const fs = memoryFs()
  await using shared = await createShared(fs)
  await using tx = shared.begin()
  tx.appendRows(MAILBOX, { count: 3 })
  await tx.commit()
  await using ann = await openHandle({ user: 'ann', sharedFs: fs, ownFs: fs, policy: { ...policy, since: 0 } })
  await ann.overlay.changeFlags(UidSet.of(2), { add: 8 })
  await using other = shared.begin()
  other.changeFlags(MAILBOX, UidSet.of(3), { add: 2 })
  await other.commit()
  await ann.overlay.changeFlags(UidSet.of(1), { addKeywords: ['$Label1'] })
  await ann.overlay.changeFlags(UidSet.of(3), { add: 8 })
  await using flags = (await ann.own.open(flagsTable(KEY)))!
  await using order = (await ann.own.open(orderTable(KEY)))!
  const values = flags.view.values
  const column = order.view.extension('shared')!
  expect(page).toContain(
    [
      `private  ${rowsOf(flags.view)}   uidnext ${flags.view.uidNext}  mask ${values.get('mask')![0]}  shared ${decodeModSeq(values.get('shared'))}`,
      `order    ${Array.from({ length: order.view.count }, (_, row) => `${order.view.uid(row)}:${column.number(row)}`).join(' ')}   uidnext ${order.view.uidNext}`,
      `shown    ${shown(ann.overlay.view)}   highest ${ann.overlay.view.highestModSeq}`,
    ].join('\n'),
  )
})

function rowsOf(view: TableView): string {
  return Array.from({ length: view.count }, (_, row) => {
    const names = view.keywordSets[view.keywordSet(row)]!.map((k) => view.keywords[k]!.toLowerCase())
    return `${view.uid(row)}:m${view.modSeq(row)}:f${view.flags(row)}:${names.join(',')}`
  }).join(' ')
}

function shown(view: TableView): string {
  return Array.from({ length: view.count }, (_, row) => `${view.uid(row)}:m${view.modSeq(row)}`).join(' ')
}
