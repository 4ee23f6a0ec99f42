/**
 * The same mail kept by the store over mdbox or sdbox, in this process, and by Dovecot over its own, through IMAP and doveadm: what
 * the rows of `box-cases.ts` do on each. A user is a store of its own, with its messages in INBOX.
 */
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { posixFs } from '@mailstead/fs/posix'
import { FLAG_DELETED } from '@mailstead/index'
import { mdbox } from '@mailstead/mdbox'
import { sdbox } from '@mailstead/mdbox/sdbox'
import { openStore, rebuildStore, type Store } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { cpuMs, processTree } from '../tests/interop/lib/processes.ts'
import { PASSWORD, type Server } from '../tests/interop/lib/servers.ts'
import { appendCommand, CheapImap, multiAppendCommand } from './lib/cheap-imap.ts'
import { forCount } from './lib/load.ts'

/** A session of one user, with INBOX open. */
export interface BoxUser extends AsyncDisposable {
  /** So many writers, each with one message after the other, each of them durable before the next. */
  save(writers: number, each: number, messages: readonly Buffer[]): Promise<void>
  /** All bytes of the first `count` messages, in order. */
  readAll(count: number): Promise<void>
  /** All bytes of one message after the other, by sequence number. */
  readEach(numbers: readonly number[]): Promise<void>
  /** The first `count` messages, to a mailbox that is there and empty. */
  copy(count: number, to: string): Promise<void>
  create(mailbox: string): Promise<void>
  /** Those that are \Deleted. */
  expunge(): Promise<void>
}

/** How messages are kept. */
export type BoxKind = 'mdbox' | 'sdbox'

export interface BoxSide {
  readonly name: 'ours' | 'dovecot'
  /** Everything it keeps lies below. */
  readonly directory: string
  /** Messages in INBOX, every second one \Deleted, a few hundred to a transaction. */
  fill(user: string, messages: Iterable<Buffer>): Promise<void>
  open(user: string): Promise<BoxUser>
  /** The files of a user whom nobody has open. */
  home(user: string): string
  purge(user: string): Promise<void>
  /** From the message files, and from what else is there. */
  rebuild(user: string): Promise<void>
  /** Takes away every index of a user, so that only message files are left. */
  loseIndex(user: string): void
  count(user: string, mailbox: string): Promise<number>
  /** CPU time in microseconds so far. */
  cpuMicros(): number
}

/** Messages in one transaction when a mailbox is filled. */
const BATCH = 400
/** Commands that wait for nothing before them, when messages are read one by one. */
const PIPELINED = 100

function* batches<T>(items: Iterable<T>): Generator<readonly T[]> {
  let batch: T[] = []
  for (const item of items) {
    if (batch.push(item) < BATCH) continue
    yield batch
    batch = []
  }
  if (batch.length > 0) yield batch
}

export class OurBoxes implements BoxSide {
  readonly name = 'ours'
  readonly directory: string
  readonly #box: typeof mdbox | typeof sdbox

  constructor(directory: string, kind: BoxKind = 'mdbox') {
    this.directory = directory
    this.#box = kind === 'mdbox' ? mdbox : sdbox
  }

  home(user: string): string {
    return join(this.directory, user)
  }

  async #store(user: string, create = false): Promise<AsyncDisposable & { readonly store: Store }> {
    const held = new AsyncDisposableStack()
    const fs = held.use(await posixFs(this.home(user), { create }))
    const store = held.use(await openStore({ owner: user, fs, box: (root) => this.#box(root, 'storage'), create }))
    return { store, [Symbol.asyncDispose]: async () => held[Symbol.asyncDispose]() }
  }

  async fill(user: string, messages: Iterable<Buffer>): Promise<void> {
    await using held = await this.#store(user, true)
    const session = held.store.as({ name: user })
    let number = 0
    for (const list of batches(messages)) {
      await using batch = session.save()
      for (const message of list)
        await batch.add(message, [{ mailbox: 'INBOX', flags: number++ % 2 === 0 ? 0 : FLAG_DELETED }])
      await batch.commit()
    }
  }

  async open(user: string): Promise<BoxUser> {
    const held = await this.#store(user)
    const session = held.store.as({ name: user })
    const inbox = await session.open('INBOX')
    await inbox.view.load(['box', 'size', 'form'])
    const readOne = async (row: number): Promise<void> => {
      using body = inbox.bodySync(inbox.view, row) ?? (await inbox.body(inbox.view, row))
      if (body.sliceSync(0, body.size) !== undefined) return
      for await (const _ of body.stream(0, body.size));
    }
    return {
      async save(writers, each, messages) {
        const workers = Array.from({ length: writers }, (_, first) => {
          let at = first
          return async () => {
            await using batch = session.save()
            await batch.add(messages[at++ % messages.length]!, [{ mailbox: 'INBOX' }])
            await batch.commit()
          }
        })
        await forCount(workers, each)
      },
      async readAll(count) {
        for (let row = 0; row < count; row++) await readOne(row)
      },
      async readEach(numbers) {
        for (const number of numbers) await readOne(number - 1)
      },
      async copy(count, to) {
        await inbox.copy(UidSet.range(inbox.view.uid(0), inbox.view.uid(count - 1)), to)
      },
      async create(mailbox) {
        await session.create(mailbox)
      },
      async expunge() {
        await inbox.expunge(undefined)
      },
      async [Symbol.asyncDispose]() {
        await inbox[Symbol.asyncDispose]()
        await held[Symbol.asyncDispose]()
      },
    }
  }

  async purge(user: string): Promise<void> {
    await using held = await this.#store(user)
    await held.store.purge()
  }

  async rebuild(user: string): Promise<void> {
    await using fs = await posixFs(this.home(user))
    for await (const _ of rebuildStore({ fs, box: (root) => this.#box(root, 'storage') }));
  }

  loseIndex(user: string): void {
    rmSync(join(this.home(user), 'index'), { recursive: true })
  }

  async count(user: string, mailbox: string): Promise<number> {
    await using held = await this.#store(user)
    return held.store.as({ name: user }).mailbox(mailbox)?.count ?? 0
  }

  cpuMicros(): number {
    const { user, system } = process.cpuUsage()
    return user + system
  }
}

export class DovecotBoxes implements BoxSide {
  readonly name = 'dovecot'
  readonly directory: string
  readonly #server: Server
  readonly #kind: BoxKind
  readonly #wrapper: readonly string[]

  /** `wrapper` is a command to run doveadm in. */
  constructor(server: Server, kind: BoxKind = 'mdbox', wrapper: readonly string[] = []) {
    this.#server = server
    this.#kind = kind
    this.directory = server.directory
    this.#wrapper = wrapper
  }

  home(user: string): string {
    return join(this.directory, 'home', user)
  }

  async fill(user: string, messages: Iterable<Buffer>): Promise<void> {
    const client = await CheapImap.login(this.#server.imap, user, PASSWORD)
    let number = 0
    for (const list of batches(messages))
      await client.send(
        multiAppendCommand(
          'INBOX',
          list.map((bytes) => ({ bytes, flags: number++ % 2 === 0 ? '' : '\\Deleted' })),
        ),
      )
    await client.run('LOGOUT')
    client.close()
  }

  async open(user: string): Promise<BoxUser> {
    const login = async (): Promise<CheapImap> => CheapImap.login(this.#server.imap, user, PASSWORD)
    const client = await login()
    const writing = [client]
    await client.run('SELECT INBOX')
    return {
      async save(writers, each, messages) {
        while (writing.length < writers) writing.push(await login())
        const commands = messages.map((bytes) => appendCommand('INBOX', bytes))
        const workers = writing.slice(0, writers).map((one, first) => {
          let at = first
          return async () => one.send(commands[at++ % commands.length]!)
        })
        await forCount(workers, each)
      },
      async readAll(count) {
        await client.run(`FETCH 1:${count} (BODY.PEEK[])`)
      },
      async readEach(numbers) {
        for (let from = 0; from < numbers.length; from += PIPELINED) {
          const list = numbers.slice(from, from + PIPELINED)
          const lines = list.map(
            (number, at) => `${at === list.length - 1 ? 'Z' : 'A'} FETCH ${number} (BODY.PEEK[])\r\n`,
          )
          await client.send(Buffer.from(lines.join('')))
        }
      },
      async copy(count, to) {
        await client.run(`COPY 1:${count} ${to}`)
      },
      async create(mailbox) {
        await client.run(`CREATE ${mailbox}`)
      },
      async expunge() {
        await client.run('EXPUNGE')
      },
      async [Symbol.asyncDispose]() {
        for (const one of writing) {
          await one.run('LOGOUT')
          one.close()
        }
      },
    }
  }

  async purge(user: string): Promise<void> {
    this.#doveadm('purge', '-u', user)
    await Promise.resolve()
  }

  async rebuild(user: string): Promise<void> {
    this.#doveadm('force-resync', '-u', user, 'INBOX')
    await Promise.resolve()
  }

  loseIndex(user: string): void {
    const storage = join(this.home(user), this.#kind)
    for (const name of readdirSync(storage, { recursive: true, encoding: 'utf8' }))
      if (/(?:^|\/)dovecot\.(?:map\.)?index[^/]*$/.test(name)) rmSync(join(storage, name))
  }

  async count(user: string, mailbox: string): Promise<number> {
    const answer = this.#doveadm('-f', 'flow', 'mailbox', 'status', '-u', user, 'messages', mailbox)
    return Promise.resolve(Number(/messages=(\d+)/.exec(answer)?.[1]))
  }

  cpuMicros(): number {
    const server = processTree(this.#server.pid).reduce((sum, pid) => sum + cpuMs(pid), 0)
    return (server + childrenMs()) * 1000
  }

  #doveadm(...args: readonly string[]): string {
    const config = join(this.directory, 'dovecot.conf')
    const [file, ...rest] = [...this.#wrapper, 'doveadm', '-c', config, ...args]
    const { status, stdout, stderr } = spawnSync(file!, rest, { encoding: 'utf8' })
    if (status !== 0) throw new Error(`doveadm ${args.join(' ')} ended with ${status}: ${stderr}`)
    return stdout
  }
}

/** User and system time of the processes that this one waited for, in milliseconds. */
function childrenMs(): number {
  const stat = readFileSync('/proc/self/stat', 'latin1')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[13]) + Number(fields[14])) * 10
}

/** Copies a user whom nobody has open; everything is flushed. */
export function cloneUser(side: BoxSide, from: string, to: string): void {
  copyFiles(side.home(from), side.home(to))
}

/** With owners and times. Flushed, since otherwise the flushes that are measured would write the copy too. */
export function copyFiles(from: string, to: string): void {
  const { status, stderr } = spawnSync('cp', ['-a', from, to], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`cp: ${stderr}`)
  spawnSync('sync', ['-f', to])
}
