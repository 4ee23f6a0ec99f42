/**
 * `mailstead altmove`, `rebuild` and `import` as processes, killed in a system call or failed by one: whoever does it again ends as if
 * nothing had happened, and meanwhile every message is there. An import may be given up instead.
 */

import { cpSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import {
  initDataDirectory,
  initRootDirectory,
  openUserStore,
  readConfig,
  rebuildUserStore,
} from '@mailstead/app-server'
import { UidSet } from '@mailstead/uidset'
import { run } from 'mailstead'
import { expect, vi } from 'vitest'
import { temporaryDirectory } from '../interop/lib/servers.ts'
import { deep, depth, say } from '../support/depth.ts'
import { plainMessage } from '../support/made-mail.ts'
import { testUnless } from '../support/test-unless.ts'
import { differences, OWNER, type Picture, pictureOf } from './store-states.ts'
import { type Fault, retriedFlushes, Strace, straceLack, type TracedCall, type TracedRun } from './strace.ts'
import { MAILSTEAD_SOURCE } from './syscall-world.ts'

/** What changes a disk. */
const CALLS = ['fdatasync', 'fsync', 'pwrite64', 'pwritev', 'rename', 'unlink', 'link', 'ftruncate', 'mkdir']
/** Calls that are tried, of those that a command makes. */
const TRIES = { normal: 1, ci: 6, soak: 100_000 }[depth()]

/** A directory with everything: data, second tier, configuration. It may be copied. */
class Place {
  readonly directory: string

  constructor(directory: string) {
    this.directory = directory
  }
  get data(): string {
    return join(this.directory, 'data')
  }
  get config(): string {
    return join(this.directory, 'mailstead.toml')
  }
  get user(): string {
    return join(this.data, 'users', OWNER.name)
  }
  /** What is imported. */
  get home(): string {
    return join(this.directory, 'home')
  }

  async open(): ReturnType<typeof openUserStore> {
    return openUserStore(this.data, OWNER, { settings: readConfig(this.config) })
  }

  /** What a client sees; `wrong` gets what a check finds. */
  async look(wrong: string[]): Promise<Picture> {
    await using opened = await this.open()
    for (const { severity, file, message } of (await Array.fromAsync(opened.store.check())).flat())
      if (severity === 'damage') wrong.push(`check: ${file} ${message}`)
    return await pictureOf(opened.store)
  }

  copy(): Place {
    const copied = new Place(`${this.directory}-copy`)
    rmSync(copied.directory, { recursive: true, force: true })
    cpSync(this.directory, copied.directory, { recursive: true })
    return copied
  }
}

async function prepared(box: 'mdbox' | 'sdbox'): Promise<Place> {
  const place = new Place(join(temporaryDirectory('commands'), 'place'))
  mkdirSync(place.directory)
  await initDataDirectory(place.data)
  const tier = '[alternate]\npath = "second"\nquery = "all"\n'
  writeFileSync(place.config, `[store]\nbox = "${box}"\ncompression = "auto"\n${box === 'mdbox' ? tier : ''}`)
  if (box === 'mdbox') await initRootDirectory(join(place.directory, 'second'), 'alternate')
  writeFileSync(join(place.data, 'users.passwd'), `${OWNER.name}:{PLAIN}x\n`, { mode: 0o600 })
  await using opened = await openUserStore(place.data, OWNER, { create: true, settings: readConfig(place.config) })
  const session = opened.store.as(OWNER)
  await session.create('Archive')
  await using batch = session.save()
  for (let number = 1; number <= 12; number++)
    await batch.add(plainMessage(number, { bodyBytes: number * 700 }), [
      { mailbox: number % 3 === 0 ? 'Archive' : 'INBOX', flags: number, keywords: number % 2 === 0 ? ['odd'] : [] },
    ])
  await batch.commit()
  await using inbox = await session.open('INBOX')
  await inbox.copy(UidSet.parse('1:3'), 'Archive')
  await inbox.expunge(UidSet.parse('2,5'), { force: true })
  await opened.store.checkpoint()
  return place
}

interface Work {
  readonly what: string
  readonly box: 'mdbox' | 'sdbox'
  readonly command: (place: Place) => readonly string[]
  /** What the command finds; nothing is lost of it. */
  readonly before?: (place: Place) => Promise<unknown>
  /** It is done again, in this process, and then once more, when there must be nothing to do: how much there was then. */
  readonly again: (place: Place) => Promise<number>
  /** What may be seen though the command was not done to its end; nothing: the store cannot be opened. */
  readonly meanwhile: Between
  /** What there must be in the end. (default: what the command alone leaves) */
  readonly end?: Between
}
type Between = (before: Picture, after: Picture) => readonly Picture[]

async function altmove(place: Place, to: 'alt' | 'primary'): Promise<number> {
  await using opened = await place.open()
  return (await opened.store.altmove({ to, where: () => true })).messages
}

/** How much it changed. */
async function rebuild(place: Place): Promise<number> {
  const pages = await Array.fromAsync(rebuildUserStore(place.data, OWNER, { settings: readConfig(place.config) }))
  return pages.flat().filter(({ kind }) => kind !== 'note').length
}

/** The table of messages and the log; snapshots know the mailboxes. */
async function lose(place: Place): Promise<void> {
  rmSync(join(place.user, 'index/tables/box.snap'), { force: true })
  rmSync(join(place.user, 'index/log'), { recursive: true })
  return Promise.resolve()
}

/** Two mailboxes with copies and subscriptions, beside an inbox that is refused. */
async function makeHome({ home }: Place): Promise<void> {
  const maildir = join(home, 'Maildir')
  for (const [number, folder] of ['', '.Old', '.Older'].entries()) {
    const directory = join(maildir, folder)
    mkdirSync(join(directory, 'cur'), { recursive: true })
    const uids = folder === '' ? [] : [1, 2, 4, 5, 9]
    const lines = uids.map((uid) => `${uid} :${uid}.mail`)
    const guid = `a${number}`.repeat(16)
    writeFileSync(join(directory, 'dovecot-uidlist'), [`3 V${number + 7} N12 G${guid}`, ...lines, ''].join('\n'))
    for (const uid of uids)
      writeFileSync(join(directory, 'cur', `${uid}.mail:2,${uid % 2 === 0 ? 'S' : ''}`), plainMessage(uid))
  }
  writeFileSync(join(maildir, 'subscriptions'), 'Old\nOlder\n')
  return Promise.resolve()
}

/** Runs the command in this process; what it prints. */
async function mailstead(place: Place, ...args: readonly string[]): Promise<string> {
  const out: string[] = []
  const spy = vi.spyOn(process.stdout, 'write').mockImplementation((chunk) => out.push(String(chunk)) > 0)
  try {
    await run(['import', ...args, '--user', OWNER.name, '--data', place.data, '--config', place.config])
  } finally {
    spy.mockRestore()
  }
  return out.join('')
}

let imports = 0
/** Every second time that it is done again, what is there is given up before. How much it brought. */
async function importAgain(place: Place): Promise<number> {
  if ((imports++ & 2) !== 0) {
    await mailstead(place, '--give-up')
    const wrong: string[] = []
    await place.look(wrong)
    expect(wrong).toEqual([])
  }
  const { mailboxes } = JSON.parse(await mailstead(place, `dovecot:${place.home}`, '--json')) as {
    mailboxes: readonly { mailbox: string; outcome: string; added: number }[]
  }
  return mailboxes.reduce((sum, { added }) => sum + added, 0)
}

/** Each mailbox is there whole or not at all; subscriptions come last. */
function parts(before: Picture, after: Picture): readonly Picture[] {
  const pictures = [after]
  for (const gone of [['Old', 'Older'], ['Older'], []])
    for (const { subscriptions } of [before, { subscriptions: ['Old'] }, after])
      pictures.push({
        mailboxes: new Map([...after.mailboxes].filter(([name]) => !gone.includes(name))),
        subscriptions,
      })
  return pictures
}

const stays: Between = (before) => [before]
const BOXES = ['mdbox', 'sdbox'] as const

const WORKS: readonly Work[] = [
  {
    what: 'altmove',
    box: 'mdbox',
    command: () => ['altmove', 'all'],
    again: (place) => altmove(place, 'alt'),
    meanwhile: stays,
    end: stays,
  },
  {
    what: 'altmove --back',
    box: 'mdbox',
    command: () => ['altmove', '--back', 'all'],
    before: (place) => altmove(place, 'alt'),
    again: (place) => altmove(place, 'primary'),
    meanwhile: stays,
    end: stays,
  },
  ...BOXES.map((box): Work => {
    const what = `rebuild of an ${box}`
    return { what, box, command: () => ['rebuild'], before: lose, again: rebuild, meanwhile: () => [], end: stays }
  }),
  ...BOXES.map((box): Work => {
    const command = ({ home }: Place): readonly string[] => ['import', `dovecot:${home}`]
    return { what: `import into an ${box}`, box, command, before: makeHome, again: importAgain, meanwhile: parts }
  }),
]

async function traced(place: Place, { command }: Work, faults: readonly Fault[]): Promise<TracedRun> {
  const where = ['--user', OWNER.name, '--data', place.data, '--config', place.config]
  const [name, ...words] = command(place)
  const args = [process.execPath, ...MAILSTEAD_SOURCE, name!, ...where, ...words]
  return Strace.run(args, join(place.directory, 'trace'), faults)
}

async function lookAndCompare(place: Place, expected: readonly Picture[]): Promise<readonly string[]> {
  const wrong: string[] = []
  const reason = differences(await place.look(wrong), expected)
  return reason === undefined ? wrong : [...wrong, reason]
}

/** Message files in the second tier, after a purge. */
async function filesLeftIn(place: Place): Promise<number> {
  {
    await using opened = await place.open()
    await opened.store.purge()
  }
  const directory = join(place.directory, 'second', 'users', OWNER.name, 'storage')
  return readdirSync(directory).filter((name) => name.startsWith('m.')).length
}

/** Kills or fails a call of the command on a copy of `place`, and judges. Resolves to whether there was such a call. */
async function attempt(place: Place, seen: readonly [Picture, Picture], work: Work, fault: Fault): Promise<boolean> {
  const copy = place.copy()
  const { calls, killed, said } = await traced(copy, work, [fault])
  const struck = killed || calls.some(({ injected }) => injected)
  const wrong: string[] = [...retriedFlushes(calls)]
  const meanwhile = work.meanwhile(...seen)
  if (meanwhile.length > 0) wrong.push(...(await lookAndCompare(copy, meanwhile)))
  await work.again(copy)
  wrong.push(...(await lookAndCompare(copy, work.end?.(...seen) ?? [seen[1]])))
  const more = await work.again(copy)
  if (more > 0) wrong.push(`done again it found ${more} to do`)
  if (work.what === 'altmove --back' && (await filesLeftIn(copy)) > 0) wrong.push('files are left in the second tier')
  expect(wrong, `${work.what}, ${fault.calls}:${fault.effect}:when=${fault.when} ${said}`).toEqual([])
  rmSync(copy.directory, { recursive: true })
  return struck
}

/** Calls of the command that change a disk, some of them, each with how often it is made. */
function chosen(calls: readonly TracedCall[], place: Place): readonly Fault[] {
  const faults: Fault[] = []
  const counts = new Map<string, number>()
  for (const { call, path } of calls) {
    if (!CALLS.includes(call) || (path !== undefined && !path.startsWith(place.directory))) continue
    const n = (counts.get(call) ?? 0) + 1
    counts.set(call, n)
    const effect = faults.length % 3 === 2 ? (call.startsWith('p') ? 'error=ENOSPC' : 'error=EIO') : 'signal=KILL'
    faults.push({ calls: call, effect, when: String(n) })
  }
  return faults.filter(
    (_, at) => Math.floor((at * TRIES) / faults.length) !== Math.floor(((at - 1) * TRIES) / faults.length),
  )
}

for (const work of deep() ? WORKS : WORKS.slice(0, 1))
  testUnless(
    straceLack(),
    `mailstead ${work.what}, killed or failed in a system call, is done again and loses nothing`,
    async () => {
      const place = await prepared(work.box)
      const before = await place.look([])
      await work.before?.(place)
      const copy = place.copy()
      const { calls } = await traced(copy, work, [])
      const wrong: string[] = []
      const after = await copy.look(wrong)
      expect(wrong).toEqual([])
      if (work.end === stays) expect(differences(after, [before])).toBeUndefined()
      const faults = chosen(calls, copy)
      expect(faults.length).toBeGreaterThan(0)
      let struck = 0
      for (const fault of faults) if (await attempt(place, [before, after], work, fault)) struck++
      say(
        `mailstead ${work.what}: ${struck} of ${faults.length} calls killed or failed: ${faults.map(({ calls: call, effect, when }) => `${call}:${effect}:${when}`).join(' ')}`,
      )
      rmSync(dirname(place.directory), { recursive: true })
    },
  )
