/**
 * Bodies that another writer compressed as one stream, bounded: what comes out is no more than the size that is recorded of it.
 */
import { BoxError } from '@mailstead/box'
import { decompressed } from './dovecot/decompress.ts'

/**
 * The plain bytes of `source`, exactly `plainSize` of them: else what `fail` makes is thrown, as it is for what does not
 * decompress. Errors of `source` are passed on.
 */
export async function* expanded(
  source: AsyncIterable<Uint8Array>,
  plainSize: number,
  fail: (what: string, cause?: unknown) => Error,
): AsyncGenerator<Uint8Array, void, undefined> {
  let bytes = 0
  let failure: { readonly error: unknown } | undefined
  const watched = async function* (): AsyncGenerator<Uint8Array, void, undefined> {
    try {
      yield* source
    } catch (error) {
      failure = { error }
      throw error
    }
  }
  try {
    for await (const piece of decompressed(watched())) {
      bytes += piece.length
      if (bytes > plainSize) break
      yield piece
    }
  } catch (error) {
    if (failure !== undefined) throw failure.error
    if (error instanceof BoxError && error.code !== 'BOX_DAMAGED') throw error
    throw fail('it does not decompress', error)
  }
  if (bytes !== plainSize)
    throw fail(`it decompresses to ${bytes > plainSize ? 'more' : `${bytes} bytes`}, not ${plainSize}`)
}
