/** Imports of random mailboxes, some of them interrupted, which go on or are given up later, or never. */
import { createHash } from 'node:crypto'
import type { ImportMailbox, ImportMessage, Store } from '@mailstead/store'
import { below } from '../support/depth.ts'
import { OWNER } from './support.ts'

/** A mailbox that is not all here yet. */
export interface RandomSource {
  readonly spec: ImportMailbox
  readonly messages: readonly (ImportMessage & { readonly text: string })[]
}

/** Begins an import, or goes on with one, or gives it up. Resolves to what clients see now. */
export async function importSome(
  store: Store,
  sources: RandomSource[],
  random: () => number,
  nextText: () => string,
): Promise<RandomSource | undefined> {
  const importing = store.as(OWNER).importer()
  if (sources.length > 0 && random() < 0.2) {
    const { spec } = sources.shift()!
    await importing.discard(Buffer.from(spec.guid).toString('hex'))
    return undefined
  }
  const source = sources.length > 0 && random() < 0.5 ? sources.shift()! : randomSource(random, nextText)
  const stop = new AbortController()
  const isInterrupted = random() < 0.5
  const options = { batchMessages: 2, signal: stop.signal, onProgress: () => isInterrupted && stop.abort() }
  try {
    await store
      .as(OWNER)
      .importer(options)
      .mailbox(source.spec, async function* () {
        yield await Promise.resolve(source.messages)
      })
    return source
  } catch (error) {
    if ((error as Error).name !== 'AbortError') throw error
    sources.push(source)
    return undefined
  }
}

function randomSource(random: () => number, nextText: () => string): RandomSource {
  const first = nextText()
  const guid = (text: string): Buffer => createHash('md5').update(text).digest()
  let uid = 0
  const texts = [first, ...Array.from({ length: below(random, 5) }, nextText)]
  const messages = texts.map((text) => ({
    text,
    uid: (uid += 1 + below(random, 3)),
    flags: 1 << below(random, 5),
    keywords: random() < 0.5 ? ['Old'] : [],
    modSeq: undefined,
    guid: guid(text),
    receivedMs: 1_000_000,
    savedMs: undefined,
    pop3Uidl: undefined,
    pop3Order: undefined,
    shared: undefined,
    open: async function* () {
      yield await Promise.resolve(Buffer.from(`Subject: ${text}\r\n\r\n${text}`))
    },
  }))
  const name = `Imported ${first.trim()}`
  const uidValidity = 1 + below(random, 1_000_000)
  return { spec: { name, guid: guid(name), uidValidity, uidNext: uid + 3, highestModSeq: 5 }, messages }
}
