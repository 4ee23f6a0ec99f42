/**
 * The last group of a log that somebody else cut off, in a store whose server was killed: nobody can tell that from a group that
 * was never acknowledged. What shows is that message bytes are there that no row names.
 */
import { cpSync, mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test, vi } from 'vitest'
import { run } from '../../apps/admin/src/index.ts'
import { openUserStore } from '../../apps/server/src/index.ts'

const LOG = 'users/ann/index/log/0000000000000001.log'

/** What `mailstead check` says, and how it ends. */
async function check(data: string): Promise<{ readonly code: number; readonly findings: readonly string[] }> {
  const lines: string[] = []
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((text) => lines.push(String(text)) > 0)
  try {
    const code = await run(['check', '--data', data])
    const findings = lines
      .join('')
      .split('\n')
      .filter((line) => line.startsWith('ann: '))
    return { code, findings }
  } finally {
    write.mockRestore()
  }
}

test('the loss of the last group is a note in an unsealed store, and damage in a sealed one', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'mailstead-lost-'))
  try {
    const data = join(directory, 'data')
    await run(['init', data])
    writeFileSync(join(data, 'users.passwd'), 'ann:{PLAIN}secret\n', { mode: 0o600 })
    let before = 0
    {
      await using storage = await openUserStore(data, { name: 'ann' }, { create: true })
      for (const subject of ['one', 'two', 'three']) {
        before = subject === 'one' ? 0 : statSync(join(data, LOG)).size
        await using batch = storage.store.as({ name: 'ann' }).save()
        await batch.add(Buffer.from(`Subject: ${subject}\r\n\r\nhello\r\n`), [{ mailbox: 'INBOX' }])
        await batch.commit()
      }
      // What a server leaves that is killed here.
      cpSync(data, join(directory, 'killed'), { recursive: true })
    }
    const cut = async (from: string, length: number): ReturnType<typeof check> => {
      const copy = join(directory, 'cut')
      rmSync(copy, { recursive: true, force: true })
      cpSync(join(directory, from), copy, { recursive: true })
      truncateSync(join(copy, LOG), length)
      return check(copy)
    }
    const { size } = statSync(join(directory, 'killed', LOG))
    expect(await cut('killed', size)).toEqual({ code: 0, findings: [] })
    const lost = /^ann: note: dead-bytes m\.1 at 0: \d+ of \d+ bytes are not named by any row$/
    expect(await cut('killed', before)).toEqual({ code: 0, findings: [expect.stringMatching(lost)] })
    expect(await cut('killed', size - 1)).toEqual({
      code: 0,
      findings: [expect.stringMatching(/^ann: note: torn-tail index\/log/), expect.stringMatching(lost)],
    })
    const sealed = await cut('data', before)
    expect(sealed.code).toBe(1)
    expect(sealed.findings.join('\n')).toMatch(
      /^ann: damage: .*the log was closed with frame \d+ and now ends with \d+/m,
    )
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
})
