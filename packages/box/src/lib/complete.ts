import type { BoxHost } from './contract.ts'
import { BoxError } from './error.ts'

/** BOX_INCOMPLETE while rows may be missing (`BoxHost.isIncomplete`). Ask after a refresh. */
export function mustBeComplete(host: BoxHost): void {
  if (host.isIncomplete === true)
    throw new BoxError(
      'BOX_INCOMPLETE',
      'rows of the index are lost, or may be: what no mailbox has may be mail, so nothing is purged or moved until the store is rebuilt',
    )
}
