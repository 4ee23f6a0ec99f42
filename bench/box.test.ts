import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { dovecotLack, startDovecot } from '../tests/interop/lib/servers.ts'
import { corpusLack } from '../tests/support/corpus.ts'
import { testUnless } from '../tests/support/test-unless.ts'
import { boxCases, type BoxSizes, counted, FILLED, filling } from './box-cases.ts'
import { largeTask } from './box-large-child.ts'
import { type BoxSide, DovecotBoxes, OurBoxes } from './box-sides.ts'

const SIZES: BoxSizes = { filled: 40, saves: 4, singles: 20 }
/** What INBOX, or the copy of it, has in the end. */
const EXPECTED: Readonly<Record<string, number>> = {
  'box save 1 writer': 45,
  'box save 16 writers': 72,
  'box read sequential': 40,
  'box read random': 40,
  'box copy 20': 20,
  'box expunge 20': 20,
  'box purge 20 of 40': 20,
  'box rebuild, nothing lost': 40,
  'box rebuild, index lost': 40,
}

async function provesCases(side: BoxSide): Promise<void> {
  await side.fill(FILLED, filling(SIZES.filled))
  const answers: Record<string, number> = {}
  for (const one of boxCases(SIZES)) {
    expect(one.row.startsWith('box ')).toBe(true)
    await using prepared = await one.prepare(side, 'user')
    expect(await prepared.run()).toBeGreaterThan(0)
    answers[one.row] = await prepared.answer()
  }
  expect(answers).toEqual(EXPECTED)
  expect(side.cpuMicros()).toBeGreaterThan(0)
  expect(existsSync(side.home('user'))).toBe(false)
}

function scratch(): { readonly directory: string } & Disposable {
  const directory = mkdtempSync(join(tmpdir(), 'mailstead-bench-'))
  return { directory, [Symbol.dispose]: () => rmSync(directory, { recursive: true }) }
}

test('each case of message files does on our side what it is measured by', async () => {
  using made = scratch()
  const side = new OurBoxes(made.directory)
  await provesCases(side)
  const { from, to, operations } = await counted(boxCases(SIZES)[0]!, side)
  expect([operations, to > from]).toEqual([SIZES.saves, true])
})

testUnless(dovecotLack(), 'each case of message files does the same on the side of Dovecot', async () => {
  await using server = await startDovecot()
  await provesCases(new DovecotBoxes(server))
})

testUnless(corpusLack(), 'each task over a large store is about all of its messages', async () => {
  using made = scratch()
  const { directory } = made
  const { bytes } = await largeTask('make', directory, 100)
  expect(bytes).toBeGreaterThan(100_000)
  for (const task of ['there', 'back', 'rebuild'] as const)
    expect((await largeTask(task, directory, 100)).messages).toBe(100)
  for (const task of ['read', 'checksum'] as const)
    expect((await largeTask(task, directory, 100)).bytes).toBeGreaterThan(bytes / 2)
  expect((await largeTask('expunge', directory, 100)).messages).toBe(50)
  expect((await largeTask('purge', directory, 100)).messages).toBeGreaterThan(0)
})
