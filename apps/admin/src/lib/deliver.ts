import { createReadStream } from 'node:fs'
import { Command } from 'commander'
import { openUserStore } from '@mailstead/app-server'
import { mustFindUser, whereOf, type WhereFlags } from './find-user.ts'

interface DeliverFlags extends WhereFlags {
  readonly user: string
  readonly mailbox: string
}

/** `mailstead deliver`: a message into a mailbox, whether or not a server is running. */
export function deliverCommand(): Command {
  return new Command('deliver')
    .description('put a message into a mailbox')
    .argument('[file]', 'the message (default: standard input)')
    .requiredOption('--user <name>')
    .option('--mailbox <name>', 'mailbox', 'INBOX')
    .option('--data <dir>', 'data directory')
    .option('--users <file>', 'users file (default: users.passwd in the data directory)')
    .option('--config <file>', 'configuration file')
    .action(async (file: string | undefined, flags: DeliverFlags) => {
      const where = whereOf(flags)
      const user = mustFindUser(where, flags.user)
      const source: AsyncIterable<Uint8Array> = file === undefined ? process.stdin : createReadStream(file)
      await using opened = await openUserStore(where.data, user, { create: true })
      await using batch = opened.store.as({ name: user.name }).save()
      await batch.add(source, [{ mailbox: flags.mailbox }])
      const [saved] = await batch.commit()
      process.stdout.write(`${saved!.mailbox} ${saved!.uid}\n`)
    })
}
