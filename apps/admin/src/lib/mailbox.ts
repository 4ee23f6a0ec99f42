import { join } from 'node:path'
import { Command } from 'commander'
import { INBOX, type MailboxInfo, StoreError } from '@mailstead/store'
import { openMounts, openUserStore } from '@mailstead/app-server'
import { userDirectory } from '@mailstead/server'
import { Exit } from './exit.ts'
import { isThere, mustFindUser, whereOf, type WhereFlags } from './find-user.ts'
import { mustBeThere } from './subjects.ts'

interface MailboxFlags extends WhereFlags {
  readonly user: string
  readonly json?: boolean
}

/** `mailstead mailbox list|status`: read-only. */
export function mailboxCommand(): Command {
  const list = withFlags(new Command('list').description('names of the mailboxes')).action(
    async (flags: MailboxFlags) => {
      const infos = await mailboxes(flags)
      if (flags.json === true) process.stdout.write(`${JSON.stringify(infos.map(({ name }) => name))}\n`)
      else for (const { name } of infos) process.stdout.write(`${name}\n`)
    },
  )
  const status = withFlags(new Command('status').description('counters of the mailboxes').argument('[name...]')).action(
    async (given: string[], flags: MailboxFlags) => {
      const infos = await mailboxes(flags)
      const names = given.map((name) => (name.toUpperCase() === INBOX ? INBOX : name))
      for (const name of names)
        if (!infos.some((info) => info.name === name)) throw new Exit(1, `there is no mailbox ${name}`)
      const wanted = names.length === 0 ? infos : infos.filter(({ name }) => names.includes(name))
      if (flags.json === true) process.stdout.write(`${JSON.stringify(wanted)}\n`)
      else
        for (const info of wanted)
          process.stdout.write(
            `${info.name} messages=${info.count} unseen=${info.unseen} deleted=${info.deleted} bytes=${info.bytes} uidnext=${info.uidNext} uidvalidity=${info.uidValidity} highestmodseq=${info.highestModSeq} guid=${info.guid}\n`,
          )
    },
  )
  return new Command('mailbox').description("a user's mailboxes").addCommand(list).addCommand(status)
}

function withFlags(command: Command): Command {
  return command
    .requiredOption('--user <name>')
    .option('--data <dir>', 'data directory')
    .option('--users <file>', 'users file (default: users.passwd in the data directory)')
    .option('--config <file>', 'configuration file')
    .option('--json', 'one JSON value')
}

async function mailboxes(flags: MailboxFlags): Promise<readonly MailboxInfo[]> {
  const where = whereOf(flags)
  await using mounts = await openMounts(where.config.state)
  await mustBeThere(where, mounts)
  const user = mustFindUser(where, flags.user)
  const none = new Exit(1, `${flags.user} has no store yet`)
  if (!isThere(join(where.data, userDirectory(user)))) throw none
  await using opened = await openUserStore(where.data, user, { readOnly: true, settings: where.config }).catch(
    (error: unknown) => {
      throw error instanceof StoreError && error.code === 'STORE_NOT_FOUND' ? none : error
    },
  )
  return opened.store.as({ name: user.name }).mailboxes()
}
