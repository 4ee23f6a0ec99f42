import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { SIS_CASES } from './sis-cases.ts'

test('both sides of each case of attachments do what they are measured by', async () => {
  expect(new Set(SIS_CASES.map(({ row }) => row)).size).toBe(SIS_CASES.length)
  for (const one of SIS_CASES) {
    expect(one.row.startsWith('sis ')).toBe(true)
    const directory = mkdtempSync(join(tmpdir(), 'mailstead-bench-'))
    {
      await using prepared = await one.prepare(directory)
      for (const side of ['ours', 'raw'] as const) await prepared[side](1)
    }
    rmSync(directory, { recursive: true })
  }
})
