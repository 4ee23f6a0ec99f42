/** Where a user is named, besides the users file: what would be given to whoever gets the name next. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { AclList } from '@mailstead/acl'
import { openMounts, openUserStore, publicConfig, publicUser, registryFs } from '@mailstead/app-server'
import { readAcl, Sharing, userKey } from '@mailstead/server'
import type { Failure } from './each-store.ts'
import { isThere, type Where } from './find-user.ts'

/** Whether a list, or a broken line of it, names the user of this key. */
export function names({ entries, broken }: AclList, key: string): boolean {
  const isHim = ({ kind, name }: { readonly kind: string; readonly name: string }): boolean =>
    kind === 'user' && userKey(name) === key
  return entries.some(isHim) || broken.some(({ effect }) => isHim(effect))
}

/**
 * Who lets him see something, as the registry says; lists of public namespaces, the global file and the configuration. No store of a user
 * is opened. `failures`: what could not be looked at.
 */
export async function namedBy(
  where: Where,
  name: string,
): Promise<{ readonly found: readonly { readonly place: string }[]; readonly failures: readonly Failure[] }> {
  const key = userKey(name)
  const { data, config } = where
  const found: { readonly place: string }[] = []
  const failures: Failure[] = []
  const look = async (what: string, body: () => Promise<void> | void): Promise<void> => {
    try {
      await body()
    } catch (error) {
      failures.push({ user: what, message: (error as Error).message })
    }
  }
  if (config.namespaces.some(({ kind }) => kind === 'shared'))
    await look('the registry of what is shared', async () => {
      await using mounts = await openMounts(config.state)
      await using fs = await registryFs(data, mounts)
      await using sharing = await Sharing.open(fs, { readOnly: true })
      for (const one of (await sharing?.entries()) ?? [])
        if (one.with.some((whom) => userKey(whom) === `user=${key}`)) found.push({ place: `what ${one.owner} shares` })
    })
  for (const space of config.namespaces) {
    if (space.kind !== 'public') continue
    if (space.defaults !== undefined && names(space.defaults, key))
      found.push({ place: `default_acl of ${space.prefix}` })
    if (!isThere(join(data, space.home))) continue
    await look(space.prefix, async () => {
      const settings = publicConfig(config, space)
      await using opened = await openUserStore(data, publicUser(space), { readOnly: true, settings })
      const lists = opened.store.as({ name: 'mailstead', unrestricted: true }).acls()
      for (const [mailbox, value] of lists)
        if (names(readAcl(value), key)) found.push({ place: `the list of ${space.prefix}${mailbox}` })
    })
  }
  const global = config.acl?.global
  if (global !== undefined)
    await look(global, () => {
      for (const [at, line] of readFileSync(global, 'utf8').split('\n').entries())
        if (
          !line.startsWith('#') &&
          line.split(/[\s"]+/).some((word) => userKey(word).replace(/^-/, '') === `user=${key}`)
        )
          found.push({ place: `${global}:${at + 1}` })
    })
  return { found, failures }
}
