/** The commands of IMAP as data: what the parser makes of a line, and what the engine does. */
import type { RightsChange } from './acl-session.ts'
import type { ResyncRequest, SpecialUse } from './session.ts'
import type {
  FetchRequest,
  ListRequest,
  SearchKey,
  SortCriterion,
  StatusItem,
  StoreRequest,
  Target,
  ThreadAlgorithm,
} from './vocabulary.ts'

/** RETURN options of SEARCH (RFC 4731, RFC 5182). Undefined: the plain reply of RFC 3501. */
export interface SearchReturn {
  readonly min: boolean
  readonly max: boolean
  readonly all: boolean
  readonly count: boolean
  readonly save: boolean
}

/** RETURN options of LIST (RFC 5258, RFC 5819, RFC 6154, RFC 8440). */
export interface ListReturn {
  readonly subscribed: boolean
  readonly children: boolean
  readonly specialUse: boolean
  /** RFC 8440 */
  readonly myRights: boolean
  readonly status: readonly StatusItem[] | undefined
}

export type Command =
  | {
      readonly name:
        | 'CAPABILITY'
        | 'NOOP'
        | 'LOGOUT'
        | 'STARTTLS'
        | 'CHECK'
        | 'CLOSE'
        | 'UNSELECT'
        | 'IDLE'
        | 'NAMESPACE'
    }
  | { readonly name: 'LOGIN'; readonly user: string; readonly password: string }
  /** `initial`: the initial response in base64, `=` for an empty one (RFC 4959). */
  | { readonly name: 'AUTHENTICATE'; readonly mechanism: string; readonly initial: string | undefined }
  | { readonly name: 'ENABLE'; readonly capabilities: readonly string[] }
  /** Undefined: NIL. */
  | { readonly name: 'ID'; readonly fields: ReadonlyMap<string, string | undefined> | undefined }
  | {
      readonly name: 'SELECT' | 'EXAMINE'
      readonly mailbox: string
      readonly condstore: boolean
      readonly resync: ResyncRequest | undefined
    }
  | { readonly name: 'CREATE'; readonly mailbox: string; readonly specialUse: readonly SpecialUse[] }
  | { readonly name: 'DELETE' | 'SUBSCRIBE' | 'UNSUBSCRIBE'; readonly mailbox: string }
  | { readonly name: 'RENAME'; readonly from: string; readonly to: string }
  | {
      readonly name: 'LIST' | 'LSUB'
      readonly request: ListRequest
      /** LIST "" "": only the delimiter is asked for. */
      readonly rootOnly: boolean
      /** The command has options of RFC 5258: undefined RETURN is not the same as none. */
      readonly extended: boolean
      readonly returns: ListReturn
    }
  | { readonly name: 'STATUS'; readonly mailbox: string; readonly items: readonly StatusItem[] }
  | { readonly name: 'EXPUNGE'; readonly uids: Target | undefined }
  | {
      readonly name: 'SEARCH'
      readonly uid: boolean
      readonly key: SearchKey
      readonly returns: SearchReturn | undefined
      /** The key has MODSEQ, so the reply has it too (RFC 7162 §3.1.5). */
      readonly modSeq: boolean
    }
  | {
      readonly name: 'SORT'
      readonly uid: boolean
      readonly criteria: readonly SortCriterion[]
      readonly key: SearchKey
      readonly modSeq: boolean
    }
  | {
      readonly name: 'THREAD'
      readonly uid: boolean
      readonly algorithm: ThreadAlgorithm
      readonly key: SearchKey
      readonly modSeq: boolean
    }
  | { readonly name: 'FETCH'; readonly uid: boolean; readonly target: Target; readonly request: FetchRequest }
  | { readonly name: 'STORE'; readonly uid: boolean; readonly target: Target; readonly request: StoreRequest }
  | { readonly name: 'COPY' | 'MOVE'; readonly uid: boolean; readonly target: Target; readonly mailbox: string }
  | { readonly name: 'GETACL' | 'MYRIGHTS'; readonly mailbox: string }
  | {
      readonly name: 'SETACL'
      readonly mailbox: string
      readonly identifier: string
      readonly change: RightsChange
    }
  | { readonly name: 'DELETEACL' | 'LISTRIGHTS'; readonly mailbox: string; readonly identifier: string }

export type CommandName = Command['name'] | 'APPEND'

export interface ParsedCommand {
  readonly tag: string
  readonly command: Command
}

/** One message of APPEND, up to its literal. */
export interface AppendPart {
  readonly flags: number
  readonly keywords: readonly string[]
  readonly dateMs: number | undefined
}

export interface AppendHead extends AppendPart {
  readonly tag: string
  readonly mailbox: string
}
