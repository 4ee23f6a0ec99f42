// Adds lock entries for optional platform packages that the registry could not serve when the
// lock was written, so that `npm ci` (which insists on every optional edge) accepts the lock.
import { readFileSync, writeFileSync } from 'node:fs'

const file = new URL('../package-lock.json', import.meta.url)
const lock = JSON.parse(readFileSync(file, 'utf8'))
const OS = {
  android: 'android',
  darwin: 'darwin',
  freebsd: 'freebsd',
  netbsd: 'netbsd',
  openbsd: 'openbsd',
  linux: 'linux',
  linuxmusl: 'linux',
  win32: 'win32',
  windows: 'win32',
  openharmony: 'openharmony',
  sunos: 'sunos',
  aix: 'aix',
  wasm32: 'wasm',
}
const CPU = {
  64: 'x64',
  x64: 'x64',
  arm64: 'arm64',
  arm: 'arm',
  armv7: 'arm',
  ia32: 'ia32',
  ppc64: 'ppc64',
  riscv64: 'riscv64',
  s390x: 's390x',
  loong64: 'loong64',
  mips64el: 'mips64el',
  wasm32: 'wasm32',
}
let added = 0
for (const [at, p] of Object.entries(lock.packages)) {
  for (const [name, range] of Object.entries(p.optionalDependencies ?? {})) {
    // nearest-ancestor resolution
    let dir = at
    let found = false
    for (;;) {
      if (lock.packages[`${dir ? `${dir}/` : ''}node_modules/${name}`]) {
        found = true
        break
      }
      if (!dir) break
      const i = dir.lastIndexOf('node_modules/')
      dir = i <= 0 ? '' : dir.slice(0, i - 1)
    }
    if (found || !/^\d/.test(range)) {
      if (!found) console.log('skip', name, range)
      continue
    }
    const parts = name.split('/').pop().split(/[-.]/)
    const os = parts.map((x) => OS[x]).find(Boolean)
    const cpu = parts
      .slice()
      .reverse()
      .map((x) => CPU[x])
      .find(Boolean)
    if (!os || !cpu) {
      console.log('cannot tell platform of', name)
      continue
    }
    const e = { version: range, cpu: [cpu], dev: true, optional: true, os: [os] }
    if (os === 'linux') e.libc = [parts.some((x) => x.includes('musl')) ? 'musl' : 'glibc']
    lock.packages[`node_modules/${name}`] = e
    added++
  }
}
const sorted = Object.fromEntries(Object.entries(lock.packages).sort(([a], [b]) => (a < b ? -1 : 1)))
lock.packages = sorted
writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`)
console.log('added', added)
