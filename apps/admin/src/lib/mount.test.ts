import { mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test, vi } from 'vitest'
import { run } from './run.ts'

const directory = realpathSync(mkdtempSync(join(tmpdir(), 'mailstead-mount-command-')))
afterAll(() => rmSync(directory, { recursive: true }))

async function mailstead(...args: readonly string[]): Promise<string> {
  const written: string[] = []
  const collect = (chunk: string | Uint8Array): boolean => written.push(String(chunk)) > 0
  const spies = [process.stdout, process.stderr].map((stream) => vi.spyOn(stream, 'write').mockImplementation(collect))
  try {
    const code = await run(args)
    return `${code} ${written.join('')}`
  } finally {
    for (const spy of spies) spy.mockRestore()
  }
}

test('the list of mounts is kept by the command, and what it says is minded by the others', async () => {
  const [data, state, config] = [
    join(directory, 'mnt/mail'),
    join(directory, 'state'),
    join(directory, 'mailstead.toml'),
  ]
  const mnt = join(directory, 'mnt')
  mkdirSync(mnt)
  writeFileSync(config, 'data = "mnt/mail"\nstate = "state"\n')
  expect(await mailstead('mount', 'list')).toMatch(/^2 .*nobody keeps a list/)
  expect(await mailstead('mount', 'list', '--state', state)).toBe('0 ')
  expect(await mailstead('mount', 'add', join(mnt, 'nowhere'), '--config', config)).toMatch(/^1 mailstead: /)
  // A directory of the same file system: nothing is mounted there.
  expect(await mailstead('mount', 'add', mnt, '--config', config)).toMatch(new RegExp(`^0 ${mnt}: online, absent: `))
  expect(await mailstead('mount', 'list', '--config', config)).toMatch(/^1 .*online, absent/)
  expect(JSON.parse((await mailstead('mount', 'list', '--json', '--state', state)).slice(2))).toMatchObject({
    mounts: [{ path: mnt, state: 'online', observed: 'absent', origin: 'added', mail: true }],
  })
  expect(await mailstead('mount', 'accept', mnt, '--config', config)).toMatch(/^1 mailstead: /)

  // Nothing is made under it.
  expect(await mailstead('init', data, '--config', config)).toMatch(/^1 mailstead: /)
  expect(await mailstead('user', 'add', 'ann', '--users', join(mnt, 'users'), '--state', state)).toMatch(/^1 .*mounted/)
  expect(await mailstead('user', 'add', 'ann', '--users', join(mnt, 'users'), '--config', config)).toMatch(
    /^1 .*mounted/,
  )
  expect(readdirSync(mnt)).toEqual([])

  expect(await mailstead('mount', 'state', mnt, 'ignore', '--config', config)).toBe(`0 ${mnt}: ignore, unguarded\n`)
  expect(await mailstead('mount', 'state', '--config', config)).toBe(`0 ${mnt}: ignore, unguarded\n`)
  expect(await mailstead('mount', 'state', mnt, 'gone', '--config', config)).toMatch(/^2 /)
  expect(await mailstead('mount', 'list', '--config', config)).toMatch(/^0 /)
  expect(await mailstead('init', data, '--config', config)).toMatch(/^0 .*is a data directory now/)
  writeFileSync(join(data, 'users.passwd'), 'ann:{PLAIN}x\n')
  mkdirSync(join(data, 'users/ann'), { recursive: true })

  // From now on it is away on purpose.
  expect(await mailstead('mount', 'state', mnt, 'offline', '--config', config)).toMatch(/^0 .*: offline, /)
  for (const command of [['check'], ['repair'], ['rebuild', '--user', 'ann']])
    expect(await mailstead(...command, '--config', config), command[0]).toMatch(/^2 .*offline/)
  const ofAnn = ['--user', 'ann', '--config', config]
  for (const command of [
    ['mailbox', 'list'],
    ['acl', 'get', 'INBOX'],
    ['acl', 'set', 'INBOX', 'anyone', 'l'],
  ])
    expect(await mailstead(...command, ...ofAnn), command[0]).toMatch(/^1 .*offline/)
  expect(await mailstead('share', 'list', '--config', config)).toMatch(/^1 .*offline/)
  expect(await mailstead('user', 'add', 'bob', '--config', config)).toMatch(/^1 .*offline/)
  expect(readdirSync(join(data, 'users/ann'))).toEqual([])
  expect(await mailstead('mount', 'remove', mnt, '--config', config)).toMatch(/^0 /)
  expect(await mailstead('mount', 'remove', mnt, '--config', config)).toMatch(/^1 mailstead: /)
  expect(await mailstead('check', '--config', config)).toMatch(/^0 /)
})
