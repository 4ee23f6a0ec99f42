import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command, Option } from 'commander'
import { initDataDirectory, initRootDirectory, USERS_FILE } from '@mailstead/app-server'

/** Roots beside the data directory. */
const OTHERS = {
  index: 'a directory for indexes',
  alternate: 'a second tier',
  attachments: 'a directory for attachments',
} as const

/** `mailstead init DIR`. */
export function initCommand(): Command {
  return new Command('init')
    .description('mark a directory as a data directory, making it if it is not there')
    .argument('<dir>')
    .addOption(new Option('--index', 'as a directory for indexes').conflicts(['alternate', 'attachments']))
    .addOption(new Option('--alternate', 'as a second tier for mail that is seldom read').conflicts('attachments'))
    .addOption(new Option('--attachments', 'as a directory for attachments that are kept once'))
    .action(async (dir: string, flags: Partial<Record<keyof typeof OTHERS, boolean>>) => {
      for (const role of ['index', 'alternate', 'attachments'] as const) {
        if (flags[role] !== true) continue
        const done = await initRootDirectory(dir, role)
        process.stdout.write(`${dir} is ${OTHERS[role]} ${done === 'made' ? 'now' : 'already'}.\n`)
        return
      }
      const outcome = await initDataDirectory(dir)
      const users = join(dir, USERS_FILE)
      if (!existsSync(users)) writeFileSync(users, '', { flag: 'wx', mode: 0o600 })
      process.stdout.write(
        outcome === 'made' ? `${dir} is a data directory now.\n` : `${dir} is a data directory already.\n`,
      )
    })
}
