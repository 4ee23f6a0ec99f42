/**
 * LIST of a public namespace of 1,000 mailboxes with a list each, with the rights of a user and what is unseen, beside Dovecot with its ACL
 * plugin: medians of interleaved runs, in milliseconds. `opened` counts the tables that this opens here: none.
 *
 * Mailstead runs in this process, with mdbox on disk; the client is the same for both and costs almost nothing.
 */
import { chownSync, existsSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { aclList, encodeAcl } from '@mailstead/acl'
import type { Fs } from '@mailstead/fs'
import { posixFs } from '@mailstead/fs/posix'
import { mdbox } from '@mailstead/mdbox'
import { testServer } from '@mailstead/server/testing'
import { dovecotLack, PASSWORD, startDovecot, temporaryDirectory } from '../tests/interop/lib/servers.ts'
import { readBaseline, updateBaseline, WORSE } from './lib/baseline.ts'
import { CheapImap } from './lib/cheap-imap.ts'
import { median } from './lib/statistics.ts'

export interface AclListOptions {
  readonly rounds: number
  readonly wanted: (row: string) => boolean
  readonly machine: string
  readonly update: boolean
}

interface ListFigure {
  readonly row: string
  /** Medians, in milliseconds. */
  readonly ms: { readonly ours: number; readonly dovecot?: number }
  /** Tables of mailboxes that one LIST opened here. */
  readonly opened: number
  /** Above 1: the peer takes longer. */
  readonly ratio?: number
}

const ROW = 'acl list 1k mailboxes'
const MAILBOXES = 1000
const USER = 'user1'
const PREFIX = 'Many/'
const COMMAND = `LIST "" "${PREFIX}*" RETURN (STATUS (UNSEEN))`
const MESSAGE = 'From: a@example.org\r\nSubject: x\r\n\r\nHello.\r\n'
/** Of a line of the answer, about; so that nothing is measured that was not listed. */
const LINE_BYTES = 20

/** A file system that counts the files of mailboxes' tables that are opened. */
function counting(fs: Fs, count: (path: string) => void): Fs {
  return new Proxy(fs, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key, target)
      if (key === 'open')
        return (...args: Parameters<Fs['open']>) => {
          count(args[0])
          return target.open(...args)
        }
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}

/** Measures the row if it is wanted, prints it, and returns what is worse than the baseline. */
export async function aclListBench(options: AclListOptions): Promise<readonly string[]> {
  if (!options.wanted(ROW)) return []
  await using held = new AsyncDisposableStack()
  const directory = temporaryDirectory('bench-acl')
  held.defer(() => rmSync(directory, { recursive: true, force: true }))
  let tables = 0
  const storage = async (name: string): Promise<{ fs: Fs; box: (fs: Fs) => ReturnType<typeof mdbox> }> => ({
    fs: counting(await posixFs(join(directory, name), { create: true }), (path) => {
      if (path.includes('mailbox-')) tables++
    }),
    box: (fs) => mdbox(fs, 'storage'),
  })
  const server = held.use(
    await testServer({
      users: { [USER]: PASSWORD },
      storage: ({ name }) => storage(name),
      shared: { namespaces: [{ kind: 'public', prefix: PREFIX, storage: () => storage('public') }] },
    }),
  )
  await fillOurs(server.server)
  const lack = dovecotLack()
  const peer = lack === undefined ? held.use(await startPeer()) : undefined
  const clients = {
    ours: await CheapImap.login(server.imap.port, USER, PASSWORD),
    dovecot: peer === undefined ? undefined : await CheapImap.login(peer.imap, USER, PASSWORD),
  }
  held.defer(() => {
    clients.ours.close()
    clients.dovecot?.close()
  })
  const times = { ours: [] as number[], dovecot: [] as number[] }
  let opened = 0
  for (let round = -3; round < options.rounds; round++)
    for (const side of ['ours', 'dovecot'] as const) {
      const client = clients[side]
      if (client === undefined) continue
      const [bytes, before] = [client.bytes, tables]
      const started = performance.now()
      await client.run(COMMAND)
      const ms = performance.now() - started
      if (client.bytes - bytes < MAILBOXES * LINE_BYTES) throw new Error(`${side}: not all mailboxes were listed`)
      if (round < 0) continue
      times[side].push(ms)
      if (side === 'ours') opened = Math.max(opened, tables - before)
    }
  const ours = median(times.ours)
  const dovecot = times.dovecot.length === 0 ? undefined : median(times.dovecot)
  const figure: ListFigure = {
    row: ROW,
    ms: { ours, ...(dovecot === undefined ? {} : { dovecot }) },
    opened,
    ...(dovecot === undefined ? {} : { ratio: dovecot / ours }),
  }
  process.stdout.write(
    `\n${'row'.padEnd(34)} ${'ours ms'.padStart(12)} ${'dovecot ms'.padStart(12)}   ratio  opened\n` +
      `${ROW.padEnd(34)} ${ours.toFixed(2).padStart(12)} ${(dovecot?.toFixed(2) ?? '-').padStart(12)} ${(figure.ratio?.toFixed(2) ?? '-').padStart(7)} ${String(opened).padStart(7)}\n`,
  )
  if (options.update) updateBaseline('acl', [figure], options)
  const was = readBaseline<ListFigure>('acl').get(ROW)?.ratio
  return was !== undefined && figure.ratio !== undefined && was / figure.ratio > WORSE
    ? [`${ROW}: ratio ${figure.ratio.toFixed(2)}, was ${was.toFixed(2)}`]
    : []
}

async function fillOurs({ stores }: Awaited<ReturnType<typeof testServer>>['server']): Promise<void> {
  using lease = await stores.acquire({ name: `/${PREFIX.slice(0, -1)}`, home: undefined, groups: [] })
  const session = lease.store.as({ name: 'root', unrestricted: true })
  const list = encodeAcl(aclList([{ kind: 'user', name: USER, rights: 0b1011 }]))
  for (let n = 0; n < MAILBOXES; n++) {
    await session.create(`Box ${n}`)
    await session.changeAcl(`Box ${n}`, () => list)
  }
  await using batch = session.save()
  for (let n = 0; n < MAILBOXES; n++) await batch.add(Buffer.from(MESSAGE), [{ mailbox: `Box ${n}` }])
  await batch.commit()
}

/** Dovecot with the same mailboxes; each has a `dovecot-acl`. */
async function startPeer(): Promise<{ readonly imap: number } & AsyncDisposable> {
  const server = await startDovecot({
    dovecotConfig: (directory) => `
mail_plugins = acl
protocol imap {
  mail_plugins = acl imap_acl
}
plugin {
  acl = vfile
}
namespace many {
  type = public
  separator = /
  prefix = ${PREFIX}
  location = mdbox:${directory}/home/many
  subscriptions = no
  list = yes
}
`,
  })
  const root = join(server.directory, 'home/many/mailboxes')
  const { uid, gid } = statSync(join(server.directory, 'home'))
  // Nobody may make mailboxes before somebody is given the right.
  const warm = await CheapImap.login(server.imap, USER, PASSWORD)
  await warm.run('LIST "" "*"')
  warm.close()
  const put = (path: string, text: string): void => {
    writeFileSync(path, text)
    chownSync(path, uid, gid)
  }
  if (!existsSync(root)) throw new Error(`Dovecot has made no ${root}`)
  put(join(root, 'dovecot-acl'), `user=${USER} lrwstipekxa\n`)
  const maker = await CheapImap.login(server.imap, USER, PASSWORD)
  for (let n = 0; n < MAILBOXES; n++) {
    await maker.run(`CREATE "${PREFIX}Box ${n}"`)
    await maker.run(`APPEND "${PREFIX}Box ${n}" {${MESSAGE.length}+}\r\n${MESSAGE}`)
    put(join(root, `Box ${n}/dbox-Mails/dovecot-acl`), `user=${USER} lrs\n`)
  }
  maker.close()
  return server
}
