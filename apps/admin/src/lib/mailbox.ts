import { Command } from 'commander'
import { INBOX, type MailboxInfo, StoreError } from '@mailstead/store'
import { type AclFlags, inStore, learnLists, print, withFlags } from './acl-store.ts'
import { Exit } from './exit.ts'

/** `mailstead mailbox list|status`, which only read, and `create`. */
export function mailboxCommand(): Command {
  const list = withFlags(new Command('list').description('names of the mailboxes')).action(async (flags: AclFlags) => {
    const infos = await mailboxes(flags)
    if (flags.json === true) process.stdout.write(`${JSON.stringify(infos.map(({ name }) => name))}\n`)
    else for (const { name } of infos) process.stdout.write(`${name}\n`)
  })
  const status = withFlags(new Command('status').description('counters of the mailboxes').argument('[name...]')).action(
    async (given: string[], flags: AclFlags) => {
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
  const create = withFlags(
    new Command('create').description('make a mailbox, for whoever runs the server').argument('<name>'),
  ).action((name: string, flags: AclFlags) =>
    inStore(flags, { write: true }, async ({ session, where, owner, namespace }) => {
      await session.create(name)
      await learnLists(where, namespace ?? { owner: owner! }, session)
      const made = `${namespace?.prefix ?? ''}${name}`
      print(flags, { mailbox: made }, () => `${made} was made.`)
    }),
  )
  return new Command('mailbox')
    .description('mailboxes of a user, or of a public namespace')
    .addCommand(list)
    .addCommand(status)
    .addCommand(create)
}

async function mailboxes(flags: AclFlags): Promise<readonly MailboxInfo[]> {
  let found: readonly MailboxInfo[] = []
  try {
    await inStore(flags, { write: false }, ({ session, namespace }) => {
      // Nobody sees the INBOX of a public namespace.
      found = session.mailboxes().filter(({ name }) => namespace === undefined || name !== INBOX)
    })
  } catch (error) {
    if (!(error instanceof StoreError && error.code === 'STORE_NOT_FOUND')) throw error
    throw new Exit(1, `${flags.user ?? flags.namespace!} has no store yet`)
  }
  return found
}
