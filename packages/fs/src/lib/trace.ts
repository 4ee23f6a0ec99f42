/**
 * A trace: what was asked of a file system and what it answered, in the order in which it took effect.
 *
 * FORMAT   (`formatTrace`, `parseTrace`): one line of JSON per operation; bytes are base64. The first line names the format.
 */
import type { FsMetadata, FsOpenMode } from './contract.ts'
import type { FaultyOperation } from './faulty.ts'

/** A synchronous form is the same operation (`sync` says so); what is opened and taken is closed and released. */
export type TraceOperation = FaultyOperation | 'release' | 'close'

export interface TraceEntry {
  readonly operation: TraceOperation
  readonly path: string
  /** `rename` and `link`. */
  readonly to?: string
  /** Which open file or lock: counted from 1 in order of opening. `open`, `lock` and everything that is done to one. */
  readonly handle?: number
  /** The one that has a turn of the event loop, or not. */
  readonly sync?: true
  readonly mode?: FsOpenMode | 'shared' | 'exclusive'
  /** `read` and `write`: where; `append`: where it began, if it did; `truncate`: the size; `readFile`: `start`. */
  readonly position?: number
  /** `read`: bytes asked for; `readFile`: `end`. */
  readonly length?: number
  /** What was written; of `append` all parts joined. */
  readonly data?: Uint8Array
  readonly ifAbsent?: true
  readonly ifMatch?: string
  readonly metadata?: FsMetadata
  /** Ticks of one counter: no operation that ended before another began took effect after it. */
  readonly begin: number
  readonly end: number
  /** The code of an FsError or the name of another error. */
  readonly error?: string
  /** In short what was answered: sizes, counts, checksums of what was read; compared by `replay`. */
  readonly result?: string
  /** `stat` and `writeFile`. */
  readonly tag?: string
}

export interface Trace {
  readonly entries: readonly TraceEntry[]
}

const FORMAT = 'mailstead-fs-trace 0'

/** A trace as text. */
export function formatTrace({ entries }: Trace): string {
  const lines = entries.map(({ data, ...rest }) =>
    JSON.stringify(data === undefined ? rest : { ...rest, data: Buffer.from(data).toString('base64') }),
  )
  return `${[JSON.stringify({ format: FORMAT }), ...lines].join('\n')}\n`
}

/** Reads what `formatTrace` wrote. A TypeError for anything else. */
export function parseTrace(text: string): Trace {
  const [first, ...lines] = text.trimEnd().split('\n')
  const parsed = (line: string): Record<string, unknown> => {
    try {
      return JSON.parse(line) as Record<string, unknown>
    } catch (error) {
      throw new TypeError('not a trace', { cause: error })
    }
  }
  if (parsed(first ?? '')['format'] !== FORMAT) throw new TypeError(`not a trace of format ${FORMAT}`)
  const entries = lines.map((line): TraceEntry => {
    const { data, ...rest } = parsed(line)
    const { operation, path, begin, end } = rest
    if (![operation, path].every((one) => typeof one === 'string') || ![begin, end].every(Number.isSafeInteger))
      throw new TypeError(`not an entry of a trace: ${line.slice(0, 100)}`)
    const bytes = typeof data === 'string' ? { data: new Uint8Array(Buffer.from(data, 'base64')) } : {}
    return { ...(rest as unknown as TraceEntry), ...bytes }
  })
  return { entries }
}

/** One short line per operation, for people: `17 append #3 log 120 bytes @4096`. */
export function printTrace({ entries }: Trace): string[] {
  return entries.map((entry) => `${entry.end} ${printEntry(entry)}`)
}

export function printEntry(entry: TraceEntry): string {
  const { operation, path, to, handle, mode, position, length, data, ifAbsent, ifMatch, error, result } = entry
  const parts = [
    operation,
    handle === undefined ? '' : `#${handle}`,
    path,
    to ?? '',
    mode ?? '',
    data === undefined ? '' : `${data.length} bytes`,
    position === undefined ? '' : `@${position}`,
    length === undefined ? '' : `+${length}`,
    ifAbsent === true ? 'if absent' : '',
    ifMatch === undefined ? '' : 'if match',
    error === undefined ? (result === undefined ? '' : `= ${result}`) : `failed: ${error}`,
  ]
  return parts.filter((part) => part !== '').join(' ')
}
