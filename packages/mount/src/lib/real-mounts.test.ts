/** Real mounts, as root, in mount namespaces of their own: nothing is seen of them outside. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import { type Lack, say } from '../../../../tests/support/depth.ts'
import { testUnless } from '../../../../tests/support/test-unless.ts'

const base = mkdtempSync(join(tmpdir(), 'mailstead-real-mounts-'))
afterAll(() => rmSync(base, { recursive: true, force: true }))
const program = fileURLToPath(new URL('../../test/real-mounts.ts', import.meta.url))
const apart = ['--mount', '--propagation', 'private']

function mountLack(): Lack | undefined {
  if (process.platform !== 'linux') return { reason: 'mounts are made on Linux only' }
  if (process.getuid?.() !== 0) return { reason: 'only root may mount' }
  const tried = spawnSync('unshare', [...apart, 'mount', '-t', 'tmpfs', 'none', base], { encoding: 'utf8' })
  return tried.status === 0 ? undefined : { reason: `no mount namespaces here: ${tried.stderr?.trim()}` }
}

function lackOf(command: string): Lack | undefined {
  return spawnSync(command, ['-V']).error === undefined ? undefined : { reason: `no ${command}` }
}

function take(scenario: string, before: readonly string[] = []): string {
  const directory = mkdtempSync(join(base, 'in-'))
  const node = [process.execPath, '--conditions=@mailstead/source', program, scenario, directory]
  const { status, stdout, stderr } = spawnSync('unshare', [...apart, ...before, ...node], { encoding: 'utf8' })
  expect(status, `${scenario}:\n${stderr}`).toBe(0)
  return stdout.trim()
}

const lack = mountLack()
const loopLack = lack ?? lackOf('losetup') ?? lackOf('mkfs.ext4')

describe('real mounts', () => {
  testUnless(loopLack, 'another volume on the same device, with the same numbers, is recognised by each proof', () => {
    take('swapped volumes')
  })
  testUnless(lack, 'bind mounts, and what is mounted above, are told apart', () => {
    take('bind mounts and mounts above')
  })
  testUnless(loopLack, 'an open file goes on through a lazy unmount; a new tmpfs is another volume', () => {
    take('a lazy unmount under an open file, and a new tmpfs in its place')
  })
  testUnless(lack, 'a mount that hangs hangs nobody, and is there again afterwards', () => {
    say(`real mounts: ${take('a mount that hangs')}`)
  })
  testUnless(lack, 'two hundred odd mounts make no warning, nor when they go', () => {
    say(`real mounts: ${take('two hundred odd mounts')}`)
  })
})

describe('the system calls of a guard', () => {
  const calls =
    'statx,newfstatat,fstat,lstat,stat,openat,close,read,pread64,preadv,write,writev,pwrite64,pwritev,ftruncate,fdatasync,fsync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,readlink,readlinkat,getdents64,fcntl'

  testUnless(lack ?? lackOf('strace'), 'are none at an open file, one at a name, and one after what changes', () => {
    const trace = join(base, 'trace')
    take('cost', ['strace', '-f', '-y', '-o', trace, '-e', `trace=${calls}`])
    /** By proof and operation. */
    const made = new Map<string, Map<string, string[]>>()
    let into: string[] | undefined
    for (const line of readFileSync(trace, 'utf8').split('\n')) {
      // A call that was interrupted is told twice.
      if (line.includes('resumed>')) continue
      const mark = /"\/mark(?:\/([^/"]*)\/([^"]*))?"/.exec(line)
      if (mark !== null) {
        const [, proof, operation] = mark
        into = undefined
        if (proof === undefined || operation === undefined) continue
        into = []
        const operations = made.get(proof) ?? new Map<string, string[]>()
        made.set(proof, operations.set(operation, into))
      } else if (line.includes(base)) into?.push(line)
    }
    const driver = made.get('driver')!
    const table: string[] = []
    for (const [proof, operations] of made) {
      if (proof === 'driver') continue
      expect(operations.size).toBe(driver.size)
      for (const [operation, lines] of operations) {
        const more = lines.length - driver.get(operation)!.length
        table.push(`${proof} ${operation}: ${driver.get(operation)!.length} + ${more}`)
        const atFile = ['readSync', 'read', 'append', 'appendSync', 'sync'].includes(operation)
        const looks = ['stat', 'readFile', 'open read'].includes(operation)
        expect(more, `${proof} ${operation}:\n${lines.join('\n')}`).toBe(atFile ? 0 : looks ? 1 : 2)
        const stats = lines.filter((line) => /statx/.test(line)).length
        expect(stats - driver.get(operation)!.filter((line) => /statx/.test(line)).length).toBe(more)
      }
    }
    expect(table).toHaveLength(3 * 19)
    say(`system calls of the driver + of the guard: ${table.filter((line) => line.startsWith('both')).join(', ')}`)
  })
})

test('nothing is left mounted', () => {
  if (process.platform === 'linux') expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(base)
})
