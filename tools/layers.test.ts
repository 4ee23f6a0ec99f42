import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { arrows, check, violations } from './layers.ts'

const repository = dirname(dirname(fileURLToPath(import.meta.url)))
const plant = (root: string, line: string, file = 'planted.ts', declared: readonly string[] = []): string[] =>
  violations(root, `${root}/src/lib/${file}`, `// a file\n${line}\n`, declared)

describe('the layer check', () => {
  test('finds nothing in the repository as it is', () => {
    expect(check(repository)).toEqual([])
  })

  test('knows every package, and no arrow closes a circle', () => {
    const reach = (root: string, seen: readonly string[] = []): void => {
      expect(seen).not.toContain(root)
      for (const short of arrows[root] ?? []) {
        const next = short === 'app-server' ? 'apps/server' : `packages/${short}`
        expect(arrows).toHaveProperty([next])
        reach(next, [...seen, root])
      }
    }
    for (const root of Object.keys(arrows)) reach(root)
  })

  test.each([
    ['up', 'packages/fs', "import { openIndex } from '@mailstead/index'"],
    ['sideways', 'packages/index', "import { serveImap } from '@mailstead/imap'"],
    ['a driver from a library', 'packages/store', "import { posixFs } from '@mailstead/fs/posix'"],
    ['a format from the store', 'packages/store', "export { mdbox } from '@mailstead/mdbox'"],
    ['a protocol from the store', 'packages/store', "import type { ImapSession } from '@mailstead/imap'"],
    ['over several lines', 'packages/box', "import {\n  a,\n  b,\n} from '@mailstead/fs'"],
    ['for its effects alone', 'packages/uidset', "import '@mailstead/bytes'"],
    ['at run time', 'packages/bytes', "const fs = await import('@mailstead/fs')"],
    ['at run time, computed', 'packages/bytes', 'const fs = await import(name)'],
    ['a file outside its package', 'packages/index', "import { x } from '../../../fs/src/index.ts'"],
    ['an undeclared package of somebody else', 'packages/fs', "import { pino } from 'pino'"],
  ])('refuses an import that goes %s', (_, root, line) => {
    expect(plant(root, line, 'planted.ts', ['@mailstead/fs', '@mailstead/index'])).toHaveLength(1)
  })

  test('allows what the arrows allow', () => {
    expect(plant('packages/index', "import type { Fs } from '@mailstead/fs'", 'a.ts', ['@mailstead/fs'])).toEqual([])
    expect(plant('packages/fs', "import { open } from 'node:fs'")).toEqual([])
    expect(plant('packages/index', "import { memoryFs } from '@mailstead/fs/memory'", 'a.test.ts')).toEqual([])
  })

  test('lets tests, and nothing else, have what tests share', () => {
    const line = "import { corpus } from '../../../../tests/support/corpus.ts'"
    expect(plant('packages/imap', line, 'a.test.ts')).toEqual([])
    expect(plant('packages/imap', line, 'a.ts')).toHaveLength(1)
    expect(plant('packages/imap', line.replace('support', 'interop'), 'a.test.ts')).toHaveLength(1)
  })
})
