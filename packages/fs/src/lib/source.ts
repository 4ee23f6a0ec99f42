import { checkBytes } from './arguments.ts'
import type { FsSource } from './contract.ts'

/** All bytes of a source, in memory of their own. */
export async function collect(source: FsSource, signal: AbortSignal | undefined): Promise<Uint8Array> {
  // Not slice(): a Buffer's shares memory.
  if (source instanceof Uint8Array) return new Uint8Array(source)
  const parts: Uint8Array[] = []
  let size = 0
  for await (const part of source) {
    signal?.throwIfAborted()
    checkBytes(part)
    // The producer may reuse its buffer once asked for more.
    parts.push(new Uint8Array(part))
    size += part.length
  }
  const bytes = new Uint8Array(size)
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}
