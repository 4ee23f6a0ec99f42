import { readFileSync } from 'node:fs'
import { memoryFs } from '@mailstead/fs/memory'
import type { TableView } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { expect, test } from 'vitest'
import { createShared, KEY, MAILBOX, openHandle } from '../../test/private-world.ts'
import { decodePrivacyPolicy, encodePrivacyPolicy, formatPrivacyPolicy, type PrivacyPolicy } from './private-policy.ts'
import { makeMoved, MOVED_COLUMNS, MOVED_MAX, MOVED_TABLE, noteMoved } from './private-moves.ts'
import { decodeModSeq, flagsTable, followedTable, keyOfTable, orderTable, privateColumns } from './private-tables.ts'

const page = readFileSync(new URL('../../../../docs/formats/private-flags.md', import.meta.url), 'utf8')

test('the examples in docs/formats/private-flags.md are what is written', async () => {
  const bytes = Uint8Array.from({ length: 16 }, (_, i) => i)
  const key = { store: bytes, mailbox: Buffer.from(bytes).toString('hex') }
  expect(page).toContain(`\n${flagsTable(key).slice('private-'.length)}\n`)
  expect(orderTable(key).slice('order-'.length)).toBe(flagsTable(key).slice('private-'.length))
  expect(keyOfTable(flagsTable(key))).toEqual({ store: bytes, mailbox: key.mailbox })

  const stored = dump(0)
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

test('a move is noted by runs, in its own frame, as docs/formats/private-flags.md has it', async () => {
  const bytes = Uint8Array.from({ length: 16 }, (_, i) => i)
  const [from, to] = [bytes, bytes.map((byte) => byte + 16)].map((guid) => Buffer.from(guid).toString('hex'))
  expect(page).toContain(`\n${followedTable(bytes).slice('moved-'.length)}\n`)
  expect(privateColumns(followedTable(bytes))).toEqual([])
  expect(privateColumns(MOVED_TABLE)).toBeUndefined()
  await using shared = await createShared(memoryFs())
  await makeMoved(shared)
  await makeMoved(shared)
  const note = async (source: UidSet, first?: number): Promise<boolean> => {
    await using tx = shared.begin()
    const copies = first ?? [...source].map(() => tx.append(MAILBOX, {}))
    const isNoted = noteMoved(shared, tx, { from: from!, to: to!, source, copies })
    await tx.commit()
    return isNoted
  }
  expect(await note(UidSet.range(7, 9), 3)).toBe(true)
  expect(await note(UidSet.of(1, 4, 5), undefined)).toBe(true)
  await using table = (await shared.open(MOVED_TABLE))!
  const columns = MOVED_COLUMNS.map(({ name }) => table.view.extension(name)!)
  expect(Buffer.concat(columns.map((column) => column.value(0)))).toEqual(dump(1))
  const numbers = (row: number): number[] => columns.slice(2).map((column) => column.number(row))
  expect([numbers(0), numbers(1), numbers(2)]).toEqual([
    [7, 3, 3],
    [1, 1, 1],
    [4, 2, 2],
  ])
  // No more are kept than are allowed, and what is noted last is always among them.
  const every = (count: number): UidSet => UidSet.of(...Array.from({ length: count }, (_, i) => 2 * i + 1))
  expect(await note(every(MOVED_MAX + 1), 1)).toBe(false)
  for (const count of [MOVED_MAX - 3, 1, MOVED_MAX / 2, 1, MOVED_MAX]) {
    expect(await note(every(count), 1)).toBe(true)
    const { view } = table
    expect(view.count).toBeLessThanOrEqual(MOVED_MAX)
    expect(view.count).toBeGreaterThanOrEqual(count)
    expect(view.uid(view.count - 1)).toBe(view.uidNext - 1)
  }
})

/** Bytes of the hex examples, in their order. */
function dump(n: number): Buffer {
  const [, text] = [...page.matchAll(/```hex\n([^`]*)```/g)][n]!
  const lines = [...text!.matchAll(/^[0-9a-f]{8} {2}([0-9a-f ]{48})/gm)]
  return Buffer.from(lines.map(([, line]) => line!.replaceAll(' ', '')).join(''), 'hex')
}

function rowsOf(view: TableView): string {
  return Array.from({ length: view.count }, (_, row) => {
    const names = view.keywordSets[view.keywordSet(row)]!.map((k) => view.keywords[k]!.toLowerCase())
    return `${view.uid(row)}:m${view.modSeq(row)}:f${view.flags(row)}:${names.join(',')}`
  }).join(' ')
}

function shown(view: TableView): string {
  return Array.from({ length: view.count }, (_, row) => `${view.uid(row)}:m${view.modSeq(row)}`).join(' ')
}
