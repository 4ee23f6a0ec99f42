/** What a rebuild makes of a disk that lost its power, and then its whole index: nothing but message files and their journal is left. */
import { cpSync, existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { posixFs } from '@mailstead/fs/posix'
import { rebuildStore, StoreError } from '@mailstead/store'
import { openOn, type Picture, pictureOf, type StateBox } from './store-states.ts'

export interface Rebuilt {
  /** What is wrong; nothing if all is well. */
  readonly wrong: readonly string[]
  /** Messages that had to come back, and did; and what came back besides: nobody had been told that it is gone for good. */
  readonly back: number
  readonly besides: number
}

/** GUID and hash of the bytes of every message. */
function messagesOf({ mailboxes }: Picture): ReadonlySet<string> {
  return new Set([...mailboxes.values()].flatMap(({ rows }) => rows.map((row) => row.split(' ').slice(-2).join(' '))))
}

/** Rebuilds a copy of the disk in `directory`; `allowed`: what the disk may hold, of which every message that all have must come back. */
export async function rebuiltFromFiles(
  directory: string,
  allowed: readonly Picture[],
  { box }: StateBox,
): Promise<Rebuilt> {
  const copy = mkdtempSync(join(tmpdir(), 'mailstead-rebuilt-'))
  try {
    cpSync(directory, copy, { recursive: true, filter: (path) => path !== join(directory, 'lost+found') })
    if (!existsSync(join(copy, 'index'))) return { wrong: [], back: 0, besides: 0 }
    rmSync(join(copy, 'index'), { recursive: true })
    await using fs = await posixFs(copy)
    const [first, ...others] = allowed.map(messagesOf)
    const expected = [...(first ?? [])].filter((message) => others.every((set) => set.has(message)))
    try {
      for await (const _ of rebuildStore({ fs, box }));
    } catch (error) {
      // Neither an index nor a message: whoever asks is told so.
      if (!(error instanceof StoreError && error.code === 'STORE_NOT_FOUND')) throw error
      return {
        wrong: expected.map((message) => `${message} is lost: nothing is found`),
        back: 0,
        besides: 0,
      }
    }
    const wrong: string[] = []
    for await (const page of rebuildStore({ fs, box }))
      for (const { kind, field, message } of page)
        if (kind !== 'note') wrong.push(`a second rebuild: ${field} ${message}`)
    await using store = await openOn(fs)
    for (const { severity, kind, file, message } of (await Array.fromAsync(store.check())).flat())
      if (severity === 'damage') wrong.push(`check: ${kind} ${file}: ${message}`)
    const found = messagesOf(await pictureOf(store))
    for (const message of expected) if (!found.has(message)) wrong.push(`${message} is lost`)
    const known = new Set(expected)
    return { wrong, back: expected.length, besides: [...found].filter((message) => !known.has(message)).length }
  } finally {
    rmSync(copy, { recursive: true })
  }
}
