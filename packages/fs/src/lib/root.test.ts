import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { memoryFs } from '../memory.ts'
import { decodeRoot, encodeRoot, initRoot, ROOT_FILE, readRoot } from './root.ts'

describe('root marker', () => {
  test('a root that was marked is recognised, once; one that was not has no marker', async () => {
    const fs = memoryFs()
    expect(await readRoot(fs)).toBeUndefined()
    const root = await initRoot(fs, 'alternate')
    expect(await readRoot(fs)).toEqual(root)
    await expect(initRoot(fs, 'data')).rejects.toMatchObject({ code: 'FS_EXISTS' })
    expect(await readRoot(fs)).toEqual(root)
  })
  test('any flipped bit, any cut and any surplus is damage, not absence', async () => {
    const fs = memoryFs()
    await initRoot(fs, 'data')
    const bytes = await fs.readFile(ROOT_FILE)
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const copy = Uint8Array.from(bytes)
      copy[bit >> 3]! ^= 1 << (bit & 7)
      expect(() => decodeRoot(copy)).toThrow(expect.objectContaining({ code: 'FS_CORRUPT' }))
    }
    for (let cut = 0; cut < bytes.length; cut++) {
      await fs.writeFile(ROOT_FILE, bytes.slice(0, cut))
      await expect(readRoot(fs)).rejects.toMatchObject({ code: 'FS_CORRUPT' })
    }
    await fs.writeFile(ROOT_FILE, Buffer.concat([bytes, Buffer.from('x')]))
    await expect(readRoot(fs)).rejects.toMatchObject({ code: 'FS_CORRUPT' })
  })
  test('the example in docs/formats/root.md is what is written', () => {
    const page = readFileSync(new URL('../../../../docs/formats/root.md', import.meta.url), 'utf8')
    const shown = /```hex\n([^`]*)```/.exec(page)![1]!
    const bytes = Buffer.from(shown.replaceAll(/^[0-9a-f]{8}|\|.*\|$/gm, '').replaceAll(/\s/g, ''), 'hex')
    const root = decodeRoot(bytes)
    expect(root.role).toBe('data')
    expect(Buffer.from(root.uuid).toString('hex')).toBe('000102030405060708090a0b0c0d0e0f')
    expect(encodeRoot(root)).toEqual(bytes)
  })
})
