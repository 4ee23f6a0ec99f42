/** A volume that does not answer, as one whose server is gone: the mail that is elsewhere is served as if it were unmounted. */
import { spawnSync } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { deep, type Lack } from '../support/depth.ts'
import { testUnless } from '../support/test-unless.ts'
import { deliver, message } from './lib/mail.ts'
import { namespaceLack } from './lib/namespace.ts'
import { type Role, World } from './lib/world.ts'

function fuseLack(): Lack | undefined {
  try {
    closeSync(openSync('/dev/fuse', 'r+'))
  } catch (error) {
    return { reason: `/dev/fuse cannot be opened: ${(error as Error).message}` }
  }
  return namespaceLack()
}

/** Mounts a file system that nobody serves; disposing ends everybody's waiting, and unmounts it. */
function hang(world: World, role: Role): Disposable {
  const fuse = openSync('/dev/fuse', 'r+')
  const options = 'fd=3,rootmode=40000,user_id=0,group_id=0'
  const [command, ...rest] = [...world.namespace.enter, 'mount', '-i', '-t', 'fuse', 'dead', world.at(role)]
  const { status } = spawnSync(command!, [...rest, '-o', options], { stdio: ['ignore', 'ignore', 'inherit', fuse] })
  expect(status).toBe(0)
  return {
    [Symbol.dispose]() {
      closeSync(fuse)
      world.unmount(role, 'lazy')
    },
  }
}

testUnless(
  fuseLack(),
  'a second tier or attachments that hang leave the rest of the mail, also for who comes then',
  async () => {
    await using world = await World.make('tmpfs')
    expect(await world.start()).toBe('ready')
    for (const one of [message('small', false), message('large', true), message('old', false)])
      expect(await deliver(world, [one])).toEqual([250])
    {
      await using client = await world.logIn()
      await client.ok('SELECT INBOX')
      await client.ok('UID STORE 3 +FLAGS ($Old)')
    }
    expect((await world.command('altmove', '--user', 'ann', 'keyword', '$Old')).output).toMatch(/^1 messages moved/)
    // Each is away for some seconds, as long as an answer may take.
    for (const role of deep() ? (['alternate', 'attachments'] as const) : (['alternate'] as const)) {
      expect(await world.stop()).toBe(0)
      world.unmount(role)
      {
        using _hanging = hang(world, role)
        expect(await world.start()).toBe('ready')
        await using client = await world.logIn()
        await client.ok('SELECT INBOX')
        await client.ok('UID FETCH 1 BODY.PEEK[]')
        const away = await client.command(`UID FETCH ${role === 'alternate' ? 3 : 2} BODY.PEEK[]`)
        expect(`${away.status} ${away.text}`).toMatch(/^NO \[UNAVAILABLE\]/)
        await client.ok('NOOP')
      }
      world.mount(role)
      await using client = await world.logIn()
      await client.ok('SELECT INBOX')
      while ((await client.command('UID FETCH 1:3 BODY.PEEK[]')).status !== 'OK') await sleep(50)
    }
  },
)
