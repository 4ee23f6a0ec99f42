import { createHash } from 'node:crypto'
import { memoryFs } from '@mailstead/fs/memory'
import { expect, test } from 'vitest'
import { readAttachments } from './attachment-tree.ts'

const GUID = '28576e0878a2026b575f000083ecc375'

test('every file of a tree of attachments is compared with its name, in both forms', async () => {
  await using fs = memoryFs()
  const place = (bytes: Buffer, rest: string): string => {
    const digest = createHash('sha1').update(bytes).digest('hex')
    return `${digest.slice(0, 2)}/${digest.slice(2, 4)}/${rest.replace('HASH', digest)}`
  }
  const [one, two] = [Buffer.from('one '.repeat(30_000)), Buffer.from('two')]
  const whole = [place(one, 'hashes/HASH'), place(one, `HASH-${GUID}`), place(two, `HASH-${GUID}-${GUID}-7`)]
  for (const [path, bytes] of [
    [whole[0]!, one],
    [whole[1]!, one],
    [whole[2]!, two],
    [place(one, `HASH-${'0'.repeat(32)}`), two],
    ['ab/cd/notes.txt', two],
    // None of it is where an attachment is.
    ['ab/file', two],
    ['dovecot/cd/file', two],
  ] as const)
    await fs.writeFile(`tree/${path}`, bytes)
  const found = (await Array.fromAsync(readAttachments({ fs, path: 'tree' }))).flat()
  expect(
    found
      .filter(({ verdict }) => verdict === 'whole')
      .map(({ path }) => path)
      .sort(),
  ).toEqual([...whole].sort())
  expect(found.find(({ path }) => path === whole[0])).toMatchObject({ form: 'shared', size: one.length })
  expect(found.find(({ path }) => path === whole[2])).toMatchObject({ form: 'reference', size: 3, message: '' })
  const bad = found.filter(({ verdict }) => verdict !== 'whole').map(({ path, verdict }) => `${verdict} ${path}`)
  expect(bad.sort()).toEqual([`damaged ${place(one, `HASH-${'0'.repeat(32)}`)}`, 'unverified ab/cd/notes.txt'])
  const pieces = await Array.fromAsync(found.find(({ path }) => path === whole[1])!.open())
  expect(Buffer.concat(pieces).equals(one)).toBe(true)
  expect(await Array.fromAsync(readAttachments({ fs, path: 'nowhere' }))).toEqual([])
})
