/**
 * The policy by which a mailbox was opened: which flags are the user's own. It stays in force as long as it says the same. Looked at with every
 * command, so it is the same object that tells that nothing changed; what policies say is compared only after a change of the store.
 */
import { formatPrivacyPolicy, type PrivacyPolicy } from '@mailstead/acl/private-flags'
import type { Mailbox, StoreSession } from '@mailstead/store'

export class OpenedPolicy {
  readonly #store: StoreSession
  readonly #mailbox: Mailbox
  readonly #text: string
  /** That said the same when it was last asked for. */
  #same: PrivacyPolicy | undefined

  /** Undefined for a user who has no flags of his own anywhere. */
  static of(store: StoreSession, mailbox: Mailbox): OpenedPolicy | undefined {
    return 'privateFlags' in store.subject ? new OpenedPolicy(store, mailbox) : undefined
  }

  private constructor(store: StoreSession, mailbox: Mailbox) {
    this.#store = store
    this.#mailbox = mailbox
    this.#same = this.#newest()
    this.#text = this.#same === undefined ? '' : formatPrivacyPolicy(this.#same)
  }

  isInForce(): boolean {
    const policy = this.#newest()
    // A mailbox that was removed, or may be read no more: that is told by what is done with it.
    if (policy === undefined || policy === this.#same) return true
    if (formatPrivacyPolicy(policy) !== this.#text) return false
    this.#same = policy
    return true
  }

  #newest(): PrivacyPolicy | undefined {
    try {
      return this.#store.privacy(this.#mailbox.name)
    } catch {
      return undefined
    }
  }
}
