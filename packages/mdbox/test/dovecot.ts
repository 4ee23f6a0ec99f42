/** A real Dovecot for tests, where there is one. */
import { execFile, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { appendFile, chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

const run = promisify(execFile)

/** Set where nothing may be skipped. */
const deep = /^(?:ci|soak)$/.test(process.env['MAILSTEAD_DEPTH'] ?? '')

/** Runs the test if there is nothing that prevents it, else says what does; a deep run fails then. */
export function unless(reason: string | undefined, name: string, body: () => Promise<void>): void {
  if (reason === undefined) {
    test(name, body)
  } else if (deep) {
    test(name, () => {
      throw new Error(`nothing may be skipped in a deep run: ${reason}`)
    })
  } else {
    console.log(`skipped: ${name}: ${reason}`)
    test.skip(`${name} (skipped: ${reason})`, () => {})
  }
}

/** A Dovecot without a server: doveadm on a directory of its own, as `nobody`. */
export class Dovecot implements AsyncDisposable {
  readonly directory: string
  readonly #config: string

  private constructor(directory: string) {
    this.directory = directory
    this.#config = join(directory, 'dovecot.conf')
  }

  /** `settings`: beside what every one needs. */
  static async create(more: (directory: string) => Readonly<Record<string, string>> = () => ({})): Promise<Dovecot> {
    const directory = await mkdtemp(join(tmpdir(), 'mdbox-dovecot-'))
    const dovecot = new Dovecot(directory)
    await chmod(directory, 0o755)
    await mkdir(join(directory, 'home'))
    const settings = {
      base_dir: join(directory, 'run'),
      state_dir: join(directory, 'run'),
      log_path: join(directory, 'log'),
      mail_location: `mdbox:${join(directory, 'home/mdbox')}`,
      mail_home: join(directory, 'home'),
      mail_uid: 'nobody',
      mail_gid: 'nogroup',
      first_valid_uid: '1',
      ssl: 'no',
      protocols: '',
      ...more(directory),
    }
    const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}\n`)
    await writeFile(dovecot.#config, `${lines.join('')}namespace inbox {\n  inbox = yes\n  separator = /\n}\n`)
    await writeFile(join(directory, 'log'), '')
    await chmod(join(directory, 'log'), 0o666)
    await dovecot.own()
    // An index must be there, or a rebuild does not look.
    await dovecot.doveadm('force-resync', '*')
    await dovecot.doveadm('mailbox', 'create', 'Before')
    return dovecot
  }

  /** Everything in the home belongs to Dovecot's user. */
  async own(): Promise<void> {
    await run('chown', ['-R', 'nobody:nogroup', join(this.directory, 'home')])
  }

  get #env(): NodeJS.ProcessEnv {
    return { PATH: process.env['PATH'], HOME: join(this.directory, 'home'), USER: 'nobody' }
  }

  async doveadm(...args: readonly string[]): Promise<string> {
    const { stdout } = await run('doveadm', ['-c', this.#config, ...args], { env: this.#env })
    return stdout
  }

  /** Bodies of a mailbox as IMAP serves them, by their position. */
  async bodies(mailbox: string): Promise<Buffer[]> {
    const input = join(this.directory, 'input')
    await run('sh', ['-c', 'rm -f "$1" && mkfifo "$1"', 'sh', input])
    // Through pipes: Dovecot takes a socket, as Node makes them, for a connection that is gone once we have written. Its input
    // stays open, and LOGOUT comes after the answer: otherwise it may stop in the middle of a body.
    const script = 'exec 3<>"$1" && doveadm -c "$2" exec imap <&3 3<&- | cat'
    const imap = spawn('sh', ['-c', script, 'sh', input, this.#config], {
      env: this.#env,
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    await appendFile(input, `a SELECT "${mailbox}"\r\nb FETCH 1:* (RFC822.SIZE BODY.PEEK[])\r\n`)
    const chunks: Buffer[] = []
    let end = ''
    let leaving = false
    for await (const chunk of imap.stdout as AsyncIterable<Buffer>) {
      chunks.push(chunk)
      end = (end + chunk.toString('latin1')).slice(-200)
      if (leaving || !/^b (?:OK|NO|BAD) .*\r\n$/m.test(end)) continue
      leaving = true
      await appendFile(input, 'c LOGOUT\r\n')
    }
    const all = Buffer.concat(chunks)
    const bodies: Buffer[] = []
    for (let at = 0; ; ) {
      const found = /\* [0-9]+ FETCH \(RFC822\.SIZE ([0-9]+) BODY\[\] (?:\{([0-9]+)\}\r\n|(""|NIL))/.exec(
        all.subarray(at).toString('latin1'),
      )
      if (found === null) return bodies
      const start = at + found.index + found[0].length
      const length = Number(found[2] ?? 0)
      expect(Number(found[1])).toBe(length)
      bodies.push(all.subarray(start, start + length))
      at = start + length
    }
  }

  async log(): Promise<string> {
    return (await run('cat', [join(this.directory, 'log')])).stdout
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.directory, { recursive: true, force: true })
  }
}

export function noDovecot(): string | undefined {
  if (!existsSync('/usr/bin/doveadm')) return 'no doveadm'
  return process.getuid?.() === 0 ? undefined : 'not root'
}

/** As Dovecot serves what is stored: in canonical form, and (in a literal, which may hold none) NUL as 0x80. */
export function served(body: Buffer): string {
  return body.toString('latin1').replaceAll(/\r?\n/g, '\r\n').replaceAll('\0', '\x80')
}
