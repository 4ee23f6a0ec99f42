/** The mail of the user, and what clients know of it. */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { type ImapClient, quote, sectionOf } from '../../interop/lib/imap.ts'
import { dotStuffed, LmtpClient } from '../../interop/lib/lmtp.ts'
import { run } from '../../interop/lib/tools.ts'
import { listOf } from '../../interop/lib/values.ts'
import { USER, type World } from './world.ts'

/** Large ones have a part that is kept once. */
export function message(subject: string, large = false): Buffer {
  const noise = createHash('sha512').update(subject).digest()
  const part = Buffer.concat(
    Array.from({ length: 128 }, (_, n) => createHash('sha512').update(noise).update(`${n}`).digest()),
  )
  const attached = part.toString('base64').replaceAll(/.{76}/g, '$&\r\n')
  return Buffer.from(
    [
      `Subject: ${subject}`,
      'MIME-Version: 1.0',
      'Content-Type: multipart/mixed; boundary=b',
      '',
      '--b',
      'Content-Type: text/plain',
      '',
      `This is ${subject}.`,
      ...(large ? ['--b', 'Content-Type: application/pdf', 'Content-Transfer-Encoding: base64', '', attached] : []),
      '--b--',
      '',
    ].join('\r\n'),
  )
}

/** Codes of the replies, in order; several connections at the same time. */
export async function deliver(world: World, messages: readonly Buffer[]): Promise<number[]> {
  return Promise.all(
    messages.map(async (bytes) => {
      await using lmtp = await LmtpClient.connect(world.lmtp)
      const [reply] = await lmtp.deliver([`${USER}@example.org`], dotStuffed(bytes))
      return reply!.code
    }),
  )
}

export interface Known {
  readonly uidValidity: string
  readonly uidNext: number
  /** Flags without \Recent, and a hash of the bytes, by UID. */
  readonly rows: ReadonlyMap<number, { readonly flags: string; readonly sha: string; readonly subject: string }>
}

/** All that a client may know, by mailbox. */
export async function known(client: ImapClient): Promise<Map<string, Known>> {
  const all = new Map<string, Known>()
  const names = (await client.ok('LIST "" "*"')).untagged
    .filter(({ type }) => type === 'LIST')
    .map((response) => String(response.values()[2]))
  for (const name of names) {
    const selected = await client.ok(`EXAMINE ${quote(name)}`)
    const text = selected.untagged.map(({ raw }) => raw.toString()).join('\n')
    const rows = new Map<number, { flags: string; sha: string; subject: string }>()
    if (!/^\* 0 EXISTS/m.test(text))
      for (const row of await client.fetch('1:*', '(FLAGS BODY.PEEK[])')) {
        const bytes = sectionOf(row, 'BODY[]')
        rows.set(Number(row.get('UID')), {
          flags: listOf(row.get('FLAGS'))
            .map(String)
            .filter((flag) => flag !== '\\Recent')
            .sort()
            .join(' '),
          sha: createHash('sha256').update(bytes).digest('hex'),
          subject: /^Subject: (.*)\r$/m.exec(bytes.toString('latin1'))?.[1] ?? '',
        })
      }
    all.set(name, {
      uidValidity: /UIDVALIDITY (\d+)/.exec(text)![1]!,
      uidNext: Number(/UIDNEXT (\d+)/.exec(text)![1]),
      rows,
    })
  }
  await client.ok('UNSELECT')
  return all
}

export async function mbsync(
  config: string,
  home: string,
): Promise<{ readonly code: number | null; readonly stderr: string }> {
  return run('mbsync', ['-c', config, 'all'], { env: { HOME: home } })
}

/** Files of messages: what they hold, and when they were written. One that came again is another file, or a newer one. */
export function maildir(home: string): Map<string, string> {
  const found = new Map<string, string>()
  for (const name of readdirSync(join(home, 'mail'), { recursive: true, encoding: 'utf8' })) {
    if (!/\/(?:cur|new)\/[^/]+$/.test(name)) continue
    const path = join(home, 'mail', name)
    const { mtimeMs, ino } = statSync(path)
    const subject = /^Subject: (.*)$/m.exec(readFileSync(path, 'latin1'))?.[1] ?? ''
    found.set(`${name.split('/')[0]} ${subject} ${ino} ${mtimeMs}`, name)
  }
  return found
}
