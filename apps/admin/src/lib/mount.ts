/**
 * `mailstead mount`: the list of what must be mounted (@mailstead/mount), whether or not a server is running.
 *
 * Exit codes: 0 done; `list`: 1 something that must be mounted is not; 1 failed, 2 misused.
 */
import { resolve } from 'node:path'
import { Argument, Command } from 'commander'
import { emptyConfig, type Mounts, openMounts, readConfig, stateDirectory } from '@mailstead/app-server'
import { MountError, type MountNotice, type MountRegistry, type MountState, type MountStatus } from '@mailstead/mount'
import { Exit } from './exit.ts'

interface MountFlags {
  readonly state?: string
  readonly config?: string
  readonly json?: boolean
}

const STATES: readonly MountState[] = ['online', 'offline', 'failover', 'ignore']

export function mountCommand(): Command {
  return new Command('mount')
    .description('what must be mounted: storage that is not is an outage')
    .addCommand(
      one('add', 'this directory must be a mount point from now on', async (list, path) => {
        say(await list.add(path))
      }),
    )
    .addCommand(
      one('remove', 'nobody asks any more whether this is mounted', async (list, path) => {
        await list.remove(path)
        process.stdout.write(`${path} is not in the list any more.\n`)
      }),
    )
    .addCommand(
      one('accept', 'what is mounted there now is what is to be there', async (list, path, roots) => {
        const status = await list.accept(path).catch((error: unknown) => {
          if (error instanceof MountError && error.code === 'MOUNT_UNKNOWN') return error
          throw error
        })
        const accepted = await roots.accept(path)
        if (!(status instanceof MountError)) say(status)
        else if (accepted.length === 0) throw status
        for (const root of accepted) process.stdout.write(`${root.path}: what is there now is its ${root.role} root.\n`)
      }),
    )
    .addCommand(
      withFlags(new Command('state'))
        .description('what is said of a mount, and what is seen; or say something else of it')
        .argument('[path]')
        .addArgument(new Argument('[state]', 'what is said of it from now on').choices(STATES))
        .action(async (path: string | undefined, state: MountState | undefined, flags: MountFlags) => {
          await withList(flags, async (list) => {
            if (path === undefined) for (const status of list.list()) say(status)
            else if (state === undefined) say(await list.observe(resolve(path)))
            else say(await list.setState(resolve(path), state))
          })
        }),
    )
    .addCommand(
      withFlags(new Command('list'))
        .description('the list, and what is seen of each')
        .option('--json', 'as one JSON value')
        .action(async (flags: MountFlags) => {
          await withList(flags, (list, notices) => report(flags, list.list(), notices))
        }),
    )
}

function withFlags(command: Command): Command {
  return command
    .option('--state <dir>', 'directory of what is known of mounts (default: STATE_DIRECTORY of the environment)')
    .option('--config <file>', 'configuration file, which names it')
}

function one(
  name: string,
  description: string,
  run: (list: MountRegistry, path: string, roots: NonNullable<Mounts['roots']>) => Promise<void>,
): Command {
  return withFlags(new Command(name))
    .description(description)
    .argument('<path>')
    .action(async (path: string, flags: MountFlags) => {
      await withList(flags, (list, _notices, roots) => run(list, resolve(path), roots))
    })
}

/** All mounts of the list were looked at. */
async function withList(
  flags: MountFlags,
  run: (
    list: MountRegistry,
    notices: readonly MountNotice[],
    roots: NonNullable<Mounts['roots']>,
  ) => Promise<void> | void,
): Promise<void> {
  const config = flags.config === undefined ? emptyConfig : readConfig(flags.config)
  const state = stateDirectory(flags.state, config)
  if (state === undefined)
    throw new Exit(2, 'nobody keeps a list: give --state DIR, or --config FILE with `state` (or STATE_DIRECTORY)')
  await using mounts = await openMounts(state)
  const list = mounts.registry!
  const notices = await list.refresh()
  for (const { kind, message } of notices) if (kind === 'damaged') process.stderr.write(`mailstead: ${message}\n`)
  await run(list, notices, mounts.roots!)
}

function say({ path, state, observed, why }: MountStatus): void {
  process.stdout.write(`${path}: ${state}, ${observed}${why === '' ? '' : `: ${why}`}\n`)
}

function report(flags: MountFlags, list: readonly MountStatus[], notices: readonly MountNotice[]): void {
  if (flags.json === true) process.stdout.write(`${JSON.stringify({ mounts: list, notices })}\n`)
  else for (const status of list) say(status)
  if (list.some(({ state, mail, observed }) => state === 'online' && mail && observed !== 'mounted')) throw new Exit(1)
}
