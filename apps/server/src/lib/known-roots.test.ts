import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { checkDataDirectory, initDataDirectory } from './data-directory.ts'
import { decodeRoots, encodeRoots } from './known-roots.ts'
import { openMounts } from './mounts.ts'

const base = mkdtempSync(join(tmpdir(), 'mailstead-known-roots-'))
afterAll(() => rmSync(base, { recursive: true }))

test('another marked directory in the place of one that was served is refused, and an empty one not marked, until it is accepted', async () => {
  const [data, other] = [join(base, 'data'), join(base, 'other')]
  await initDataDirectory(data)
  await initDataDirectory(other)
  await using mounts = await openMounts(join(base, 'state'))
  await mounts.roots!.learn(data, 'data', await checkDataDirectory(data, mounts))
  renameSync(data, join(base, 'first'))
  renameSync(other, data)
  {
    await using again = await openMounts(join(base, 'state'))
    await expect(checkDataDirectory(data, again)).rejects.toMatchObject({ code: 'SERVER_NO_ROOT' })
    await expect(checkDataDirectory(data, again)).rejects.toThrow(`mailstead mount accept ${data}`)
    expect(await again.roots!.accept(join(base, 'first'))).toEqual([])
    expect(await again.roots!.accept(base)).toMatchObject([{ path: data, role: 'data' }])
  }
  const uuid = await checkDataDirectory(data, mounts)
  await mounts.roots!.learn(data, 'data', new Uint8Array(16))
  expect(await checkDataDirectory(data, mounts)).toEqual(uuid)

  rmSync(data, { recursive: true })
  mkdirSync(data)
  await expect(initDataDirectory(data, mounts)).rejects.toMatchObject({ code: 'SERVER_NO_ROOT' })
  expect(readdirSync(data)).toEqual([])
  await mounts.roots!.accept(data)
  expect(await initDataDirectory(data, mounts)).toBe('made')
})

test('the list of roots is as its page says, and damage anywhere is found', () => {
  const page = readFileSync(new URL('../../../../docs/formats/mounts.md', import.meta.url), 'utf8')
  const text = /```text\n(mailstead-roots [^`]*)```/.exec(page)![1]!
  const roots = decodeRoots(Buffer.from(text))
  expect(roots.map(({ role, path }) => `${role} ${path}`)).toEqual(['data /srv/mail', 'index /srv/fast index'])
  expect(Buffer.from(encodeRoots(roots)).toString()).toBe(text)
  for (let at = 0; at < text.length; at++) {
    expect(() => decodeRoots(Buffer.from(text.slice(0, at)))).toThrow(/damaged/)
    const turned = Buffer.from(text)
    turned[at]! ^= 1
    expect(() => decodeRoots(turned), `byte ${at}`).toThrow(/damaged/)
  }
})
