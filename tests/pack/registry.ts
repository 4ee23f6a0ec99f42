/**
 * A package registry on loopback that has the packages of this repository, as they would be published, and of others exactly
 * what is installed here. So `npm install` decides everything as it does for a user, and needs no network.
 */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

export interface Manifest {
  readonly name: string
  readonly version: string
  readonly bin?: Readonly<Record<string, string>>
  readonly dependencies?: Readonly<Record<string, string>>
  readonly peerDependencies?: Readonly<Record<string, string>>
  readonly exports?: Readonly<Record<string, unknown>>
}

export interface Registry extends AsyncDisposable {
  /** Address to give to npm. */
  readonly url: string
}

export interface RegistryOptions {
  readonly repository: string
  /** Folders of the packages that are packed as for publishing. */
  readonly own: readonly string[]
  /** Where tarballs are kept. */
  readonly scratch: string
}

export async function startRegistry({ repository, own, scratch }: RegistryOptions): Promise<Registry> {
  /** Folders by name and version. */
  const packages = new Map<string, Map<string, string>>()
  const add = (folder: string): void => {
    const { name, version } = manifestOf(folder)
    const versions = packages.get(name) ?? new Map<string, string>()
    packages.set(name, versions.set(version, folder))
  }
  for (const folder of installed(repository)) add(folder)
  for (const folder of own) add(folder)
  const ours = new Set(own)
  const tarballs = new Map<string, Promise<string>>()

  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url!, 'http://localhost').pathname).slice(1)
    const [name = '', version] = path.split('/-/')
    const versions = packages.get(name)
    const folder = version === undefined ? undefined : versions?.get(version)
    if (versions === undefined || (version !== undefined && folder === undefined)) {
      response.writeHead(404).end('{}')
    } else if (folder === undefined) {
      response.setHeader('content-type', 'application/json')
      response.end(JSON.stringify(packument(name, versions, `http://${request.headers.host}/`)))
    } else {
      const made = tarballs.get(folder) ?? (ours.has(folder) ? packed(folder, scratch) : copied(folder, scratch))
      tarballs.set(folder, made)
      made.then(
        async (file) => response.end(await readFile(file)),
        (error: unknown) => fail(response, error),
      )
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}/`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

export function manifestOf(folder: string): Manifest {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Manifest
}

/** Folders of all packages that npm installed, nested ones too. Those of other platforms are in the lock, but not there. */
function installed(repository: string): string[] {
  const lock = JSON.parse(readFileSync(join(repository, 'node_modules', '.package-lock.json'), 'utf8')) as {
    readonly packages: Readonly<Record<string, { readonly link?: boolean }>>
  }
  return Object.entries(lock.packages).flatMap(([path, { link }]) =>
    path.includes('node_modules/') && link !== true ? [join(repository, path)] : [],
  )
}

/** What a registry says of a package (the parts that npm needs). */
function packument(name: string, versions: ReadonlyMap<string, string>, url: string): unknown {
  const described = [...versions].map(([version, folder]) => [
    version,
    { ...manifestOf(folder), dist: { tarball: `${url}${name}/-/${version}` } },
  ])
  return {
    name,
    'dist-tags': { latest: [...versions.keys()].at(-1) },
    versions: Object.fromEntries(described) as unknown,
  }
}

/** Path of the tarball that `npm pack` makes. */
async function packed(folder: string, scratch: string): Promise<string> {
  const args = ['pack', '--json', '--ignore-scripts', '--pack-destination', scratch]
  const { stdout } = await run('npm', args, { cwd: folder })
  const printed = JSON.parse(stdout) as { filename: string }[] | Record<string, { filename: string }>
  const [first] = Array.isArray(printed) ? printed : Object.values(printed)
  return join(scratch, first!.filename)
}

/** The same of a package that was installed from a tarball. */
async function copied(folder: string, scratch: string): Promise<string> {
  const { name, version } = manifestOf(folder)
  const file = join(scratch, `${name.replaceAll('/', '+')}-${version}.tgz`)
  const from = ['--exclude=./node_modules', '--transform=s,^\\.,package,', '-C', folder, '.']
  await run('tar', ['-czf', file, ...from])
  return file
}

function fail(response: ServerResponse, error: unknown): void {
  response.writeHead(500).end(String(error))
}
