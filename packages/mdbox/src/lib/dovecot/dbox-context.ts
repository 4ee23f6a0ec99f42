/** What all mailboxes of one dbox store share. */
import type { Faults } from './fault.ts'
import type { FilePool } from './file-pool.ts'
import type { MdboxStorage } from './mdbox-storage.ts'
import type { NamedRoot } from './root.ts'

export interface DboxContext {
  readonly kind: 'mdbox' | 'sdbox'
  readonly root: NamedRoot
  /** Where indexes are: the same root, but for those who keep them apart. */
  readonly index: NamedRoot
  readonly alt: NamedRoot | undefined
  readonly attachments: NamedRoot | undefined
  readonly pool: FilePool
  readonly faults: Faults
  /** Of mdbox. */
  readonly storage: MdboxStorage | undefined
}
