/**
 * Mailboxes of an mdbox that lost their indexes: the map knows how many mailboxes have a message, so what no readable mailbox
 * claims was in one of the lost ones. UIDs, flags and keywords are gone; bytes, GUIDs and dates are in the files.
 */
import type { DovecotMailbox, DovecotMessage } from './contract.ts'
import type { DboxContext } from './dbox-context.ts'
import { directoryOf, type MailboxHead, PRIVATE_INDEX } from './dbox-mailbox.ts'
import { DboxMessage } from './dbox-message.ts'
import type { GuidPlace, GuidTable } from './guid-table.ts'
import { type FoundMailbox, mailboxName } from './mailbox-tree.ts'
import type { MdboxStorage } from './mdbox-storage.ts'
import { hasAny, join, type NamedRoot } from './root.ts'

const PAGE_ROWS = 128
/** Holds what was in one of several lost mailboxes, when nothing says in which: not even the one it was first saved to. */
const RECOVERED = 'Recovered'

/** How often each message of the map is in a mailbox that can be read, and which GUIDs are. */
export interface Claims {
  readonly rows: Uint32Array
  readonly guids: GuidTable
}

/** Names each message that is in more, or in fewer, mailboxes than the map says. Undefined without a map. */
export function compareUses(storage: MdboxStorage, claims: Claims, context: DboxContext, lost: number): void {
  const { map } = storage
  if (map === undefined) return
  for (let row = 0; row < map.count; row++) {
    if (map.gone[row] !== 0) continue
    const uses = storage.uses(row)
    const claimed = claims.rows[row]!
    if (uses === claimed || (lost > 0 && uses > claimed)) continue
    const place = storage.placeOf(row)
    context.faults.add('uses-differ', `the map says that ${uses} mailboxes have this message, ${claimed} do`, {
      file: place === undefined ? undefined : join(join(context.root.shown, 'storage'), `m.${place.file}`),
      offset: place?.offset,
    })
  }
}

export class RestoredMailbox implements DovecotMailbox {
  readonly name: string
  readonly selectable = true
  readonly guid: Uint8Array | undefined
  readonly uidValidity: number | undefined = undefined
  readonly uidNext: number | undefined = undefined
  readonly highestModSeq: number | undefined = undefined
  readonly directory: NamedRoot | undefined
  readonly #context: DboxContext
  readonly #places: readonly GuidPlace[]

  /** `known`: a mailbox that is still there, and lost only its index. */
  constructor(
    context: DboxContext,
    name: string,
    known: { readonly found: FoundMailbox; readonly head: MailboxHead } | undefined,
    places: readonly GuidPlace[],
  ) {
    this.name = name
    this.guid = known?.head.guid
    this.directory = known === undefined ? undefined : directoryOf(context, known.found)
    this.#context = context
    this.#places = places
  }

  hasPrivateFlags(): Promise<boolean> {
    return this.directory === undefined ? Promise.resolve(false) : hasAny(this.directory, PRIVATE_INDEX)
  }

  async *messages(): AsyncGenerator<readonly DovecotMessage[], void, undefined> {
    const storage = this.#context.storage!
    let uid = 0
    let page: DovecotMessage[] = []
    for (const place of this.#places) {
      const found = await storage.at(place)
      if (found === undefined) continue
      uid++
      this.#context.faults.add('uid-lost', 'UID, flags, keywords and modseq of this message are lost', {
        file: join(found.root.shown, found.name),
        offset: found.record.offset,
        mailbox: this.name,
        uid,
      })
      const known = {
        mailbox: this.name,
        uid,
        flags: 0,
        keywords: [],
        modSeq: undefined,
        guid: found.record.guid,
        savedMs: undefined,
        virtualSize: undefined,
        cached: undefined,
        hasUidl: true,
        suffix: '',
      }
      page.push(new DboxMessage(this.#context, known, found))
      if (page.length < PAGE_ROWS) continue
      yield page
      page = []
    }
    if (page.length > 0) yield page
  }
}

/** The messages that only lost mailboxes can have had: in these, in those they were first saved to, or in one more. */
export async function restore(
  context: DboxContext,
  claims: Claims,
  lost: readonly { readonly found: FoundMailbox; readonly head: MailboxHead }[],
  names: ReadonlySet<string>,
): Promise<readonly DovecotMailbox[]> {
  const storage = context.storage!
  const places = new Map<string, GuidPlace[]>(lost.map(({ found }) => [found.storageName, []]))
  const others = new Map<string, GuidPlace[]>()
  for (const place of await unclaimed(storage, claims, lost.length === 0 && names.size > 0)) {
    const first = (await storage.at(place))?.record.mailbox ?? ''
    const own = places.get(first) ?? (lost.length === 1 ? places.get(lost[0]!.found.storageName) : undefined)
    if (own !== undefined) {
      own.push(place)
      continue
    }
    // What was saved to a mailbox that is there may have been moved or expunged since.
    const name = first === '' || names.has(mailboxName(first)) ? RECOVERED : mailboxName(first)
    const list = others.get(name)
    if (list === undefined) others.set(name, [place])
    else list.push(place)
  }
  const mailboxes: DovecotMailbox[] = lost.map(
    (known) =>
      new RestoredMailbox(context, mailboxName(known.found.storageName), known, places.get(known.found.storageName)!),
  )
  for (const [wanted, list] of others) {
    let name = wanted
    for (let i = 2; names.has(name); i++) name = `${wanted} ${i}`
    context.faults.add(
      'mailbox-unknown',
      `${list.length} messages were in mailboxes that lost their index or its end`,
      {
        mailbox: name,
      },
    )
    mailboxes.push(new RestoredMailbox(context, name, undefined, list))
  }
  return mailboxes
}

/**
 * What the map says is in more mailboxes than have it; with `nowhere` only what is in none: the end of a mailbox's log is lost, and
 * messages that came last with it. In the order in which they were saved, as far as that is known.
 */
async function unclaimed(storage: MdboxStorage, claims: Claims, nowhere: boolean): Promise<readonly GuidPlace[]> {
  const { map } = storage
  if (nowhere && !isAnyUnclaimed(storage, claims)) return []
  const { table } = await storage.scan()
  const found: GuidPlace[] = []
  if (map === undefined) {
    for (let row = 0; row < table.count; row++) if (!claims.guids.has(table.guid(row))) found.push(table.place(row))
    return found
  }
  const byPlace = new Map<string, number>()
  for (let row = 0; row < map.count; row++) {
    const claimed = claims.rows[row]!
    if (map.gone[row] !== 0 || storage.uses(row) <= claimed || (nowhere && claimed > 0)) continue
    const place = storage.placeOf(row)
    if (place !== undefined) byPlace.set(`${place.file}:${place.offset}`, row)
  }
  const rows: { readonly row: number; readonly place: GuidPlace }[] = []
  for (let i = 0; i < table.count; i++) {
    const place = table.place(i)
    const row = byPlace.get(`${place.file}:${place.offset}`)
    if (row !== undefined) rows.push({ row, place })
  }
  rows.sort((a, b) => a.row - b.row)
  return rows.map(({ place }) => place)
}

/** Spares going through all files where there is nothing to look for. */
function isAnyUnclaimed(storage: MdboxStorage, { rows }: Claims): boolean {
  const { map } = storage
  for (let row = 0; map !== undefined && row < map.count; row++)
    if (map.gone[row] === 0 && rows[row] === 0 && storage.uses(row) > 0) return true
  return false
}
