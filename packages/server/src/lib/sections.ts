/**
 * BODY[…] of FETCH (RFC 3501 §6.4.5): which bytes of a message a section is, and how they reach the client.
 *
 * One reader serves a whole command. For each message `open` gets hold of what is needed (nothing at all where the
 * cached header answers), `write` writes it.
 */
import type { FetchSection, FetchWriter } from '@mailstead/imap'
import type { CacheColumn, TableView } from '@mailstead/index'
import { decodeStructure, filterHeader, type MessageStructure, sectionRange } from '@mailstead/message'
import type { Mailbox, MessageBody } from '@mailstead/store'
import { CachedHeaders } from './cached-headers.ts'
import { storeCodeOf } from './store-errors.ts'

/** Longest header that is filtered in memory, in bytes. What is beyond is not searched for fields. */
const HEADER_MAX: number = 1 << 20
/** A literal up to this many bytes is verified and written as one piece. */
const PIECE_MAX: number = 256 * 1024

const EMPTY: Uint8Array = new Uint8Array(0)

interface Plan {
  readonly section: FetchSection
  readonly fields: ReadonlySet<string> | undefined
  /** Where the cache holds all of these fields of a message, if it holds the message. */
  readonly cache: CachedHeaders | undefined
  readonly needsStructure: boolean
}

export class SectionReader {
  /** Of the message opened last. */
  #body: MessageBody | undefined
  /** Why a section of the message opened last was written as NIL: its bytes cannot be read. */
  failure: unknown
  readonly #mailbox: Mailbox
  readonly #view: TableView
  readonly #plans: readonly Plan[]
  readonly #parts: CacheColumn
  readonly #anyCached: boolean
  readonly #needsStructure: boolean
  #structure: MessageStructure | undefined
  /** What the cache gave for each section; undefined: from the body. */
  #cached: (Uint8Array | undefined)[] = []

  constructor(mailbox: Mailbox, view: TableView, sections: readonly FetchSection[]) {
    this.#mailbox = mailbox
    this.#view = view
    this.#plans = sections.map((section) => ({
      section,
      fields: section.text.startsWith('HEADER.FIELDS') ? new Set(section.fields) : undefined,
      cache:
        section.part.length === 0 && section.text === 'HEADER.FIELDS' && CachedHeaders.holds(section.fields)
          ? new CachedHeaders(view, section.fields)
          : undefined,
      needsStructure: section.part.length > 0 || section.text !== '',
    }))
    this.#needsStructure = this.#plans.some(({ needsStructure }) => needsStructure)
    this.#parts = view.cache('mime.parts')
    this.#anyCached = this.#plans.some(({ cache }) => cache !== undefined)
  }

  /** Gets hold of the message of `row`, or fails as `Mailbox.body` does. A promise only where something has to be waited for. */
  open(row: number): Promise<void> | undefined {
    this.#body = undefined
    this.#structure = undefined
    this.failure = undefined
    const { length } = this.#plans
    let missing = false
    if (this.#anyCached)
      for (let i = 0; i < length; i++) {
        const bytes = this.#plans[i]!.cache?.fields(row)
        this.#cached[i] = bytes
        if (bytes === undefined) missing = true
      }
    else missing = true
    if (!missing) return undefined
    const body = this.#mailbox.bodySync(this.#view, row)
    if (body === undefined) return this.#openSlowly(row)
    this.#body = body
    if (!this.#needsStructure) return undefined
    const parts = this.#parts.value(row)
    if (parts === undefined) return this.#scan(row)
    this.#structure = decodeStructure(parts)
    return undefined
  }

  async #openSlowly(row: number): Promise<void> {
    this.#body = await this.#mailbox.body(this.#view, row)
    if (!this.#needsStructure) return
    const parts = this.#parts.value(row)
    if (parts === undefined) await this.#scan(row)
    else this.#structure = decodeStructure(parts)
  }

  async #scan(row: number): Promise<void> {
    const parts = (await this.#mailbox.recompute(this.#view, row)).get('mime.parts')
    if (parts === undefined) throw new Error('the store computes no mime.parts')
    this.#structure = decodeStructure(parts)
  }

  /** Writes every section of the message opened last, and lets go of it. */
  write(writer: FetchWriter): Promise<void> | undefined {
    const body = this.#body
    const { length } = this.#plans
    for (let i = 0; i < length; i++) {
      const cached = this.#anyCached ? this.#cached[i] : undefined
      if (cached !== undefined) writePartial(this.#plans[i]!.section, cached, writer)
      else if (!this.#writeSync(this.#plans[i]!, body!, writer)) return this.#writeSlowly(i, writer)
    }
    this.close()
    return undefined
  }

  /** Lets go of the message opened last. */
  close(): void {
    const body = this.#body
    this.#body = undefined
    body?.[Symbol.dispose]()
  }

  /** False, and nothing is written, where the bytes do not come at once. */
  #writeSync(plan: Plan, body: MessageBody, writer: FetchWriter): boolean {
    try {
      return this.#writeNow(plan, body, writer)
    } catch (error) {
      this.#unreadable(error, plan.section, writer)
      return true
    }
  }

  #unreadable(error: unknown, { label }: FetchSection, writer: FetchWriter): void {
    if (storeCodeOf(error) === undefined) throw error
    this.failure = error
    writer.nil(label)
  }

  #writeNow({ section, fields }: Plan, body: MessageBody, writer: FetchWriter): boolean {
    const { label, partial } = section
    let { start, end } = this.#range(section, body)
    if (start < 0) {
      writer.nil(label)
      return true
    }
    if (fields !== undefined) {
      const header = body.sliceSync(start, Math.min(end, start + HEADER_MAX))
      if (header === undefined) return false
      writePartial(section, filtered(header, section, fields), writer)
      return true
    }
    if (partial !== undefined) {
      start = Math.min(end, start + partial.start)
      end = Math.min(end, start + partial.length)
    }
    if (start === end) {
      writer.literal(label, EMPTY)
      return true
    }
    if (end - start > PIECE_MAX) return false
    const bytes = body.sliceSync(start, end)
    if (bytes === undefined) return false
    writer.literal(label, bytes)
    return true
  }

  async #writeSlowly(from: number, writer: FetchWriter): Promise<void> {
    using body = this.#body!
    this.#body = undefined
    for (let i = from; i < this.#plans.length; i++) {
      const plan = this.#plans[i]!
      const { section, fields } = plan
      const cached = this.#anyCached ? this.#cached[i] : undefined
      if (cached !== undefined) {
        writePartial(section, cached, writer)
        continue
      }
      if (this.#writeSync(plan, body, writer)) continue
      let { start, end } = this.#range(section, body)
      let announced = false
      try {
        if (fields !== undefined) {
          const chunks = await Array.fromAsync(body.stream(start, Math.min(end, start + HEADER_MAX)), copyOf)
          writePartial(section, filtered(Buffer.concat(chunks), section, fields), writer)
          continue
        }
        if (section.partial !== undefined) {
          start = Math.min(end, start + section.partial.start)
          end = Math.min(end, start + section.partial.length)
        }
        // Until the first bytes are here, and those that lie in a store of attachments known to be, nothing is announced.
        await body.verify?.(start, end)
        const chunks = body.stream(start, end)[Symbol.asyncIterator]()
        let next = await chunks.next()
        announced = true
        writer.literalStart(section.label, end - start)
        for (; next.done !== true; next = await chunks.next()) {
          writer.bytes(next.value)
          const pending = writer.pending()
          if (pending !== undefined) await pending
        }
      } catch (error) {
        // What was announced cannot be taken back: see fetch.ts.
        if (announced) throw error
        this.#unreadable(error, section, writer)
      }
    }
  }

  /** Where the section is in the message; start -1: the message has no such part. */
  #range(section: FetchSection, body: MessageBody): { start: number; end: number } {
    const { part, text } = section
    if (part.length === 0 && text === '') return { start: 0, end: body.size }
    const found = sectionRange(this.#structure!, {
      path: part,
      text: text === '' ? undefined : text.startsWith('HEADER') ? 'HEADER' : (text as 'TEXT' | 'MIME'),
    })
    return found === undefined ? { start: -1, end: -1 } : { start: found.start, end: found.end }
  }
}

function filtered(header: Uint8Array, section: FetchSection, fields: ReadonlySet<string>): Uint8Array {
  return filterHeader(header, fields, { not: section.text === 'HEADER.FIELDS.NOT' })
}

function writePartial({ label, partial }: FetchSection, bytes: Uint8Array, writer: FetchWriter): void {
  if (partial === undefined) writer.literal(label, bytes)
  else {
    const start = Math.min(bytes.length, partial.start)
    writer.literal(label, bytes.subarray(start, Math.min(bytes.length, start + partial.length)))
  }
}

function copyOf(chunk: Uint8Array): Uint8Array {
  return new Uint8Array(chunk)
}
