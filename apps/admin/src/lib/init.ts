import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { initDataDirectory, USERS_FILE } from '@mailstead/app-server'

/** `mailstead init DIR`. */
export function initCommand(): Command {
  return new Command('init')
    .description('mark a directory as a data directory, making it if it is not there')
    .argument('<dir>')
    .action(async (dir: string) => {
      const outcome = await initDataDirectory(dir)
      const users = join(dir, USERS_FILE)
      if (!existsSync(users)) writeFileSync(users, '', { flag: 'wx', mode: 0o600 })
      process.stdout.write(
        outcome === 'made' ? `${dir} is a data directory now.\n` : `${dir} is a data directory already.\n`,
      )
    })
}
