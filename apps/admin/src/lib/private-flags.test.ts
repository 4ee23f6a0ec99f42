import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { run } from './run.ts'

const scratch = mkdtempSync(join(tmpdir(), 'mailstead-private-'))
const config = join(scratch, 'mailstead.toml')
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

async function mailstead(...args: string[]): Promise<[code: number, out: string]> {
  const out: string[] = []
  const collect = (chunk: string | Uint8Array): boolean => out.push(String(chunk)) > 0
  const spies = [process.stdout, process.stderr].map((stream) => vi.spyOn(stream, 'write').mockImplementation(collect))
  try {
    return [await run([...args, '--config', config]), out.join('')]
  } finally {
    for (const spy of spies) spy.mockRestore()
  }
}

beforeAll(async () => {
  const namespace = '[[namespace]]\nkind = "public"\nprefix = "Public/"\npath = "team"\n'
  writeFileSync(config, `data = "data"\nusers = "users"\n${namespace}`)
  writeFileSync(join(scratch, 'users'), 'alice:{PLAIN}secret\n')
  await run(['init', join(scratch, 'data')])
})

test('a policy is set, shown, inherited and taken away', async () => {
  const where = ['--namespace', 'Public/']
  expect(await mailstead('private', 'set', '', 'shared', '\\Seen', '$Label*', ...where)).toEqual([0, ''])
  expect(await mailstead('private', 'get', 'INBOX', ...where)).toEqual([0, 'shared \\Seen $Label*\n'])
  expect(await mailstead('private', 'set', 'INBOX', 'private consent:\\Deleted', ...where)).toEqual([0, ''])
  const json = '{"mailbox":"INBOX","policy":"private consent:\\\\Deleted"}\n'
  expect(await mailstead('private', 'get', 'INBOX', '--json', ...where)).toEqual([0, json])
  expect(await mailstead('private', 'clear', 'INBOX', ...where)).toEqual([0, ''])
  expect(await mailstead('private', 'get', 'INBOX', ...where)).toEqual([0, 'shared \\Seen $Label*\n'])
})

test('what makes no sense is said, and nothing is changed', async () => {
  const where = ['--user', 'alice']
  expect(await mailstead('private', 'set', 'INBOX', 'shared', '\\Seen', ...where)).toEqual([0, ''])
  const [code, said] = await mailstead('private', 'set', 'INBOX', 'shared', '\\Sene', ...where)
  expect([code, said]).toEqual([2, 'mailstead: \\Sene is no flag that can be kept\n'])
  const unquoted = await mailstead('private', 'set', 'INBOX', 'shared', 'Seen', ...where)
  expect(unquoted).toEqual([
    2,
    "mailstead: Seen is a keyword; for the flag write '\\Seen', in quotes that the shell keeps\n",
  ])
  expect(await mailstead('private', 'get', 'INBOX', ...where)).toEqual([0, 'shared \\Seen\n'])
  expect((await mailstead('private', 'get', 'nowhere', ...where))[0]).not.toBe(0)
})
