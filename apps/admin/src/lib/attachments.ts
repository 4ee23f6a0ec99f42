/**
 * `mailstead attachments`: looks after attachments that are kept once, beside a running server (`repair` alone is not).
 *
 * Exit codes: `check` and `repair` as the commands of those names, of all that is said of attachments; `sweep`, `stats`: 0 done, 2 a store could not be
 * looked at; `verify`: 0 every file is what its name says, 1 not every one, 2 it could not be looked at.
 */
import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { Command } from 'commander'
import { attachmentsRoot } from '@mailstead/app-server'
import { posixFs } from '@mailstead/fs/posix'
import { readAttachments } from '@mailstead/mdbox/dovecot'
import { checkStores, reportFindings } from './check.ts'
import { homeOf } from './dovecot-source.ts'
import { eachStore, graceOf, type StoresFlags, tell } from './each-store.ts'
import { Exit } from './exit.ts'
import type { Where } from './find-user.ts'
import { repairStores, reportRecords } from './repair.ts'

interface SweepFlags extends StoresFlags {
  readonly graceHours?: string
}
interface RepairFlags extends StoresFlags {
  readonly dryRun?: boolean
}

/** What of a check is about attachments, or keeps them from being looked at. */
const KINDS =
  /^(?:blob-|hold-|row-missing$|uses-(?:mis|un)counted$|name-unknown$|domain-|index-missing$|store-unopenable$|unreadable$)/

export function attachmentsCommand(): Command {
  return new Command('attachments')
    .description('look after attachments that are kept once')
    .addCommand(
      withFlags(new Command('check'))
        .description('look for damage, and for what is missing or counted wrong; nothing is changed')
        .action(async (flags: StoresFlags) => {
          const all = await checkStores(flags)
          reportFindings(flags, { ...all, findings: all.findings.filter(({ kind }) => KINDS.test(kind)) })
        }),
    )
    .addCommand(
      withFlags(new Command('sweep'))
        .description('give back the space of attachments that nobody has used for the grace period')
        .option('--grace-hours <hours>', 'another grace period than that of the configuration')
        .action(sweep),
    )
    .addCommand(withFlags(new Command('stats')).description('what keeping them once saves, by user').action(stats))
    .addCommand(
      withFlags(new Command('repair'))
        .description('count their uses again and find them again after a restore, while nobody has the stores open')
        .option('--dry-run', 'say what would be done, and change nothing')
        // It is the repair of the whole store, and all that was done is said.
        .action(async (flags: RepairFlags) => reportRecords(flags, await repairStores(flags))),
    )
    .addCommand(
      new Command('verify')
        .description("compare every file of Dovecot's attachments with the hash in its name; nothing is changed")
        .argument('<source>', 'dovecot:DIR, where DIR is what mail_attachment_dir names')
        .option('--json', 'one JSON value')
        .action(verify),
    )
}

function withFlags(command: Command): Command {
  return command
    .option('--data <dir>', 'data directory')
    .option('--user <name>', 'only this user (default: all)')
    .option('--users <file>', 'users file (default: users.passwd in the data directory)')
    .option('--config <file>', 'configuration file, which says where attachments are')
    .option('--json', 'one JSON value')
}

async function sweep(flags: SweepFlags): Promise<void> {
  const grace = graceOf(flags.graceHours)
  const swept: unknown[] = []
  const { failures } = await eachStore(flags, { readOnly: false }, async (user, store) => {
    const report = await store.sweepAttachments(grace)
    if (report === undefined) return
    const { blobs, bytes, left, unexplained } = report
    const { unusedBlobs = 0, unusedBytes = 0 } = (await store.attachmentStats()) ?? {}
    const unpurged = await store.unpurged()
    swept.push({
      user,
      blobs,
      bytes,
      left,
      unexplained,
      unpurged,
      waitingBlobs: unusedBlobs,
      waitingBytes: unusedBytes,
    })
    if (flags.json === true) return
    const waiting = unusedBlobs === 0 ? '' : `, ${unusedBlobs} (${unusedBytes} bytes) wait for their grace period`
    process.stdout.write(`${user}: ${blobs} attachments removed (${bytes} bytes)${waiting}\n`)
    if (unpurged > 0)
      process.stdout.write(
        `${user}: ${unpurged} messages wait for a purge, and theirs with them: mailstead purge --user ${user}\n`,
      )
    if (unexplained > 0)
      process.stdout.write(
        `${user}: ${unexplained} attachments that the index does not know are in messages that it does not know either, and stay. If the index alone was restored, move it away and run: mailstead rebuild --user ${user}\n`,
      )
  })
  if (flags.json === true) process.stdout.write(`${JSON.stringify({ swept, failures })}\n`)
  tell(failures)
}

interface UserStats {
  readonly user: string
  readonly blobs: number
  readonly references: number
  readonly logicalBytes: number
  readonly storedBytes: number
  readonly savings: number
}

async function stats(flags: StoresFlags): Promise<void> {
  const users: UserStats[] = []
  const { where, failures } = await eachStore(flags, { readOnly: true }, async (user, store) => {
    const found = await store.attachmentStats()
    if (found !== undefined) users.push({ user, ...found })
  })
  const logicalBytes = users.reduce((sum, one) => sum + one.logicalBytes, 0)
  // Blobs that several users share are counted with each of them: what they take together only the disk knows.
  const disk = flags.user === undefined ? await bytesBelow(where) : undefined
  const total = {
    logicalBytes,
    diskBytes: disk,
    savings: disk === undefined || logicalBytes === 0 ? undefined : 1 - disk / logicalBytes,
  }
  if (flags.json === true) process.stdout.write(`${JSON.stringify({ users, total, failures })}\n`)
  else {
    for (const { user, blobs, references, logicalBytes: logical, storedBytes, savings } of users)
      process.stdout.write(
        `${user}: attachments=${references} different=${blobs} bytes=${logical} stored=${storedBytes} saved=${percent(savings)}\n`,
      )
    if (disk !== undefined)
      process.stdout.write(
        `${users.length} users: bytes=${logicalBytes} on disk=${disk} saved=${percent(total.savings ?? 0)}\n`,
      )
  }
  tell(failures)
}

function percent(share: number): string {
  const rounded = (share * 100).toFixed(1)
  return `${rounded === '-0.0' ? '0.0' : rounded}%`
}

/** Of all files there, whoever uses them; undefined if they are away or were never made. */
async function bytesBelow({ data, config }: Where): Promise<number | undefined> {
  const path = attachmentsRoot({ data, path: config.attachments.path })
  if (statSync(path, { throwIfNoEntry: false }) === undefined) return undefined
  await using fs = await posixFs(path)
  let bytes = 0
  const add = async (directory: string): Promise<void> => {
    for await (const page of fs.list(directory))
      for (const { name, kind } of page) {
        const below = directory === '' ? name : `${directory}/${name}`
        if (kind === 'directory') await add(below)
        else bytes += (await fs.stat(below))?.size ?? 0
      }
  }
  await add('')
  return bytes
}

async function verify(source: string, flags: { readonly json?: boolean }): Promise<void> {
  const directory = resolve(homeOf(source))
  if (statSync(directory, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw new Exit(2, `the directory ${directory} is not there: perhaps its file system is not mounted`)
  await using fs = await posixFs(directory)
  const sum = { files: 0, links: 0, bytes: 0, whole: 0, damaged: 0, unverified: 0, unreadable: 0 }
  const wrong: { readonly file: string; readonly verdict: string; readonly message: string }[] = []
  for await (const page of readAttachments({ fs, path: '' }))
    for (const { path, size, isLink, verdict, message } of page) {
      sum[verdict]++
      if (isLink) sum.links++
      else {
        sum.files++
        sum.bytes += size
      }
      if (verdict !== 'whole') wrong.push({ file: path, verdict, message })
    }
  if (flags.json === true) process.stdout.write(`${JSON.stringify({ ...sum, wrong })}\n`)
  else {
    for (const { file, verdict, message } of wrong)
      process.stdout.write(`${verdict}: ${JSON.stringify(file)}: ${message}\n`)
    process.stdout.write(
      `${sum.files} files (${sum.bytes} bytes) and ${sum.links} links to them, ${sum.damaged} damaged, ${sum.unverified} not verified, ${sum.unreadable} unreadable\n`,
    )
  }
  if (sum.unreadable > 0) throw new Exit(2)
  if (wrong.length > 0) throw new Exit(1)
}
