import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command, Option } from 'commander'
import {
  emptyConfig,
  initDataDirectory,
  initRootDirectory,
  mustBeMounted,
  openMounts,
  readConfig,
  stateDirectory,
  USERS_FILE,
} from '@mailstead/app-server'

/** Roots beside the data directory. */
const OTHERS = {
  index: 'a directory for indexes',
  alternate: 'a second tier',
  attachments: 'a directory for attachments',
} as const

type InitFlags = Partial<Record<keyof typeof OTHERS, boolean>> & { readonly state?: string; readonly config?: string }

/** `mailstead init DIR`. */
export function initCommand(): Command {
  return new Command('init')
    .description('mark a directory as a data directory, making it if it is not there')
    .argument('<dir>')
    .addOption(new Option('--index', 'as a directory for indexes').conflicts(['alternate', 'attachments']))
    .addOption(new Option('--alternate', 'as a second tier for mail that is seldom read').conflicts('attachments'))
    .addOption(new Option('--attachments', 'as a directory for attachments that are kept once'))
    .option('--state <dir>', 'directory of what is known of mounts: nothing is made where something must be mounted')
    .option('--config <file>', 'configuration file, which names it')
    .action(async (dir: string, flags: InitFlags) => {
      const config = flags.config === undefined ? emptyConfig : readConfig(flags.config)
      await using mounts = await openMounts(stateDirectory(flags.state, config))
      await mustBeMounted(dir, mounts)
      for (const role of ['index', 'alternate', 'attachments'] as const) {
        if (flags[role] !== true) continue
        const done = await initRootDirectory(dir, role, mounts)
        process.stdout.write(`${dir} is ${OTHERS[role]} ${done === 'made' ? 'now' : 'already'}.\n`)
        return
      }
      const outcome = await initDataDirectory(dir, mounts)
      const users = join(dir, USERS_FILE)
      if (!existsSync(users)) writeFileSync(users, '', { flag: 'wx', mode: 0o600 })
      process.stdout.write(
        outcome === 'made' ? `${dir} is a data directory now.\n` : `${dir} is a data directory already.\n`,
      )
    })
}
