/**
 * A real S3 server for tests: Ceph's monitor, one disk in memory and radosgw, from Debian's packages.
 *
 * The monitor's port is fixed, so there is one at a time on a machine: whoever wants one waits for a kernel lock, which dies
 * with its holder. Daemons that a killed holder left behind are found by their pid files in the one directory, and ended.
 */
import { execFile } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3'
import type { Fs } from '../src/lib/contract.ts'
import { posixFs } from '../src/lib/posix.ts'
import { type S3FsOptions, s3Fs } from '../src/lib/s3.ts'

export interface Ceph extends AsyncDisposable {
  readonly endpoint: string
  readonly bucket: string
  /** A file system below a prefix of its own, so that it is empty; the server outlives it. */
  fs(options?: Partial<S3FsOptions>): Fs
}

const run = promisify(execFile)
const SCRIPT = resolve(import.meta.dirname, '../../../../shared/tools/ceph-up.sh')
const PROGRAMS = ['ceph-mon', 'ceph-osd', 'radosgw', 'radosgw-admin', 'ceph', 'bc', 'curl']
const CREDENTIALS = { accessKeyId: 'TESTKEY', secretAccessKey: 'TESTSECRET' }
const BUCKET = 'mailstead'
/** Longest name of an object that the disk takes, in bytes; the script's 256 is less than a name of 255 bytes below a prefix needs. */
const OBJECT_NAME_BYTES = 2048

/** Why there can be none here; undefined if there can. At depth `ci` that is an error. */
export function cephMissing(): string | undefined {
  const missing = findMissing()
  if (missing !== undefined && process.env['MAILSTEAD_DEPTH'] === 'ci') throw new Error(`no Ceph: ${missing}`)
  return missing
}

function findMissing(): string | undefined {
  if (process.getuid?.() !== 0) return 'not root'
  if (!existsSync(SCRIPT)) return `${SCRIPT} is not there`
  const paths = (process.env['PATH'] ?? '').split(':')
  const absent = PROGRAMS.filter((program) => !paths.some((path) => existsSync(join(path, program))))
  return absent.length === 0 ? undefined : `${absent.join(', ')} not installed`
}

/** Waits for its turn, and starts a server with an empty bucket. */
export async function startCeph(): Promise<Ceph> {
  const base = join(tmpdir(), 'mailstead-ceph')
  const directory = join(base, 'server')
  await mkdir(base, { recursive: true })
  const locks = await posixFs(base)
  const lock = await locks.lock('lock')
  await lock.acquire()
  const release = async (): Promise<void> => {
    await stop(directory)
    await lock[Symbol.asyncDispose]()
    await locks[Symbol.asyncDispose]()
  }
  try {
    await stop(directory)
    const port = await freePort()
    await run('bash', [SCRIPT, directory, 'memstore', `${port}`])
    const socket = join(directory, 'run', 'osd.0.asok')
    await run('ceph', ['--admin-daemon', socket, 'config', 'set', 'osd_max_object_name_len', `${OBJECT_NAME_BYTES}`])
    const endpoint = `http://127.0.0.1:${port}`
    const options = { endpoint, region: 'us-east-1', credentials: CREDENTIALS }
    const client = new S3Client({ ...options, forcePathStyle: true })
    await client.send(new CreateBucketCommand({ Bucket: BUCKET }))
    client.destroy()
    let count = 0
    return {
      endpoint,
      bucket: BUCKET,
      fs: (fsOptions = {}) =>
        s3Fs({ ...options, bucket: BUCKET, prefix: `test/${++count}`, quotedIfMatch: false, ...fsOptions }),
      [Symbol.asyncDispose]: release,
    }
  } catch (error) {
    await release()
    throw error
  }
}

/** Ends the daemons whose pid files are there, if they are still the ones that wrote them, and removes everything. */
async function stop(directory: string): Promise<void> {
  const pids = join(directory, 'run')
  if (existsSync(pids))
    for (const name of readdirSync(pids)) {
      if (!name.endsWith('.pid')) continue
      const pid = Number(readFileSync(join(pids, name), 'utf8'))
      if (isOurs(pid, directory)) process.kill(pid, 'SIGKILL')
      while (isOurs(pid, directory)) await sleep(5)
    }
  await rm(directory, { recursive: true, force: true })
}

function isOurs(pid: number, directory: string): boolean {
  try {
    return pid > 1 && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(directory)
  } catch {
    return false
  }
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening))
  const address = server.address()
  await new Promise((closed) => server.close(closed))
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}
