/**
 * The allowed arrows between packages, as data, and the check that fails on any other.
 *
 * Run by `npm test`. Reads import lines only; a specifier that is computed at run time is refused too.
 * See docs/decisions/0001-layers.md.
 */
import { globSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** Each package and the packages of this repository that it may import. Nothing goes sideways or up. */
export const arrows: Readonly<Record<string, readonly string[]>> = {
  'packages/bytes': [],
  'packages/uidset': [],
  'packages/fs': [],
  'packages/message': [],
  'packages/box': [],
  'packages/index': ['bytes', 'fs', 'uidset'],
  'packages/sis': ['bytes', 'fs', 'message'],
  'packages/mount': ['bytes', 'fs'],
  'packages/imap': ['message', 'uidset'],
  'packages/mdbox': ['box', 'bytes', 'fs', 'index', 'uidset'],
  'packages/acl': ['bytes', 'fs', 'index', 'uidset'],
  'packages/store': ['acl', 'box', 'bytes', 'fs', 'index', 'message', 'uidset'],
  'packages/server': ['acl', 'fs', 'imap', 'index', 'mdbox', 'message', 'store', 'uidset'],
  'apps/server': ['acl', 'fs', 'imap', 'index', 'mdbox', 'mount', 'server', 'sis', 'store'],
  // The command hosts `serve`, so it alone may import its neighbour (docs/decisions/0004-the-command-hosts-serve.md).
  'apps/admin': ['acl', 'app-server', 'fs', 'imap', 'index', 'mdbox', 'mount', 'server', 'sis', 'store'],
}

/** What a test file may import beyond its package's arrows: suites and memory drivers of lower layers. */
const testSubpaths = /^@mailstead\/[a-z]+\/(testing|memory|posix)$/

/** What tests of several packages need, and no package may ship. It imports no package. */
const testSupport = 'tests/support/'

const importLine =
  /(?:^|\n)\s*(?:import|export)\b[^'"\n]*?(?:\{[^}]*\}[^'"\n]*?)?from\s*['"]([^'"]+)['"]|import\(\s*([^)]*)\)|(?:^|\n)import\s*['"]([^'"]+)['"]/g

/** One sentence for each import in `source` (a file of `root`) that no arrow allows. */
export function violations(root: string, file: string, source: string, declared: readonly string[]): string[] {
  const allowed = arrows[root]
  if (allowed === undefined) return [`${root} is not in tools/layers.ts`]
  const isTest = file.endsWith('.test.ts')
  const found: string[] = []
  for (const [, from, computed, bare] of source.matchAll(importLine)) {
    const name = from ?? bare ?? /^\s*['"]([^'"]+)['"]/.exec(computed ?? '')?.[1]
    if (name === undefined) {
      if (computed !== undefined && computed.trim() !== '') found.push(`${file}: import(${computed}) is computed`)
      continue
    }
    if (name.startsWith('.')) {
      const target = join(dirname(file), name)
      if (isTest && target.startsWith(testSupport)) continue
      if (!target.startsWith(`${root}/`)) found.push(`${file}: ${name} leaves ${root}`)
      continue
    }
    if (name.startsWith('node:')) continue
    const parts = name.split('/')
    const packageName = name.startsWith('@') ? parts.slice(0, 2).join('/') : parts[0]!
    if (!packageName.startsWith('@mailstead/')) {
      if (!isTest && !declared.includes(packageName)) found.push(`${file}: ${packageName} is not declared`)
      continue
    }
    if (isTest && testSubpaths.test(name)) continue
    const short = packageName.slice('@mailstead/'.length)
    if (root.split('/')[1] === short) continue
    if (!allowed.includes(short)) found.push(`${file}: ${root} may not import ${packageName}`)
    else if (!declared.includes(packageName) && !isTest) found.push(`${file}: ${packageName} is not declared`)
    // Drivers are subpaths, chosen by apps; a library names root entries only.
    else if (
      root.startsWith('packages/') &&
      root !== 'packages/server' &&
      /^@mailstead\/fs\/(posix|memory|s3)$/.test(name)
    )
      found.push(`${file}: ${name} is a driver; applications choose it`)
  }
  return found
}

/** Every violation in the repository at `base`. */
export function check(base: string): string[] {
  const found: string[] = []
  for (const root of globSync(['packages/*', 'apps/*'], { cwd: base })) {
    const manifest = JSON.parse(readFileSync(join(base, root, 'package.json'), 'utf8')) as {
      dependencies?: Record<string, string>
      peerDependencies?: Record<string, string>
    }
    const declared = Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies })
    for (const file of globSync(`${root}/{src,bin}/**/*.{ts,mjs}`, { cwd: base }))
      found.push(...violations(root, file, readFileSync(join(base, file), 'utf8'), declared))
  }
  for (const file of globSync(`${testSupport}**/*.ts`, { cwd: base }))
    for (const [, from] of readFileSync(join(base, file), 'utf8').matchAll(importLine))
      if (from?.startsWith('@mailstead/') === true) found.push(`${file}: ${from}: what tests share imports no package`)
  return found
}

if (import.meta.main) {
  const found = check(process.cwd())
  for (const line of found) console.error(line)
  if (found.length > 0) process.exit(1)
  console.log('layers: every import follows an arrow')
}
