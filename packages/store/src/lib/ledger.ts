/**
 * The ledger of mailboxes: a file beside the messages that says what the tree says of names, GUIDs, access lists and policies of private
 * flags, so that a rebuild after the index is lost shows nobody what he was not to see.
 *
 * WHAT     The values of the tree that `isOfMailboxes` names, with its version; and between which mailboxes messages were copied or moved:
 *          where the rows are lost, a message is found only where it was first saved to, and is not to be shown there to more people than
 *          where it was last.
 *
 * HOW      A change of the tree is committed to the index, written here, and then acknowledged: so this file never says what the index
 *          did not, and lags behind it by what nobody was told of. A link is written before the copy is committed. It is replaced as a whole.
 *          Versions of the tree are a total order, so whoever finds a newer one here than his own has nothing to add.
 *          Where the index says less than this file, it has lost something: then it is this file that is believed (ledger-access.ts).
 *
 * INVARIANTS
 *   1. What `follow` and `link` resolved for is durable.
 *   2. A tree that lost something, and does not know what, is not written where no ledger is: a rebuild believes what is here.
 *   3. Writers take turns: a kernel lock on `ledger.lock`, or where there are none the tag of the file.
 */
import { type Fs, FsError } from '@mailstead/fs'
import { decodeLedger, encodeLedger, LEDGER_MAX, type LedgerState, type Links } from './ledger-format.ts'
import { aclKey, closedKey, decodeNumber, guidOfKey, isOfMailboxes, KEY_VERSION } from './tree.ts'

/** Must not change: on disk. */
export const LEDGER = 'ledger'
/** Pairs of mailboxes. Beyond that it is no longer known where messages went. */
const LINKS_MAX = 100_000
/** Times a change is decided again because another process was faster, where there are no locks. */
const ATTEMPTS_MAX = 64

/** In the place of mailboxes that are gone: those that had an access list, and those that had none. Must not change: on disk. */
export const GONE_LISTED: string = '0'.repeat(32)
export const GONE: string = 'f'.repeat(32)

type Values = ReadonlyMap<string, Uint8Array>
const NO_LINKS: Links = new Map()

export class Ledger {
  readonly #fs: Fs
  /** As it was last read or written. Others may have written it since. */
  #known: LedgerState | undefined
  #turn: Promise<unknown> = Promise.resolve()

  /** `fs`: rooted at the store's own directory in the data root. */
  constructor(fs: Fs) {
    this.#fs = fs
  }

  /** What it says; or that there is none, or none that can be read. */
  async read(): Promise<LedgerState | 'missing' | 'damaged'> {
    const stat = await this.#fs.stat(LEDGER)
    if (stat === undefined) return 'missing'
    if (stat.size > LEDGER_MAX) return 'damaged'
    const state = await readIfThere(this.#fs)
    if (typeof state === 'object') this.#known = state
    return state
  }

  /** Writes down what this tree says. `isIncomplete`: it lost something, and nothing is forgotten because it has forgotten it. */
  async follow(values: Values, isIncomplete: boolean): Promise<void> {
    const version = decodeNumber(values.get(KEY_VERSION))
    await this.#change((known) => {
      if (typeof known !== 'object') {
        if (isIncomplete) return undefined
        // With INBOX alone there is nowhere to go.
        return { version, values: keptOf(values), links: version <= 1 ? NO_LINKS : undefined }
      }
      if (known.version > version) return undefined
      const kept = keptOf(values)
      if (isIncomplete) addForgotten(kept, known.values)
      if (known.version === version && isEqual(known.values, kept)) return undefined
      return { version, values: kept, links: linksAmong(known, kept) }
    })
  }

  /** In place of whatever there is: after a rebuild, which alone has the store. */
  async replace(values: Values): Promise<void> {
    const kept = keptOf(values)
    const version = decodeNumber(values.get(KEY_VERSION))
    await this.#change((known) => {
      if (typeof known !== 'object') return { version, values: kept, links: undefined }
      if (known.version === version && isEqual(known.values, kept)) return undefined
      return { version, values: kept, links: linksAmong(known, kept) }
    })
  }

  /**
   * Messages are about to go from one mailbox to another. Undefined: that was known, as of this tree. (A mailbox that was removed takes
   * its links along, and an import may make it again.)
   */
  link(from: string, to: string, values: Values): Promise<void> | undefined {
    if (from === to) return undefined
    const known = this.#known
    const isNew = known?.version === decodeNumber(values.get(KEY_VERSION))
    if (isNew && (known.links === undefined || known.links.get(from)?.has(to) === true)) return undefined
    return this.#change((now) => {
      if (typeof now !== 'object' || now.links === undefined || now.links.get(from)?.has(to) === true) return undefined
      const links = new Map(now.links)
      links.set(from, new Set([...(links.get(from) ?? []), to]))
      let count = 0
      for (const tos of links.values()) count += tos.size
      return { ...now, links: count > LINKS_MAX ? undefined : links }
    })
  }

  /** `decide` returns what it is to be; undefined: as it is. */
  #change(decide: Decide): Promise<void> {
    const run = this.#turn.then(() => (this.#fs.supports.lock ? this.#locked(decide) : this.#conditional(decide)))
    this.#turn = run.catch(() => undefined)
    return run
  }

  async #locked(decide: Decide): Promise<void> {
    await using lock = await this.#fs.lock(`${LEDGER}.lock`)
    await lock.acquire()
    const known = await this.read()
    const next = decide(known)
    if (next !== undefined) await this.#write(next, {})
  }

  async #conditional(decide: Decide): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      const tag = (await this.#fs.stat(LEDGER))?.tag
      const next = decide(await this.read())
      if (next === undefined) return
      try {
        await this.#write(next, tag === undefined ? { ifAbsent: true } : tag === '' ? {} : { ifMatch: tag })
        return
      } catch (error) {
        const isLate = error instanceof FsError && (error.code === 'FS_CONFLICT' || error.code === 'FS_EXISTS')
        if (!isLate || attempt === ATTEMPTS_MAX) throw error
      }
    }
  }

  async #write(next: LedgerState, options: { readonly ifAbsent?: boolean; readonly ifMatch?: string }): Promise<void> {
    this.#known = undefined
    await this.#fs.writeFile(LEDGER, encodeLedger(next), options)
    this.#known = next
  }
}

type Decide = (known: LedgerState | 'missing' | 'damaged') => LedgerState | undefined

async function readIfThere(fs: Fs): Promise<LedgerState | 'missing' | 'damaged'> {
  try {
    return decodeLedger(await fs.readFile(LEDGER)) ?? 'damaged'
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return 'missing'
    throw error
  }
}

/** Whether it says anything that a new store would not. */
export function saysMore(ledger: LedgerState | 'missing' | 'damaged'): boolean {
  if (typeof ledger !== 'object') return ledger === 'damaged'
  let mailboxes = 0
  for (const key of ledger.values.keys()) {
    if (guidOfKey(key) !== undefined) mailboxes++
    else if (isOfMailboxes(key) && key.includes('/')) return true
  }
  return mailboxes > 1
}

/** Whether it says what this tree says. */
export function isOfTree({ version, values: known }: LedgerState, values: Values): boolean {
  return version === decodeNumber(values.get(KEY_VERSION)) && isEqual(known, keptOf(values))
}

function keptOf(values: Values): Map<string, Uint8Array> {
  const kept = new Map<string, Uint8Array>()
  for (const [key, value] of values) if (isOfMailboxes(key)) kept.set(key, value)
  return kept
}

/** Of mailboxes that are not there, what is known of them. */
function addForgotten(kept: Map<string, Uint8Array>, known: Values): void {
  const there = new Set<string>()
  for (const key of kept.keys()) if (guidOfKey(key) !== undefined) there.add(guidOfKey(key)!)
  for (const [key, value] of known) {
    const at = key.indexOf('/')
    if (at >= 0 && at + 1 < key.length && !there.has(key.slice(at + 1))) kept.set(key, value)
  }
}

function isEqual(a: Values, b: Values): boolean {
  if (a.size !== b.size) return false
  for (const [key, value] of a) {
    const other = b.get(key)
    if (other === undefined || (other !== value && Buffer.compare(other, value) !== 0)) return false
  }
  return true
}

/**
 * Without mailboxes that are gone now: what went through them went from one that is left to another, and what is expunged with them, and may
 * come back, is not to be shown where it came from to others than saw it here.
 */
function linksAmong({ links, values }: LedgerState, kept: Values): Links | undefined {
  if (links === undefined) return undefined
  const gone = new Map<string, string>()
  for (const key of values.keys()) {
    const guid = guidOfKey(key)
    if (guid === undefined || kept.has(key)) continue
    gone.set(guid, values.has(aclKey(guid)) || values.has(closedKey(guid)) ? GONE_LISTED : GONE)
  }
  if (gone.size === 0) return links
  const left = new Map<string, ReadonlySet<string>>()
  for (const from of links.keys()) {
    if (gone.has(from)) continue
    const tos = [...reached(links, from)].map((to) => gone.get(to) ?? to)
    if (tos.length > 0) left.set(from, new Set(tos))
  }
  return left
}

/** The mailboxes where a message may be that was first saved to this one, this one left out. */
export function reached(links: Links, from: string): ReadonlySet<string> {
  const found = new Set<string>()
  const next = [from]
  for (let one = next.pop(); one !== undefined; one = next.pop())
    for (const to of links.get(one) ?? [])
      if (!found.has(to)) {
        found.add(to)
        next.push(to)
      }
  found.delete(from)
  return found
}
