/**
 * Attachments that a real Dovecot keeps outside of its messages come with the import, compared with the hashes in their names, and
 * are kept once again: in both forms of names, with links and as a restore without links leaves them.
 */
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openUserStore, readConfig } from '@mailstead/app-server'
import { run } from 'mailstead'
import { afterAll, describe, expect, vi } from 'vitest'
import { multiAppendCommand, CheapImap } from '../../bench/lib/cheap-imap.ts'
import { seeded } from '../support/depth.ts'
import { testUnless } from '../support/test-unless.ts'
import { dovecotAttachments, dovecotLack, PASSWORD, startDovecot } from './lib/servers.ts'

const scratch = mkdtempSync(join(tmpdir(), 'mailstead-import-attachments-'))
chmodSync(scratch, 0o755)
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

async function mailstead(...args: readonly string[]): Promise<{ code: number; out: string }> {
  const written: string[] = []
  const collect = (chunk: string | Uint8Array): boolean => written.push(String(chunk)) > 0
  const spies = [process.stdout, process.stderr].map((stream) => vi.spyOn(stream, 'write').mockImplementation(collect))
  try {
    return { code: await run(args), out: written.join('') }
  } finally {
    for (const spy of spies) spy.mockRestore()
  }
}

const random = seeded(7)
const noise = (size: number): Buffer => Buffer.from(Array.from({ length: size }, () => random() * 256))
const [PHOTO, OTHER] = [noise(150_000), noise(200_000)]

/** Base64 in lines, in one line, and with a byte between that makes Dovecot keep it as it is. */
function mail(number: number, attachment: Buffer, form: 'lines' | 'line' | 'raw'): Buffer {
  const text = attachment.toString('base64')
  const lines = text.replaceAll(/.{76}/g, '$&\r\n')
  const body = form === 'lines' ? lines : form === 'line' ? text : lines.replace('\r\n', ' \r\n')
  return Buffer.from(
    [
      `Subject: ${number}`,
      'MIME-Version: 1.0',
      'Content-Type: multipart/mixed; boundary=b',
      '',
      '--b',
      'Content-Type: text/plain',
      '',
      `number ${number}`,
      '--b',
      'Content-Type: image/png',
      'Content-Transfer-Encoding: base64',
      '',
      body,
      '--b--',
      '',
    ].join('\r\n'),
  )
}

const MAIL: readonly Buffer[] = [
  mail(1, PHOTO, 'lines'),
  mail(2, PHOTO, 'lines'),
  mail(3, PHOTO, 'line'),
  mail(4, OTHER, 'lines'),
  mail(5, OTHER, 'raw'),
]

interface Report {
  readonly mailboxes: readonly { readonly mailbox: string; readonly added: number; readonly left: number }[]
  readonly faults: readonly { readonly kind: string; readonly file?: string; readonly uid?: number }[]
}

async function imported(
  home: string,
  tree: string,
  name: string,
): Promise<{ code: number; report: Report; config: string }> {
  const directory = join(scratch, name)
  mkdirSync(directory)
  const config = join(directory, 'mailstead.toml')
  writeFileSync(config, 'data = "data"\n')
  expect((await mailstead('init', join(directory, 'data'))).code).toBe(0)
  writeFileSync(join(directory, 'data/users.passwd'), 'user1:{PLAIN}x\n')
  const { code, out } = await mailstead(
    'import',
    `dovecot:${home}`,
    '--attachments',
    tree,
    '--config',
    config,
    '--user',
    'user1',
    '--json',
  )
  if (!out.startsWith('{')) throw new Error(out)
  return { code, report: JSON.parse(out) as Report, config }
}

async function messages(config: string): Promise<Map<number, Buffer>> {
  const settings = readConfig(config)
  await using opened = await openUserStore(settings.data!, { name: 'user1' }, { readOnly: true, settings })
  await using inbox = await opened.store.as({ name: 'user1' }).open('INBOX')
  const found = new Map<number, Buffer>()
  for (let row = 0; row < inbox.view.count; row++) {
    await using body = await inbox.body(inbox.view, row)
    const chunks = await Array.fromAsync(body.stream(0, body.size), (chunk) => Uint8Array.from(chunk))
    found.set(inbox.view.uid(row), Buffer.concat(chunks))
  }
  return found
}

function filesBelow(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' }).filter((name) =>
    statSync(join(directory, name)).isFile(),
  )
}

/** As a restore leaves it: each name a file of its own. */
function unlink(tree: string): void {
  for (const name of filesBelow(tree)) {
    const bytes = readFileSync(join(tree, name))
    rmSync(join(tree, name))
    writeFileSync(join(tree, name), bytes)
  }
}

function damage(file: string): void {
  const bytes = readFileSync(file)
  bytes[bytes.length >> 1]! ^= 1
  writeFileSync(file, bytes)
}

describe('attachments of Dovecot', () => {
  for (const box of ['mdbox', 'sdbox'] as const)
    testUnless(dovecotLack(), `(${box}) come with their messages, verified, and are kept once again`, async () => {
      const directory = join(scratch, box)
      mkdirSync(directory, { mode: 0o755 })
      {
        await using server = await startDovecot({ directory, box, dovecotConfig: dovecotAttachments('16k') })
        const client = await CheapImap.login(server.imap, 'user1', PASSWORD)
        await client.send(
          multiAppendCommand(
            'INBOX',
            MAIL.map((bytes) => ({ bytes, flags: '' })),
          ),
        )
        await client.run('LOGOUT')
        client.close()
      }
      const home = join(directory, 'home/user1')
      const tree = join(directory, 'home/attachments')
      const names = filesBelow(tree)
      const shared = names.filter((name) => name.includes('/hashes/'))
      // Two photos and what could not be decoded.
      expect([names.length, shared.length]).toEqual([MAIL.length + 3, 3])

      const first = await imported(home, tree, `${box}-first`)
      expect(first.report).toMatchObject({ faults: [], mailboxes: [{ mailbox: 'INBOX', added: 5, left: 0 }] })
      expect(first.code).toBe(0)
      const found = await messages(first.config)
      for (const [i, bytes] of MAIL.entries()) expect(found.get(i + 1)!.equals(bytes)).toBe(true)
      const stats = await mailstead('attachments', 'stats', '--config', first.config)
      // Ours decodes the last one too.
      expect(stats.out).toMatch(/^user1: attachments=5 different=2 bytes=850000 stored=3\d{5} /)
      expect(await mailstead('check', '--config', first.config)).toMatchObject({ code: 0 })
      expect((await mailstead('attachments', 'verify', `dovecot:${tree}`)).out).toMatch(
        /^3 files .* and 5 links .* 0 damaged/,
      )

      // Links became files, and one reference of each attachment is damaged: others of the same hash stand in.
      unlink(tree)
      const digests = shared.map((name) => name.slice(name.lastIndexOf('/') + 1))
      const references = digests.map((digest) => names.filter((name) => name.includes(`/${digest}-`)))
      for (const list of references) damage(join(tree, list[0]!))
      expect(await mailstead('attachments', 'verify', `dovecot:${tree}`)).toMatchObject({
        code: 1,
        out: expect.stringMatching(/8 files .* 3 damaged, 0 not verified/) as string,
      })
      const second = await imported(home, tree, `${box}-second`)
      expect(second.report.mailboxes).toMatchObject([{ added: 5, left: 0 }])
      expect(second.report.faults.map(({ kind, file }) => `${kind} ${file}`).sort()).toEqual(
        references
          .flatMap(([path]) => [`attachment-damaged attachments/${path}`, `attachment-lost attachments/${path}`])
          .sort(),
      )
      expect(await messages(second.config)).toEqual(found)

      // All of one attachment are damaged, and all of another are gone: their messages are named, and the others come.
      const [photo, other] = [
        digests.findIndex((_, i) => references[i]!.length === 3),
        references.findIndex((list) => list.length === 1),
      ]
      const uids = new Set<number>()
      for (const name of [...references[photo]!.slice(1), shared[photo]!]) damage(join(tree, name))
      for (const name of [...references[other]!, shared[other]!]) rmSync(join(tree, name))
      const third = await imported(home, tree, `${box}-third`)
      expect(third.code).toBe(1)
      expect(third.report.mailboxes).toMatchObject([{ added: 1, left: 4 }])
      for (const { kind, uid } of third.report.faults) if (kind === 'message-damaged') uids.add(uid!)
      expect(third.report.faults.filter(({ kind }) => kind === 'attachment-damaged').length).toBeGreaterThanOrEqual(4)
      expect(third.report.faults.some(({ kind }) => kind === 'attachment-lost')).toBe(true)
      expect(uids.size).toBe(4)
      for (const [uid, bytes] of await messages(third.config)) expect(bytes.equals(MAIL[uid - 1]!)).toBe(true)
    })
})
