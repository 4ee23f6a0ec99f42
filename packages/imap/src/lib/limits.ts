/**
 * Every limit of the engine, with its name. A limit that is exceeded gives BAD, NO or BYE, never a crash or unbounded memory.
 */
export interface ImapLimits {
  /** Bytes of one command without its literals. (default 65 536: RFC 7162 §4 wants at least 8192) */
  readonly lineBytes: number
  /** Bytes of one literal that is not a message. (default 65 536) */
  readonly literalBytes: number
  /** Bytes of one command with its literals, messages apart. (default 262 144) */
  readonly commandBytes: number
  /** `lineBytes` before login. (default 4096) */
  readonly preAuthLineBytes: number
  /** `literalBytes` before login. (default 1024) */
  readonly preAuthLiteralBytes: number
  /** Bytes of an unwanted non-synchronizing literal that are read and thrown away; beyond it the connection is dropped. (default 134 217 728) */
  readonly swallowBytes: number
  /** Elements of one sequence set. (default 16 384) */
  readonly setElements: number
  /** Nesting of SEARCH keys. (default 32) */
  readonly searchDepth: number
  /** SEARCH keys of one command. (default 1024) */
  readonly searchKeys: number
  /** Sections of one FETCH. (default 256) */
  readonly fetchSections: number
  /** Header fields of one section. (default 512) */
  readonly headerFields: number
  /** Numbers of one section: BODY[1.2.3]. (default 100) */
  readonly partDepth: number
  /** Patterns of one LIST. (default 128) */
  readonly listPatterns: number
  /** Bytes of a mailbox name as it is on the wire. (default 1024) */
  readonly mailboxNameBytes: number
  /** Bytes of an identifier in an access control list. (default 1024) */
  readonly identifierBytes: number
  /** Flags and keywords of one STORE or message. (default 128) */
  readonly flags: number
  /** Bytes of one keyword. (default 255) */
  readonly keywordBytes: number
  /** Messages of one MULTIAPPEND. (default 1024) */
  readonly appendMessages: number
  /** Bad commands in a row before BYE. (default 20) */
  readonly badCommands: number
  /** The same before login. (default 5) */
  readonly preAuthBadCommands: number
  /** Failed logins of one connection before BYE. (default 3) */
  readonly loginFailures: number
  /** What the first failed login waits for its answer, in milliseconds; each further one waits twice as long. (default 1000) */
  readonly loginDelayMs: number
  /** A connection that has not logged in by then is dropped, in milliseconds. (default 60 000) */
  readonly preAuthTimeoutMs: number
  /** A logged-in connection without a command, or in IDLE, in milliseconds. (default 35 minutes: RFC 3501 §5.4 wants 30) */
  readonly idleTimeoutMs: number
  /** Silence inside a command or literal, or a client that reads none of its replies, in milliseconds. (default 5 minutes) */
  readonly stallTimeoutMs: number
}

const KiB = 1024
const MiB = 1024 * KiB
const minute = 60_000

export const defaultLimits: ImapLimits = Object.freeze({
  lineBytes: 64 * KiB,
  literalBytes: 64 * KiB,
  commandBytes: 256 * KiB,
  preAuthLineBytes: 4 * KiB,
  preAuthLiteralBytes: KiB,
  swallowBytes: 128 * MiB,
  setElements: 16_384,
  searchDepth: 32,
  searchKeys: 1024,
  fetchSections: 256,
  headerFields: 512,
  partDepth: 100,
  listPatterns: 128,
  mailboxNameBytes: 1024,
  identifierBytes: 1024,
  flags: 128,
  keywordBytes: 255,
  appendMessages: 1024,
  badCommands: 20,
  preAuthBadCommands: 5,
  loginFailures: 3,
  loginDelayMs: 1000,
  preAuthTimeoutMs: minute,
  idleTimeoutMs: 35 * minute,
  stallTimeoutMs: 5 * minute,
})

const known = new WeakMap<Partial<ImapLimits>, ImapLimits>()

/** Fills in defaults and rejects nonsense once, at the door. The same object gives the same answer, so connections share it. */
export function withLimits(limits: Partial<ImapLimits> | undefined): ImapLimits {
  if (limits === undefined) return defaultLimits
  const before = known.get(limits)
  if (before !== undefined) return before
  const all: ImapLimits = Object.freeze({ ...defaultLimits, ...limits })
  for (const [name, value] of Object.entries(all))
    if (!(value >= 0)) throw new TypeError(`limits.${name} must be a number that is not negative, not ${value}`)
  known.set(limits, all)
  return all
}
