import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { dovecotLack, startDovecot } from '../tests/interop/lib/servers.ts'
import { corpusLack } from '../tests/support/corpus.ts'
import { testUnless } from '../tests/support/test-unless.ts'
import { boxCases, type BoxSizes, counted, FILLED, filling } from './box-cases.ts'
import { largeTask } from './box-large-child.ts'
import { type BoxKind, type BoxSide, DovecotBoxes, OurBoxes } from './box-sides.ts'

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

const EXPECTED_SDBOX: Readonly<Record<string, number>> = {
  'box sdbox save 1 writer': 45,
  'box sdbox save 16 writers': 72,
  'box sdbox read sequential': 40,
  'box sdbox read random': 40,
  'box sdbox copy 20': 20,
  'box sdbox expunge 20': 20,
  'box sdbox expunge and purge 20': 20,
  'box sdbox rebuild, nothing lost': 40,
  'box sdbox rebuild, index lost': 40,
}

async function provesCases(side: BoxSide, kind: BoxKind): Promise<void> {
  await side.fill(FILLED, filling(SIZES.filled))
  const answers: Record<string, number> = {}
  for (const one of boxCases(SIZES, kind)) {
    expect(one.row.startsWith('box ')).toBe(true)
    await using prepared = await one.prepare(side, 'user')
    expect(await prepared.run()).toBeGreaterThan(0)
    answers[one.row] = await prepared.answer()
  }
  expect(answers).toEqual(kind === 'mdbox' ? EXPECTED : EXPECTED_SDBOX)
  expect(side.cpuMicros()).toBeGreaterThan(0)
  expect(existsSync(side.home('user'))).toBe(false)
}

function scratch(): { readonly directory: string } & Disposable {
  const directory = mkdtempSync(join(tmpdir(), 'mailstead-bench-'))
  return { directory, [Symbol.dispose]: () => rmSync(directory, { recursive: true }) }
}

for (const kind of ['mdbox', 'sdbox'] as const) {
  test(`each case of message files does on our side what it is measured by, ${kind}`, async () => {
    using made = scratch()
    const side = new OurBoxes(made.directory, kind)
    await provesCases(side, kind)
    const { from, to, operations } = await counted(boxCases(SIZES, kind)[0]!, side)
    expect([operations, to > from]).toEqual([SIZES.saves, true])
  })

  testUnless(dovecotLack(), `each case of message files does the same on the side of Dovecot, ${kind}`, async () => {
    await using server = await startDovecot({ box: kind })
    await provesCases(new DovecotBoxes(server, kind), kind)
  })
}

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
