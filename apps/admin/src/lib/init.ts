import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command, Option } from 'commander'
import { initDataDirectory, initRootDirectory, USERS_FILE } from '@mailstead/app-server'

/** `mailstead init DIR`. */
export function initCommand(): Command {
  return new Command('init')
    .description('mark a directory as a data directory, making it if it is not there')
    .argument('<dir>')
    .addOption(new Option('--index', 'as a directory for indexes').conflicts('alternate'))
    .addOption(new Option('--alternate', 'as a second tier for mail that is seldom read'))
    .action(async (dir: string, flags: { readonly alternate?: boolean; readonly index?: boolean }) => {
      if (flags.alternate === true || flags.index === true) {
        const done = await initRootDirectory(dir, flags.index === true ? 'index' : 'alternate')
        const what = flags.index === true ? 'a directory for indexes' : 'a second tier'
        process.stdout.write(`${dir} is ${what} ${done === 'made' ? 'now' : 'already'}.\n`)
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
