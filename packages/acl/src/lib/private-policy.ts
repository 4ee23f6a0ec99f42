/**
 * Which flags of a shared mailbox each user has for himself, and which all users share.
 *
 * FORMAT   of text, as people write it:
 *            policy := class *(SP word)              the class of everything that no rule names
 *            word   := pattern                       of the other class than the default
 *                    | class ":" pattern
 *                    | "consent:" ("\Deleted" | "\Draft")
 *                    | "initial:" ("unset" | "shared")
 *            class  := "private" | "shared"
 *          The first rule that matches decides. In a pattern `*` stands for any characters, none too; case does not
 *          matter.
 *            shared \Seen $Label*                    \Seen and $Label1 are everyone's own, all else is shared
 *            private shared:$Team* \Flagged          all is everyone's own but \Flagged and what begins with $Team
 *
 *          of the stored value, little-endian; must not change: on disk
 *            offset  size  field
 *            0       1     version  0
 *            1       6     since    the modseq that the shared mailbox was raised to for the policy; 0: it is the first
 *            7       …     the text, UTF-8
 *
 * INVARIANTS
 *   1. \Deleted and \Draft are private only where the owner consented, whatever the rules say: what one user marks for
 *      deletion another expunges, and the owner decides whether that may be hidden.
 *   2. What is written is read: `parsePrivacyPolicy(formatPrivacyPolicy(p))` equals p, but for `since`.
 */
import { FLAG_ANSWERED, FLAG_DELETED, FLAG_DRAFT, FLAG_FLAGGED, FLAG_SEEN, VALUE_MAX } from '@mailstead/index'

export type FlagClass = 'private' | 'shared'

export interface PrivacyRule {
  /** A system flag with its backslash, a keyword, or either with `*` in it. */
  readonly pattern: string
  readonly class: FlagClass
}

export interface PrivacyPolicy {
  /** Of what no rule names. */
  readonly default: FlagClass
  /** The first that matches decides. */
  readonly rules: readonly PrivacyRule[]
  /** FLAG_DELETED, FLAG_DRAFT or both: the owner lets them be private, where rules or default say so. (default 0) */
  readonly consent?: number
  /**
   * What private system flags of a message are until the user changes private flags in this mailbox after it came:
   * unset, or as in the shared mailbox. Keywords begin unset. (default 'unset')
   */
  readonly initial?: 'unset' | 'shared'
  /** Modseq that the shared mailbox was raised to when this policy was set; 0: it never had another. (default 0) */
  readonly since?: number
}

/** Why a text is no policy. */
export interface PolicyFault {
  readonly fault: string
}

/** Rules of one policy. */
export const PRIVACY_RULES_MAX = 256
/** Longest pattern, in bytes of UTF-8: as long as a keyword. */
export const PRIVACY_PATTERN_MAX = 255

/** Nothing is private. */
export const ALL_SHARED: PrivacyPolicy = { default: 'shared', rules: [] }

const SYSTEM: readonly (readonly [name: string, bit: number])[] = [
  ['\\Answered', FLAG_ANSWERED],
  ['\\Flagged', FLAG_FLAGGED],
  ['\\Deleted', FLAG_DELETED],
  ['\\Seen', FLAG_SEEN],
  ['\\Draft', FLAG_DRAFT],
]
/** Never private without the owner's consent. */
const CONSENTED = FLAG_DELETED | FLAG_DRAFT
const VERSION = 0
const HEAD = 7

/** Reads a policy as people write it. */
export function parsePrivacyPolicy(text: string): PrivacyPolicy | PolicyFault {
  const [first, ...words] = text.split(/[ \t]+/).filter((word) => word !== '')
  if (first !== 'private' && first !== 'shared')
    return { fault: `a policy begins with "private" or "shared", not ${JSON.stringify(first ?? '')}` }
  const rules: PrivacyRule[] = []
  let consent = 0
  let initial: 'unset' | 'shared' = 'unset'
  for (const word of words) {
    if (word.startsWith('consent:')) {
      const bit = systemFlag(word.slice(8)) & CONSENTED
      if (bit === 0) return { fault: `only \\Deleted and \\Draft need consent, not ${JSON.stringify(word.slice(8))}` }
      consent |= bit
    } else if (word === 'initial:unset' || word === 'initial:shared') initial = word.slice(8) as 'unset' | 'shared'
    else if (word.startsWith('initial:'))
      return { fault: `flags begin "unset" or "shared", not ${JSON.stringify(word)}` }
    else {
      const rule = parseRule(word, first)
      const fault = ruleFault(rule)
      if (fault !== undefined) return { fault }
      if (rules.push(rule) > PRIVACY_RULES_MAX) return { fault: `a policy has at most ${PRIVACY_RULES_MAX} rules` }
    }
  }
  return policyOf(first, rules, consent, initial)
}

export function formatPrivacyPolicy(policy: PrivacyPolicy): string {
  const words: string[] = [policy.default]
  for (const { pattern, class: of } of policy.rules)
    words.push(
      of !== policy.default && !/^(private|shared|consent|initial):/.test(pattern) ? pattern : `${of}:${pattern}`,
    )
  for (const [name, bit] of SYSTEM) if (((policy.consent ?? 0) & bit) !== 0) words.push(`consent:${name}`)
  if (policy.initial === 'shared') words.push('initial:shared')
  return words.join(' ')
}

/** The value that keeps a policy in a store. */
export function encodePrivacyPolicy(policy: PrivacyPolicy): Uint8Array {
  const text = Buffer.from(formatPrivacyPolicy(policy))
  if (HEAD + text.length > VALUE_MAX) throw new RangeError(`a policy of ${text.length} bytes`)
  const value = Buffer.alloc(HEAD + text.length)
  value[0] = VERSION
  value.writeUIntLE(policy.since ?? 0, 1, 6)
  value.set(text, HEAD)
  return value
}

export function decodePrivacyPolicy(value: Uint8Array): PrivacyPolicy | PolicyFault {
  const bytes = Buffer.from(value.buffer, value.byteOffset, value.length)
  if (bytes.length < HEAD || bytes[0] !== VERSION) return { fault: 'not a policy that this version knows' }
  const policy = parsePrivacyPolicy(bytes.toString('utf8', HEAD))
  const since = bytes.readUIntLE(1, 6)
  return 'fault' in policy || since === 0 ? policy : { ...policy, since }
}

/**
 * The policy of a mailbox: its own, or that of the nearest mailbox above it that has one, or what the namespace says.
 * `policyOf` is asked for names only, whether or not they exist.
 */
export function inheritedPolicy(
  name: string,
  policyOf: (name: string) => PrivacyPolicy | undefined,
  options: { readonly delimiter?: string; readonly otherwise?: PrivacyPolicy } = {},
): PrivacyPolicy {
  const { delimiter = '/', otherwise = ALL_SHARED } = options
  for (let end = name.length; end > 0; end = name.lastIndexOf(delimiter, end - 1)) {
    const found = policyOf(name.slice(0, end))
    if (found !== undefined) return found
  }
  return otherwise
}

/** A policy ready for use: asked for every flag that is shown. */
export class PrivacyRules {
  readonly policy: PrivacyPolicy
  /** System flags that are private, as bits. */
  readonly mask: number
  /** No flag and no keyword can be private. */
  readonly isShared: boolean
  readonly #patterns: readonly string[]
  readonly #known = new Map<string, boolean>()

  constructor(policy: PrivacyPolicy) {
    for (const rule of policy.rules) {
      const fault = ruleFault(rule)
      if (fault !== undefined) throw new TypeError(fault)
    }
    this.policy = policy
    this.#patterns = policy.rules.map(({ pattern }) => pattern.toLowerCase())
    let mask = 0
    for (const [name, bit] of SYSTEM) if (this.#decide(name.toLowerCase())) mask |= bit
    this.mask = mask & ~(CONSENTED & ~(policy.consent ?? 0))
    this.isShared = policy.default === 'shared' && policy.rules.every((rule) => rule.class === 'shared')
  }

  /** Whether a keyword is private. */
  isPrivate(keyword: string): boolean {
    if (this.isShared) return false
    let known = this.#known.get(keyword)
    if (known === undefined) {
      known = this.#decide(keyword.toLowerCase())
      this.#known.set(keyword, known)
    }
    return known
  }

  #decide(name: string): boolean {
    for (let i = 0; i < this.#patterns.length; i++)
      if (matches(this.#patterns[i]!, name)) return this.policy.rules[i]!.class === 'private'
    return this.policy.default === 'private'
  }
}

function policyOf(
  of: FlagClass,
  rules: readonly PrivacyRule[],
  consent: number,
  initial: 'unset' | 'shared',
): PrivacyPolicy {
  return {
    default: of,
    rules,
    ...(consent === 0 ? {} : { consent }),
    ...(initial === 'unset' ? {} : { initial }),
  }
}

function parseRule(word: string, otherwise: FlagClass): PrivacyRule {
  if (word.startsWith('private:')) return { pattern: word.slice(8), class: 'private' }
  if (word.startsWith('shared:')) return { pattern: word.slice(7), class: 'shared' }
  return { pattern: word, class: otherwise === 'private' ? 'shared' : 'private' }
}

function ruleFault({ pattern }: PrivacyRule): string | undefined {
  if (pattern === '') return 'a rule without a pattern'
  if (Buffer.byteLength(pattern) > PRIVACY_PATTERN_MAX) return `a pattern of more than ${PRIVACY_PATTERN_MAX} bytes`
  if (/[\s\p{Cc}]/u.test(pattern)) return `no flag has white space or control characters: ${JSON.stringify(pattern)}`
  // A misspelt system flag would be a rule that says nothing.
  if (pattern.startsWith('\\') && !pattern.includes('*') && systemFlag(pattern) === 0)
    return `${pattern} is no flag that can be kept`
  return undefined
}

function systemFlag(name: string): number {
  const wanted = name.toLowerCase()
  return SYSTEM.find(([known]) => known.toLowerCase() === wanted)?.[1] ?? 0
}

/**
 * Whether `name` is what `pattern`, in which `*` stands for any characters, describes. At most their product in steps.
 */
function matches(pattern: string, name: string): boolean {
  let p = 0
  let n = 0
  let star = -1
  let from = 0
  while (n < name.length) {
    if (p < pattern.length && pattern[p] === '*') {
      star = p++
      from = n
    } else if (p < pattern.length && pattern[p] === name[n]) {
      p++
      n++
    } else if (star >= 0) {
      p = star + 1
      n = ++from
    } else return false
  }
  while (p < pattern.length && pattern[p] === '*') p++
  return p === pattern.length
}
