import { existsSync, mkdtempSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { posixFs } from '@mailstead/fs/posix'
import { repairIndex } from '@mailstead/index'
import { openUserStore, readConfig } from '@mailstead/app-server'
import { afterAll, expect, test, vi } from 'vitest'
import { run } from './run.ts'

const directory = mkdtempSync(join(tmpdir(), 'mailstead-altmove-'))
afterAll(() => rmSync(directory, { recursive: true }))
const data = join(directory, 'data')
const second = join(directory, 'second')
const config = join(directory, 'mailstead.toml')
const where = ['--config', config, '--user', 'ann']

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

async function bodies(): Promise<string[]> {
  await using opened = await openUserStore(data, { name: 'ann' }, { readOnly: true, settings: readConfig(config) })
  await using inbox = await opened.store.as({ name: 'ann' }).open('INBOX')
  const found: string[] = []
  for (let row = 0; row < inbox.view.count; row++)
    try {
      await using body = await inbox.body(inbox.view, row)
      const chunks = await Array.fromAsync(body.stream(0, body.size))
      found.push(/^Subject: (\S+)/.exec(Buffer.concat(chunks).toString())![1]!)
    } catch (error) {
      found.push((error as { readonly code: string }).code)
    }
  return found
}

const files = (): string[] =>
  existsSync(join(second, 'users/ann/storage'))
    ? readdirSync(join(second, 'users/ann/storage')).filter((name) => name.startsWith('m.'))
    : []

test('mail goes to the second tier and back; while that is not mounted it is unavailable, and nothing is made there', async () => {
  writeFileSync(
    config,
    `data = "data"\n[store]\ncompression = "auto"\n[alternate]\npath = "second"\nquery = "larger 1k"\n`,
  )
  expect(await mailstead('init', data)).toMatch(/^0 /)
  writeFileSync(join(data, 'users.passwd'), 'ann:{PLAIN}x\n')
  for (const [subject, size] of [
    ['small', 10],
    ['large', 20_000],
    ['larger', 200_000],
  ] as const) {
    const file = join(directory, subject)
    writeFileSync(file, `Subject: ${subject}\r\n\r\n${'words '.repeat(size / 5)}\r\n`)
    expect(await mailstead('deliver', ...where, file)).toMatch(/^0 INBOX/)
  }
  // A directory that nobody marked may be a mount point.
  mkdirSync(second)
  expect(await mailstead('altmove', ...where, 'all')).toMatch(/^1 .*second tier.*init --alternate/)
  expect(readdirSync(second)).toEqual([])
  expect(await mailstead('init', '--alternate', second)).toMatch(/^0 .*second tier now/)
  expect(await mailstead('init', '--alternate', second)).toMatch(/^0 .*already/)
  expect(await mailstead('init', '--alternate', data)).toMatch(/^1 .*marked as something else/)
  // Looking makes nothing.
  expect(await mailstead('check', ...where)).toMatch(/^0 .*0 findings/)
  expect(readdirSync(second)).toEqual(['mailstead-root'])

  expect(await mailstead('altmove', ...where)).toMatch(/^0 2 messages moved/)
  expect(files().length).toBeGreaterThan(0)
  expect(await bodies()).toEqual(['small', 'large', 'larger'])
  expect(await mailstead('check', ...where)).toMatch(/^0 .*0 findings/)

  // Not mounted: an empty directory, or one that is not there.
  for (const empty of [true, false]) {
    renameSync(second, `${second}.elsewhere`)
    if (empty) mkdirSync(second)
    expect(await bodies()).toEqual(['small', 'STORE_UNAVAILABLE', 'STORE_UNAVAILABLE'])
    expect(await mailstead('check', ...where)).toMatch(/^2 .*not all was looked at[\s\S]* 0 findings/)
    expect(await mailstead('altmove', ...where, '--back', 'all')).toMatch(/^1 /)
    expect(await mailstead('altmove', ...where, 'all')).toMatch(/^1 /)
    if (empty) expect(readdirSync(second)).toEqual([])
    rmSync(second, { recursive: true, force: true })
    renameSync(`${second}.elsewhere`, second)
  }
  expect(await bodies()).toEqual(['small', 'large', 'larger'])

  // Without its configuration, or while it is away, nothing is rebuilt.
  const bare = ['--data', data, '--user', 'ann']
  const text = /^2 .*second tier of the messages is not there.*[0-9a-f]{32}/
  for (const lost of ['index', 'nothing']) {
    const [index, aside] = [join(data, 'users/ann/index'), join(directory, 'index.aside')]
    if (lost === 'index') renameSync(index, aside)
    expect(await mailstead('rebuild', ...bare)).toMatch(text)
    expect(await mailstead('rebuild', '--dry-run', ...bare)).toMatch(text)
    renameSync(second, `${second}.elsewhere`)
    expect(await mailstead('rebuild', ...where)).toMatch(/^2 /)
    renameSync(`${second}.elsewhere`, second)
    expect(existsSync(index)).toBe(lost === 'nothing')
    if (lost === 'index') renameSync(aside, index)
  }
  expect(await mailstead('check', ...bare)).toMatch(/^2 .*not configured.*[0-9a-f]{32}/)
  expect(await mailstead('dump', join(data, 'users/ann/storage/second-tier'))).toMatch(
    /^0 .*second tier, mdbox, [0-9a-f]{32}/,
  )
  expect(await mailstead('dump', join(second, 'users/ann/storage/mailstead-alt'))).toMatch(
    /^0 .*second tier [0-9a-f]{32}/,
  )

  expect(await mailstead('altmove', ...where, '--back', '--json', 'larger', '100k')).toMatch(/^0 .*"messages":1/)
  expect(await mailstead('altmove', ...where, '--back', '--rate', '100', 'all')).toMatch(/^0 1 messages moved/)
  expect(files()).toEqual([])
  expect(await bodies()).toEqual(['small', 'large', 'larger'])
})

test('while rows may be missing nothing is moved, and it is said what helps', async () => {
  const index = join(data, 'users/ann/index')
  {
    await using opened = await openUserStore(data, { name: 'ann' }, { settings: readConfig(config) })
    await opened.store.checkpoint()
  }
  for (const name of readdirSync(join(index, 'tables')))
    if (name.startsWith('mailbox-')) rmSync(join(index, 'tables', name))
  rmSync(join(index, 'log'), { recursive: true })
  {
    await using fs = await posixFs(join(data, 'users/ann'))
    for await (const _ of repairIndex(fs, 'index'));
  }
  expect(await mailstead('altmove', ...where, 'all')).toMatch(/^1 .*ann: rows .*mailstead rebuild --user ann/)
  expect(await mailstead('rebuild', ...where)).toMatch(/^1 /)
  expect(await mailstead('altmove', ...where, 'all')).toMatch(/^0 3 messages moved/)
})

test('of an sdbox too', async () => {
  const other = join(directory, 'other.toml')
  writeFileSync(other, `data = "other"\n[store]\nbox = "sdbox"\n[alternate]\npath = "second"\n`)
  await mailstead('init', join(directory, 'other'))
  writeFileSync(join(directory, 'other/users.passwd'), 'bob:{PLAIN}x\n')
  const how = ['--config', other, '--user', 'bob']
  for (const name of ['small', 'large', 'larger'])
    expect(await mailstead('deliver', ...how, join(directory, name))).toMatch(/^0 /)
  expect(await mailstead('altmove', ...how, 'larger', '1k')).toMatch(/^0 2 messages moved/)
  const [mailbox] = readdirSync(join(second, 'users/bob/storage')).filter((name) => /^[0-9a-f]{32}$/.test(name))
  expect(readdirSync(join(second, 'users/bob/storage', mailbox!)).sort()).toEqual(['u.2', 'u.3'])
  expect(await mailstead('check', ...how)).toMatch(/^0 .*0 findings/)
  rmSync(join(directory, 'other/users/bob/index'), { recursive: true })
  expect(await mailstead('rebuild', '--data', join(directory, 'other'), '--user', 'bob')).toMatch(
    /^2 .*second tier of the messages is not there.*[0-9a-f]{32}/,
  )
  expect(await mailstead('rebuild', ...how)).toMatch(/^1 /)
  expect(await mailstead('altmove', ...how, '--back', 'all')).toMatch(/^0 2 messages moved/)
  expect(await mailstead('check', ...how)).toMatch(/^0 .*0 findings/)
})

test('misuse is told', async () => {
  expect(await mailstead('altmove', '--data', data, '--user', 'ann', 'all')).toMatch(/^2 .*no second tier/)
  expect(await mailstead('altmove', ...where, 'bigger', '5')).toMatch(/^2 .*"bigger" is not known/)
  expect(await mailstead('altmove', ...where, '--rate', 'x', 'all')).toMatch(/^2 .*--rate/)
  writeFileSync(config, `data = "data"\n[alternate]\npath = "second"\n`)
  expect(await mailstead('altmove', ...where)).toMatch(/^2 .*say which mail/)
  writeFileSync(config, `data = "data"\n[alternate]\npath = "second"\nquery = "older"\n`)
  expect(await mailstead('altmove', ...where)).toMatch(/^2 .*alternate.query: "older" must be followed/)
  writeFileSync(config, `data = "data"\n[store]\ncompression = 20\n`)
  expect(await mailstead('altmove', ...where)).toMatch(/^2 .*store.compression/)
})
