import { describe, expect, test } from 'vitest'
import { Ahead } from './ahead.ts'

/** Numbers from 0 on, a page each, and what happened to whoever gives them. */
function numbers(count: number, at?: { given: number; isOver?: boolean }): AsyncGenerator<readonly number[]> {
  return (async function* () {
    try {
      for (let number = 0; number < count; number++) {
        if (at !== undefined) at.given = number + 1
        await Promise.resolve()
        yield [number]
      }
    } finally {
      if (at !== undefined) at.isOver = true
    }
  })()
}

/** Until nothing happens any more. */
async function quiet(): Promise<void> {
  for (let turn = 0; turn < 100; turn++) await new Promise(setImmediate)
}

describe('what is asked for ahead', () => {
  test('comes in order, all of it', async () => {
    for (const most of [1, 3, 1000]) {
      await using ahead = new Ahead(numbers(100), most)
      expect((await Array.fromAsync(ahead.pages())).flat()).toEqual(Array.from({ length: 100 }, (_, n) => n))
    }
  })

  test('goes on by itself, until there is enough', async () => {
    const at = { given: 0 }
    await using ahead = new Ahead(numbers(100, at), 10)
    await quiet()
    expect(at.given).toBe(10)
    const pages = ahead.pages()
    for (let n = 0; n < 5; n++) expect((await pages.next()).value).toEqual([n])
    await quiet()
    expect(at.given).toBe(15)
  })

  test('fails when its turn comes, behind what came before', async () => {
    const failing = (async function* () {
      yield* numbers(3)
      throw new Error('the disk')
    })()
    await using ahead = new Ahead(failing, 100)
    await quiet()
    const found: number[] = []
    await expect(async () => {
      for await (const page of ahead.pages()) found.push(...page)
    }).rejects.toThrow('the disk')
    expect(found).toEqual([0, 1, 2])
  })

  test('is given up wherever it is, and fails nobody then', async () => {
    for (const most of [1, 1000]) {
      const at = { given: 0, isOver: false }
      const ahead = new Ahead(numbers(Number.POSITIVE_INFINITY, at), most)
      for await (const [number] of ahead.pages()) if (number === 5) break
      await ahead[Symbol.asyncDispose]()
      expect(at.isOver).toBe(true)
      expect(at.given).toBeLessThanOrEqual(7 + most)
    }
    const failing = (async function* (): AsyncGenerator<readonly number[]> {
      yield [1]
      throw new Error('the disk')
    })()
    await new Ahead(failing, 10)[Symbol.asyncDispose]()
  })
})
