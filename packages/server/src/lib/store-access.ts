/** Access control as the server has it for each store: whose it is, what the global file is asked, which list counts where none does. */
import type { AccessControlOptions } from './access-control.ts'
import { fullNames, publicStoreName } from './namespaces.ts'
import { policyOf } from './sharing-scan.ts'
import type { SharedMailOptions } from './server-options.ts'

/** Of the store that the pool knows by this name: a user's, or that of a public namespace. */
export function storeAccess(shared: SharedMailOptions, store: string): AccessControlOptions {
  const { globalFor, globalVersion, watchGlobal, namespaces = [], defaultsFromInbox = false } = shared
  const space = namespaces.find((one) => one.kind === 'public' && publicStoreName(one.prefix) === store)
  const owner = space === undefined ? store : undefined
  const of = space === undefined ? { owner: store } : { prefix: space.prefix }
  return {
    owner,
    defaults: space?.kind === 'public' ? space.defaults : undefined,
    defaultsFromInbox: owner !== undefined && defaultsFromInbox,
    globalFor:
      globalFor === undefined
        ? undefined
        : (name, toOwner) => globalFor(fullNames(namespaces, of, { name, toOwner }), owner),
    globalVersion,
    watchGlobal,
  }
}

/** `policyOf`, made again when the global file is another. */
export function storePolicy(shared: SharedMailOptions): () => string {
  const { namespaces = [], defaultsFromInbox = false, globalVersion, globalDigest } = shared
  let version: number | undefined
  let policy = ''
  return () => {
    const now = globalVersion?.() ?? 0
    if (now !== version) {
      version = now
      policy = policyOf(namespaces, { defaultsFromInbox, globalDigest: globalDigest?.() ?? '' })
    }
    return policy
  }
}
