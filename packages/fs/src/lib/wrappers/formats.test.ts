/** The pages of docs/formats say what is on disk: their examples are read by what is documented. */
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { type Fs, FsError } from '../../index.ts'
import { memoryFs } from '../../memory.ts'
import { cached } from './cached.ts'
import { objectPath } from './cached-format.ts'
import { checksummed } from './checksummed.ts'
import { compressed } from './compressed.ts'
import { encrypted } from './encrypted.ts'

/** The hex dump of a page. */
function example(page: string): { readonly text: string; readonly stored: Buffer } {
  const text = readFileSync(new URL(`../../../../../docs/formats/${page}.md`, import.meta.url), 'utf8')
  const dump = /```hex\n([^`]*)```/.exec(text)![1]!
  const hex = dump.split('\n').map((line) => line.slice(10, 58))
  return { text, stored: Buffer.from(hex.join('').replaceAll(' ', ''), 'hex') }
}

/** With the random bytes of each record and the checks that depend on them blanked: the layout, golden. */
function layout(stored: Buffer): string {
  const copy = Buffer.from(stored)
  copy.fill(0, 12, 44)
  const first = copy.indexOf('MsR0')
  copy.fill(0, first - 4, first)
  for (let at = first; at < copy.length; at += 48 + copy.readUInt32LE(at + 8)) {
    copy.fill(0, at + 32, at + 48)
    const end = at + 48 + copy.readUInt32LE(at + 8)
    const footer = copy[at + 4] === 2 ? 12 : 0
    copy.fill(0, end - footer - 4, end - footer)
    if (footer > 0) copy.fill(0, end - 4, end)
  }
  return copy.toString('hex')
}

const secret = Buffer.from(Uint8Array.from({ length: 32 }, (_, i) => i))

describe('docs/formats', () => {
  test('fs-checksummed: a file of writeFile with an append and a mark', async () => {
    const { stored } = example('fs-checksummed')
    const below = memoryFs()
    await below.writeFile('file', stored)
    const fs = checksummed(below)
    expect(Buffer.from(await fs.readFile('file')).toString()).toBe('0123456789abc')
    await fs.writeFile('again', Buffer.from('0123456789'))
    {
      await using file = await fs.open('again', 'append')
      await file.append([Buffer.from('abc')])
      await file.sync()
    }
    expect(layout(Buffer.from(await below.readFile('again')))).toBe(layout(stored))
  })

  test('fs-compressed: a chunk that shrank', async () => {
    const { stored } = example('fs-compressed')
    const below = memoryFs()
    await below.writeFile('file', stored)
    const fs = compressed(below)
    expect(Buffer.from(await fs.readFile('file')).toString()).toBe('a'.repeat(100))
    await fs.writeFile('again', Buffer.from('a'.repeat(100)))
    // The head: what zstd makes of it may change with its version.
    const head = (raw: Uint8Array): string => layout(Buffer.from(raw)).slice(0, 2 * (48 + 8))
    expect(head(await below.readFile('again'))).toBe(head(stored))
  })

  test('fs-encrypted: a file under the key of the page', async () => {
    const { stored } = example('fs-encrypted')
    const below = memoryFs()
    await below.writeFile('file', stored)
    const fs = encrypted(below, { keys: { current: '2026', get: (id) => (id === '2026' ? secret : undefined) } })
    expect(Buffer.from(await fs.readFile('file')).toString()).toBe('a secret')
    expect(await fs.keyId('file')).toBe('2026')
  })

  test('fs-cache: a copy that is served without the remote', async () => {
    const { text, stored } = example('fs-cache')
    const at = objectPath('mail/1', '1.1')
    expect(text).toContain(at)
    const local = memoryFs()
    await local.writeFile(at, stored)
    const stat = { kind: 'file' as const, size: 5, modifiedMs: 0, tag: '1.1', metadata: {} }
    const away = async (): Promise<never> => {
      throw new FsError('FS_UNAVAILABLE', 'only its stat answers')
    }
    const remote: Fs = {
      ...memoryFs({ append: false, overwrite: false }),
      stat: async () => stat,
      open: away,
      readFile: away,
    }
    await using fs = cached(remote, { local, maxBytes: 10_000 })
    expect(Buffer.from(await fs.readFile('mail/1')).toString()).toBe('hello')
  })
})
