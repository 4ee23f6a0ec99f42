/**
 * Everything on disk, whatever the index says: for rebuilds, and for people. The path says which message of which mailbox a
 * file is, whatever its metadata says: a copy has the metadata of what it is a copy of.
 */
import type { BoxOrigin, BoxScanned } from '@mailstead/box'
import { FsError } from '@mailstead/fs'
import { FLAG_ALT, flagsOfRecord } from '../place.ts'
import { type Walked, walkFile } from '../walk.ts'
import { Window } from '../window.ts'
import { identityOf, listMailbox, listMailboxes, listUnnamed } from './directory.ts'
import { listLeftovers } from './leftovers.ts'
import { ID_BYTES, leftoverName, readOrigin, UNNAMED } from './names.ts'
import { hex, type Rows } from './row.ts'
import { fileIn, type Root } from './tiers.ts'

/** Messages handed over at a time. */
const PAGE = 256
/** Files that are opened and read at the same time: each waits for a thread several times. */
const FILES_AHEAD = 8

interface Named {
  readonly file: string
  readonly id: string | undefined
  readonly origin: BoxOrigin | undefined
  /** Of the mailbox. */
  readonly name: string | undefined
  readonly expunged: boolean
  readonly root: Root
  /** The second tier may have the same; it is looked at only if this one is damaged. */
  readonly isTwin?: boolean
  readonly twinOf?: string
}

/** `far`: the second tier. `rows`: the table, as far as there is one. */
export async function* scanBox(
  near: Root,
  far: Root | undefined,
  rows: Rows | undefined,
): AsyncGenerator<readonly BoxScanned[]> {
  const known = new KnownRows(rows)
  let page: BoxScanned[] = []
  const sound = new Set<string>()
  const underWay: { readonly named: Named; readonly found: Promise<readonly BoxScanned[]> }[] = []
  const take = async (): Promise<void> => {
    const { named, found: coming } = underWay.shift()!
    const found = await coming
    if (named.isTwin === true && found.length > 0 && found.every(({ damage }) => damage === undefined))
      sound.add(named.file)
    page.push(...found)
  }
  try {
    for await (const named of everyName(near, far)) {
      if (named.twinOf !== undefined) {
        while (underWay.length > 0) await take()
        if (sound.delete(named.twinOf)) continue
      }
      const found = scanFile(named, known)
      // Whoever takes it is told.
      found.catch(() => {})
      underWay.push({ named, found })
      if (underWay.length >= FILES_AHEAD) await take()
      if (page.length < PAGE) continue
      yield page
      page = []
    }
    while (underWay.length > 0) await take()
    if (page.length > 0) yield page
  } finally {
    await Promise.allSettled(underWay.map(({ found }) => found))
  }
}

async function* everyName(near: Root, far: Root | undefined): AsyncGenerator<Named> {
  const { fs, directory } = near
  const roots = far === undefined ? [near] : [near, far]
  for (const root of roots)
    for (const id of [...(await listUnnamed(root.fs, root.directory))].sort())
      yield { file: `${UNNAMED}/${id}`, id, origin: undefined, name: undefined, expunged: false, root }
  for (const id of [...(await listLeftovers(fs, directory))].sort())
    yield { file: `${UNNAMED}/${leftoverName(id)}`, id, origin: undefined, name: undefined, expunged: true, root: near }
  const guids = new Set<string>()
  for (const root of roots) for (const guid of await listMailboxes(root.fs, root.directory)) guids.add(guid)
  for (const guid of [...guids].sort()) {
    const identity = await identityOf(fs, directory, guid)
    const known = typeof identity === 'object' ? identity : undefined
    const mailbox = Buffer.from(guid, 'hex')
    const { named, expunged } = await listMailbox(fs, directory, guid)
    const there = far === undefined ? new Set<number>() : (await listMailbox(far.fs, far.directory, guid)).named
    for (const [kind, uids, root] of [
      ['u', named, near],
      ['x', expunged, near],
      ['u', there, far],
    ] as const) {
      if (root === undefined) continue
      for (const uid of [...uids].sort((a, b) => a - b)) {
        const file = `${guid}/${kind}.${uid}`
        yield {
          file,
          id: undefined,
          // Without the identity the message says itself what the UIDVALIDITY was, if it was first saved here.
          origin: known === undefined ? { mailbox, uid } : { mailbox, uidValidity: known.uidValidity, uid },
          name: known?.name,
          // What was expunged says so in the first tier, wherever the message is.
          expunged: kind === 'x' || known?.removed === true || (far !== undefined && expunged.has(uid)),
          root,
          ...(root === near && kind === 'u' && there.has(uid) ? { isTwin: true } : {}),
          ...(root === far && named.has(uid) ? { twinOf: file } : {}),
        }
      }
    }
  }
}

async function scanFile(named: Named, known: KnownRows): Promise<readonly BoxScanned[]> {
  const { root } = named
  const file = fileIn(root, named.file)
  // It may have got another name since it was listed.
  await using opened = await root.fs.open(`${root.directory}/${named.file}`, 'read').catch(gone)
  if (opened === undefined) return []
  const { size } = await opened.stat()
  // Begun, and never flushed.
  if (size === 0) return []
  const scanned: BoxScanned[] = []
  let count = 0
  for await (const list of new Window(opened, size).walk(walkFile(size)))
    for (const found of list) {
      if (!('line' in found)) scanned.push(scannedOf(named, found, count++ > 0, known))
      else if (found.damage !== undefined)
        scanned.push({
          file,
          offset: 0,
          guid: undefined,
          receivedMs: 0,
          physicalSize: 0,
          mailbox: undefined,
          damage: found.damage,
        })
    }
  return scanned
}

function scannedOf(
  { file, root, id, origin, name, expunged }: Named,
  found: Walked,
  isSecond: boolean,
  known: KnownRows,
): BoxScanned {
  const { offset, guid, receivedMs, physicalSize, mailbox } = found
  const damage = found.damage ?? (isSecond ? 'a second message in a file for one' : undefined)
  const own = found.origin === undefined ? undefined : readOrigin(found.origin)
  // What a message says of itself is of the mailbox that it was first saved to.
  const isOwn = origin === undefined || own?.guid === hex(origin.mailbox)
  const whose = origin === undefined ? ownOrigin(own) : withValidity(origin, own)
  return {
    file: fileIn(root, file),
    offset,
    guid,
    receivedMs,
    physicalSize,
    size: found.size,
    mailbox: name ?? (isOwn ? mailbox : undefined),
    ...(whose === undefined ? {} : { origin: whose }),
    damage,
    row:
      damage === undefined && found.checksummed
        ? (known.find(found, origin, id) ?? rowOf(found, whose, id, root.alt))
        : undefined,
    checksum: found.sum,
    expunged,
    ...(found.segments && { segments: found.segments }),
    ...(root.alt ? { tier: 'alt' as const } : {}),
  }
}

function ownOrigin(own: ReturnType<typeof readOrigin>): BoxOrigin | undefined {
  return own === undefined ? undefined : { mailbox: Buffer.from(own.guid, 'hex'), uidValidity: own.uidValidity }
}

function withValidity(origin: BoxOrigin, own: ReturnType<typeof readOrigin>): BoxOrigin {
  if (origin.uidValidity !== undefined || own === undefined) return origin
  return own.guid === Buffer.from(origin.mailbox).toString('hex') ? { ...origin, uidValidity: own.uidValidity } : origin
}

/** Rows of the table, by the places where their messages may be. */
class KnownRows {
  readonly #rows: Rows | undefined
  readonly #byId = new Map<string, number>()
  /** By GUID of the mailbox and UID. */
  readonly #byHome = new Map<string, Map<number, number>>()

  constructor(rows: Rows | undefined) {
    this.#rows = rows
    for (let at = 0; rows !== undefined && at < rows.view.count; at++) {
      this.#byId.set(hex(rows.id.value(at)), at)
      const uid = rows.uid.number(at)
      if (uid === 0) continue
      const mailbox = hex(rows.mailbox.value(at))
      const homes = this.#byHome.get(mailbox)
      if (homes === undefined) this.#byHome.set(mailbox, new Map([[uid, at]]))
      else homes.set(uid, at)
    }
  }

  /** The columns of the row whose message this is; undefined if there is none. */
  find(
    { length, sum }: Walked,
    origin: BoxOrigin | undefined,
    id: string | undefined,
  ): Readonly<Record<string, Uint8Array | number>> | undefined {
    const at = id === undefined ? this.#byHome.get(hex(origin!.mailbox))?.get(origin!.uid!) : this.#byId.get(id)
    if (at === undefined) return undefined
    const rows = this.#rows!
    if (rows.length.number(at) !== length || rows.sum.number(at) !== sum) return undefined
    return {
      length,
      id: Uint8Array.from(rows.id.value(at)),
      mailbox: Uint8Array.from(rows.mailbox.value(at)),
      uid: rows.uid.number(at),
      sum,
      flags: rows.flags.number(at),
    }
  }
}

/** What a row says that names this file. */
function rowOf(
  record: Walked,
  origin: BoxOrigin | undefined,
  id: string | undefined,
  alt: boolean,
): Readonly<Record<string, Uint8Array | number>> {
  const { length, sum } = record
  return {
    length,
    id: id === undefined ? new Uint8Array(ID_BYTES) : Buffer.from(id, 'hex'),
    mailbox: origin?.mailbox ?? new Uint8Array(16),
    uid: origin?.uid ?? 0,
    sum,
    flags: flagsOfRecord(record) | (alt ? FLAG_ALT : 0),
  }
}

function gone(error: unknown): undefined {
  if (!(error instanceof FsError && error.code === 'FS_NOT_FOUND')) throw error
}
