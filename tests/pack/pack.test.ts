/**
 * Every package, packed and installed in an empty folder by `npm install` with only what it declares, runs the program in
 * its README; so does the program in the repository's README. The applications' commands run in such a folder too.
 */
import { execFile } from 'node:child_process'
import { existsSync, globSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { manifestOf, type Registry, startRegistry } from './registry.ts'

const run = promisify(execFile)
const repository = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const scratch = mkdtempSync(join(tmpdir(), 'mailstead-pack-'))

const roots = globSync(['packages/*', 'apps/*'], { cwd: repository }).sort()
const manifests = new Map(roots.map((root) => [root, manifestOf(join(repository, root))]))

let registry: Registry
beforeAll(async () => {
  registry = await startRegistry({ repository, own: roots.map((root) => join(repository, root)), scratch })
})
afterAll(async () => {
  await registry[Symbol.asyncDispose]()
  rmSync(scratch, { recursive: true, force: true })
})

/** Installs packages in a folder, in addition to what is there. Each test's guard ends an installation that hangs. */
async function install(names: readonly string[], folder: string, signal: AbortSignal): Promise<void> {
  mkdirSync(folder, { recursive: true })
  const manifest = join(folder, 'package.json')
  if (!existsSync(manifest)) writeFileSync(manifest, JSON.stringify({ type: 'module', private: true }))
  const quietly = ['--no-audit', '--no-fund', '--loglevel=error', `--cache=${join(scratch, 'npm-cache')}`]
  await run('npm', ['install', ...quietly, `--registry=${registry.url}`, ...names], { cwd: folder, signal })
}

/** The first fenced js or ts block of a README that imports something. */
function programOf(readme: string): string | undefined {
  for (const [, code] of readme.matchAll(/```(?:js|ts|javascript|typescript)\n([\s\S]*?)```/g))
    if (/^import /m.test(code!)) return code
  return undefined
}

/** Runs a program in `folder` and returns what it printed; throws with its errors if it fails. */
function runProgram(program: string, folder: string, signal: AbortSignal): Promise<string> {
  writeFileSync(join(folder, 'program.ts'), program)
  return node(['program.ts'], folder, signal)
}

async function node(args: readonly string[], folder: string, signal: AbortSignal): Promise<string> {
  const { NODE_OPTIONS: _, ...env } = process.env
  const { stdout } = await run(process.execPath, ['--no-warnings', ...args], { cwd: folder, env, signal })
  return stdout
}

/**
 * Imports every entry of an installed package. Those that need an optional peer say so while it is not there, and are
 * imported when it is.
 */
async function importEntries(root: string, folder: string, signal: AbortSignal): Promise<void> {
  const { name, exports = {}, peerDependencies = {} } = manifests.get(root)!
  const entries = Object.keys(exports).filter((key) => !key.endsWith('.json'))
  const peers = Object.keys(peerDependencies)
  const lacking = async (): Promise<unknown> =>
    JSON.parse(
      await runProgram(
        `const lacking = []
        for (const key of ${JSON.stringify(entries)})
          await import('${name}' + key.slice(1)).catch((error) => {
            const isPeer = ${JSON.stringify(peers)}.some((peer) => error.message.includes("'" + peer + "'"))
            if (error.code !== 'ERR_MODULE_NOT_FOUND' || !isPeer) throw error
            lacking.push(key)
          })
        console.log(JSON.stringify(lacking))`,
        folder,
        signal,
      ),
    )
  if (((await lacking()) as string[]).length === 0) return
  await install(peers, folder, signal)
  expect(await lacking()).toEqual([])
}

test('what is built has `using` as it was written', () => {
  // What a bundler writes for engines without it kept the error of one round of a loop for all that follow.
  const built = globSync('{packages,apps}/*/dist/**/*.js', { cwd: repository })
  expect(built.length).toBeGreaterThan(roots.length)
  const lowered = built.filter((file) => readFileSync(join(repository, file), 'utf8').includes('__callDispose'))
  expect(lowered).toEqual([])
})

describe('packed and installed alone', () => {
  for (const [root, { name }] of manifests) {
    if (!root.startsWith('packages/')) continue
    test(`${name} runs the program in its README and resolves every entry`, async ({ signal }) => {
      const folder = join(scratch, root)
      await install([name], folder, signal)
      const program = programOf(readFileSync(join(repository, root, 'README.md'), 'utf8'))
      expect(program, `${root}/README.md has a program`).toBeDefined()
      await runProgram(program!, folder, signal)
      await importEntries(root, folder, signal)
      expect(existsSync(join(folder, 'node_modules', name, 'LICENSE'))).toBe(true)
    })
  }

  for (const [root, { name, version, bin = {} }] of manifests) {
    if (!root.startsWith('apps/')) continue
    test(`${name} resolves every entry, and its commands say what they do and which version they are`, async ({
      signal,
    }) => {
      const folder = join(scratch, root)
      await install([name], folder, signal)
      await importEntries(root, folder, signal)
      expect(existsSync(join(folder, 'node_modules', name, 'LICENSE'))).toBe(true)
      const before = readdirSync(folder)
      for (const [command, path] of Object.entries(bin)) {
        const program = join(folder, 'node_modules', name, path)
        expect(await node([program, '--help'], folder, signal)).toContain(`Usage: ${command} `)
        expect(await node([program, '--version'], folder, signal)).toBe(`${version}\n`)
      }
      expect(readdirSync(folder), 'nothing is left behind').toEqual(before)
    })
  }

  test('the README of the repository runs its program', async ({ signal }) => {
    const program = programOf(readFileSync(join(repository, 'README.md'), 'utf8'))
    expect(program).toBeDefined()
    const names = new Set([...program!.matchAll(/from '(@mailstead\/[a-z]+)/g)].map(([, name]) => name!))
    const folder = join(scratch, 'readme')
    await install([...names], folder, signal)
    await runProgram(program!, folder, signal)
  })
})
