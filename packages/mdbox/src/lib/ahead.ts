/**
 * What an asynchronous generator gives, asked for ahead: it goes on by itself while others are looked at, and keeps its pages
 * until somebody wants them. So several can take turns in waiting and computing, and still be told one after the other.
 */
export class Ahead<T> implements AsyncDisposable {
  readonly #source: AsyncIterable<readonly T[]>
  readonly #most: number
  readonly #running: Promise<void>
  readonly #kept: (readonly T[])[] = []
  #count = 0
  #isOver = false
  #failure: { readonly error: unknown } | undefined
  /** A page came, or the last one had. */
  #came: PromiseWithResolvers<void> = Promise.withResolvers()
  /** There is room again, or nobody wants any more. */
  #room: PromiseWithResolvers<void> = Promise.withResolvers()

  /** Begins at once. `most`: items that are kept before it waits; one page may go beyond. */
  constructor(source: AsyncIterable<readonly T[]>, most: number) {
    this.#source = source
    this.#most = most
    this.#running = this.#run()
  }

  async #run(): Promise<void> {
    try {
      for await (const page of this.#source) {
        if (this.#isOver) return
        this.#kept.push(page)
        this.#count += page.length
        this.#came.resolve()
        while (this.#count >= this.#most && !this.#isOver) await this.#room.promise
      }
    } catch (error) {
      this.#failure = { error }
    } finally {
      this.#isOver = true
      this.#came.resolve()
    }
  }

  /** All pages, in order. Throws what the generator threw, behind the pages that came before. Once. */
  async *pages(): AsyncGenerator<readonly T[], void, undefined> {
    for (;;) {
      const page = this.#kept.shift()
      if (page !== undefined) {
        this.#count -= page.length
        this.#room.resolve()
        this.#room = Promise.withResolvers()
        yield page
      } else if (this.#isOver) break
      else {
        this.#came = Promise.withResolvers()
        await this.#came.promise
      }
    }
    if (this.#failure !== undefined) throw this.#failure.error
  }

  /** Nothing more is wanted. Returns when the generator has given back what it held. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true
    this.#room.resolve()
    await this.#running
  }
}
