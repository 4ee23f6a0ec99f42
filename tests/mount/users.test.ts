/** The users file in the data directory, as it is by default: another data volume in its place makes nobody unknown. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { testUnless } from '../support/test-unless.ts'
import { deliver, message } from './lib/mail.ts'
import { namespaceLack } from './lib/namespace.ts'
import { PASSWORD, USER, World } from './lib/world.ts'

testUnless(
  namespaceLack(),
  'mail is deferred, not refused, while another data volume has another users file',
  async () => {
    await using world = await World.make('tmpfs')
    writeFileSync(world.config, readFileSync(world.config, 'utf8').replace('users = "users"\n', ''))
    const file = world.namespace.path(join(world.at('data'), 'users.passwd'))
    writeFileSync(file, `${USER}:{PLAIN}${PASSWORD}\n`)
    expect(await world.start()).toBe('ready')
    expect(await deliver(world, [message('first', false)])).toEqual([250])
    for (const instead of ['wrong-data', 'empty-data', undefined]) {
      world.unmount('data', 'lazy')
      if (instead !== undefined) world.mount('data', instead)
      if (instead === 'wrong-data') writeFileSync(file, 'eve:{PLAIN}other\n')
      const codes = await deliver(world, [message('away', false)])
      expect([250, 451], instead ?? 'nothing').toContain(codes[0])
      if (instead === 'wrong-data') {
        expect(await world.stop()).toBe(0)
        expect(await world.start()).toBe(1)
        expect(world.log).toMatch(/mount|volume/)
        world.unmount('data')
        world.mount('data')
        expect(await world.start()).toBe('ready')
        continue
      }
      if (instead !== undefined) world.unmount('data', 'lazy')
      world.mount('data')
    }
    {
      await using client = await world.logIn()
      await client.ok('SELECT INBOX')
    }
    // Nor is it taken for the right one where the list of mounts does not know it.
    expect(await world.stop()).toBe(0)
    expect((await world.command('mount', 'remove', world.at('data'))).code).toBe(0)
    world.unmount('data')
    world.mount('data', 'wrong-data')
    expect(await world.start()).toBe(1)
    expect(world.log).toContain('mailstead mount accept')
    expect((await world.command('mount', 'accept', world.at('data'))).code).toBe(0)
    expect(await world.start()).toBe('ready')
  },
)
