import { type FileHandle, open } from 'node:fs/promises'
import { Command } from 'commander'
import { openUserStore } from '@mailstead/app-server'
import { Exit } from './exit.ts'
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
      await using input = file === undefined ? undefined : await opened(file)
      const source: AsyncIterable<Uint8Array> = input?.createReadStream({ autoClose: false }) ?? process.stdin
      await using storage = await openUserStore(where.data, user, { create: true, settings: where.config })
      await using batch = storage.store.as({ name: user.name }).save()
      await batch.add(source, [{ mailbox: flags.mailbox }])
      const [saved] = await batch.commit()
      process.stdout.write(`${saved!.mailbox} ${saved!.uid}\n`)
    })
}

/** Opened before anything is made, so that a name that is mistyped leaves no store behind. */
async function opened(file: string): Promise<FileHandle> {
  try {
    const handle = await open(file)
    if (!(await handle.stat()).isDirectory()) return handle
    await handle.close()
  } catch (error) {
    throw new Exit(2, `${file} cannot be read: ${(error as Error).message}`)
  }
  throw new Exit(2, `${file} is a directory, not a message`)
}
