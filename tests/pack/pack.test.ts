/**
 * Every package, packed and installed in an empty folder with only what it declares, runs the program in its README;
 * so does the program in the repository's README. The applications' commands run in such a folder too.
 *
 * The folder gets the packed tarballs of the package and of the packages of this repository that it declares,
 * directly or through them, and what those declare of others. In CI `npm install` does it, with the registry; elsewhere the
 * same folder is laid out from what is installed in the repository already, so that no network is needed.
 */
import { execFileSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'

const repository = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const scratch = mkdtempSync(join(tmpdir(), 'mailstead-pack-'))
const deep = process.env['MAILSTEAD_DEPTH'] === 'ci'

interface Manifest {
  readonly name: string
  readonly version: string
  readonly bin?: Readonly<Record<string, string>>
  readonly dependencies?: Readonly<Record<string, string>>
  readonly peerDependencies?: Readonly<Record<string, string>>
  readonly exports?: Readonly<Record<string, unknown>>
}

const roots = globSync(['packages/*', 'apps/*'], { cwd: repository }).sort()
const manifests = new Map<string, { readonly root: string; readonly manifest: Manifest }>()
for (const root of roots) {
  const manifest = JSON.parse(readFileSync(join(repository, root, 'package.json'), 'utf8')) as Manifest
  manifests.set(manifest.name, { root, manifest })
}

const tarballs = new Map<string, string>()
/** Path of the tarball that `npm pack` makes of a package of this repository. */
function tarball(name: string): string {
  const known = tarballs.get(name)
  if (known !== undefined) return known
  const { root } = manifests.get(name)!
  const printed = execFileSync('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', scratch], {
    cwd: join(repository, root),
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const packed = JSON.parse(printed) as { filename: string }[] | Record<string, { filename: string }>
  const [first] = Array.isArray(packed) ? packed : Object.values(packed)
  const path = join(scratch, first!.filename)
  tarballs.set(name, path)
  return path
}

/** The package and everything of this repository that it declares, directly or not. */
function closure(name: string, into: Set<string> = new Set()): Set<string> {
  if (into.has(name)) return into
  into.add(name)
  for (const dependency of Object.keys(manifests.get(name)!.manifest.dependencies ?? {}))
    if (manifests.has(dependency)) closure(dependency, into)
  return into
}

/** Copies an installed package of somebody else, and what it declares, to `folder`. */
function copyInstalled(name: string, folder: string): void {
  const to = join(folder, 'node_modules', name)
  if (existsSync(to)) return
  const from = join(repository, 'node_modules', name)
  if (!existsSync(from)) return // an optional dependency of another platform
  cpSync(from, to, { recursive: true })
  const { dependencies = {} } = JSON.parse(readFileSync(join(from, 'package.json'), 'utf8')) as Manifest
  for (const dependency of Object.keys(dependencies))
    if (!existsSync(join(from, 'node_modules', dependency))) copyInstalled(dependency, folder)
}

function install(names: ReadonlySet<string>, folder: string): void {
  mkdirSync(join(folder, 'node_modules'), { recursive: true })
  if (deep) {
    const dependencies = Object.fromEntries([...names].map((name) => [name, `file:${tarball(name)}`]))
    writeFileSync(join(folder, 'package.json'), JSON.stringify({ type: 'module', private: true, dependencies }))
    execFileSync('npm', ['install', '--no-audit', '--no-fund', '--prefer-offline', '--loglevel=error'], {
      cwd: folder,
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    return
  }
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ type: 'module', private: true }))
  for (const name of names) {
    const to = join(folder, 'node_modules', name)
    mkdirSync(to, { recursive: true })
    execFileSync('tar', ['-xzf', tarball(name), '-C', to, '--strip-components=1'])
    for (const dependency of Object.keys(manifests.get(name)!.manifest.dependencies ?? {}))
      if (!manifests.has(dependency)) copyInstalled(dependency, folder)
  }
}

/** The first fenced js or ts block of a README that imports something. */
function programOf(readme: string): string | undefined {
  for (const [, code] of readme.matchAll(/```(?:js|ts|javascript|typescript)\n([\s\S]*?)```/g))
    if (/^import /m.test(code!)) return code
  return undefined
}

/** Runs a program in `folder` and returns what it printed; throws with its errors if it fails. */
function run(program: string, folder: string): string {
  writeFileSync(join(folder, 'program.ts'), program)
  return node(['program.ts'], folder)
}

function node(args: readonly string[], folder: string): string {
  const { NODE_OPTIONS: _, ...env } = process.env
  return execFileSync(process.execPath, ['--no-warnings', ...args], { cwd: folder, encoding: 'utf8', env })
}

/**
 * Imports every entry of an installed package. Those that need an optional peer say so while it is not there, and are
 * imported when it is.
 */
function importEntries(name: string, folder: string): void {
  const { exports = {}, peerDependencies = {} } = manifests.get(name)!.manifest
  const entries = Object.keys(exports).filter((key) => !key.endsWith('.json'))
  const peers = Object.keys(peerDependencies)
  const lacking = (): unknown =>
    JSON.parse(
      run(
        `const lacking = []
        for (const key of ${JSON.stringify(entries)})
          await import('${name}' + key.slice(1)).catch((error) => {
            const isPeer = ${JSON.stringify(peers)}.some((peer) => error.message.includes("'" + peer + "'"))
            if (error.code !== 'ERR_MODULE_NOT_FOUND' || !isPeer) throw error
            lacking.push(key)
          })
        console.log(JSON.stringify(lacking))`,
        folder,
      ),
    )
  if ((lacking() as string[]).length === 0) return
  for (const peer of peers) copyInstalled(peer, folder)
  expect(lacking()).toEqual([])
}

afterAll(() => rmSync(scratch, { recursive: true, force: true }))

test('what is built has `using` as it was written', () => {
  // What a bundler writes for engines without it kept the error of one round of a loop for all that follow.
  const built = globSync('{packages,apps}/*/dist/**/*.js', { cwd: repository })
  expect(built.length).toBeGreaterThan(roots.length)
  const lowered = built.filter((file) => readFileSync(join(repository, file), 'utf8').includes('__callDispose'))
  expect(lowered).toEqual([])
})

describe('packed and installed alone', () => {
  for (const [name, { root }] of manifests) {
    if (!root.startsWith('packages/')) continue
    test(`${name} runs the program in its README and resolves every entry`, () => {
      const folder = join(scratch, root)
      install(closure(name), folder)
      const program = programOf(readFileSync(join(repository, root, 'README.md'), 'utf8'))
      expect(program, `${root}/README.md has a program`).toBeDefined()
      run(program!, folder)
      importEntries(name, folder)
      expect(existsSync(join(folder, 'node_modules', name, 'LICENSE'))).toBe(true)
    })
  }

  for (const [name, { root, manifest }] of manifests) {
    if (!root.startsWith('apps/')) continue
    test(`${name} resolves every entry, and its commands say what they do and which version they are`, () => {
      const folder = join(scratch, root)
      install(closure(name), folder)
      importEntries(name, folder)
      expect(existsSync(join(folder, 'node_modules', name, 'LICENSE'))).toBe(true)
      const before = readdirSync(folder)
      for (const [command, path] of Object.entries(manifest.bin ?? {})) {
        const program = join(folder, 'node_modules', name, path)
        expect(node([program, '--help'], folder)).toContain(`Usage: ${command} `)
        expect(node([program, '--version'], folder)).toBe(`${manifest.version}\n`)
      }
      expect(readdirSync(folder), 'nothing is left behind').toEqual(before)
    })
  }

  test('the README of the repository runs its program', () => {
    const program = programOf(readFileSync(join(repository, 'README.md'), 'utf8'))
    expect(program).toBeDefined()
    const names = new Set<string>()
    for (const [, name] of program!.matchAll(/from '(@mailstead\/[a-z]+)/g)) closure(name!, names)
    const folder = join(scratch, 'readme')
    install(names, folder)
    run(program!, folder)
  })
})
