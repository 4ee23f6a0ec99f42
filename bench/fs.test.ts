import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { FS_CASES } from './fs-cases.ts'

test('both sides of each case of the file systems do what they are measured by', async () => {
  expect(new Set(FS_CASES.map(({ row }) => row)).size).toBe(FS_CASES.length)
  for (const one of FS_CASES) {
    expect(one.row.startsWith('fs ')).toBe(true)
    const directory = mkdtempSync(join(tmpdir(), 'mailstead-bench-'))
    await using prepared = await one.prepare(directory)
    for (const side of ['ours', 'raw'] as const) await prepared[side](2)
    rmSync(directory, { recursive: true })
  }
})
