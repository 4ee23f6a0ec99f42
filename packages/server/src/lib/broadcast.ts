/**
 * One source for several readers, in lock step: no reader is ahead of another by more than a chunk, so memory does not
 * depend on the size of the message or the number of readers.
 *
 * INVARIANTS
 *   1. Each chunk is taken from the source once, when every reader that is still there has taken the one before.
 *   2. A reader that stops (its store failed) does not hold up the others; when none is left the source is abandoned.
 *   3. A failure of the source reaches every reader.
 */
export function broadcast(source: AsyncIterable<Uint8Array>, readers: number): AsyncIterable<Uint8Array>[] {
  const iterator = source[Symbol.asyncIterator]()
  let left = readers
  let waiting = 0
  let round = Promise.withResolvers<IteratorResult<Uint8Array>>()
  round.promise.catch(() => undefined)

  function pullIfAll(): void {
    if (waiting < left || left === 0) return
    waiting = 0
    const current = round
    round = Promise.withResolvers<IteratorResult<Uint8Array>>()
    round.promise.catch(() => undefined)
    iterator.next().then(current.resolve, current.reject)
  }

  return Array.from({ length: readers }, () => ({
    async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
      try {
        for (;;) {
          const { promise } = round
          waiting++
          pullIfAll()
          const { done, value } = await promise
          if (done === true) return
          yield value
        }
      } finally {
        left--
        if (left === 0) await iterator.return?.()
        else pullIfAll()
      }
    },
  }))
}
