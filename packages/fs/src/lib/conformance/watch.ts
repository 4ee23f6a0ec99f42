/** Changes that are told. */
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { bytes, put, type Test } from './harness.ts'

/** How long a change may take to be noticed by `watch` before the test fails, in milliseconds. */
const WATCH_MS = 20_000

export function watch(test: Test): void {
  test('calls soon after a file appears, grows, is replaced and vanishes, where it is supported', async (fs) => {
    assert.equal(typeof fs.watch, fs.supports.watch ? 'function' : 'undefined')
    if (fs.watch === undefined) return
    const controller = new AbortController()
    const noticed = changes()
    fs.watch('d/e/file', noticed.call, { signal: controller.signal })
    await noticed.after(() => put(fs, 'd/e/file', 'one'))
    await noticed.after(() => put(fs, 'd/e/file', 'two'))
    if (fs.supports.append) {
      await using file = await fs.open('d/e/file', 'append')
      await noticed.after(async () => void (await file.append([bytes('more')])))
    }
    await noticed.after(() => fs.remove('d/e/file'))
    await noticed.after(() => put(fs, 'd/e/file', 'again'))
    controller.abort()
    await sleep(20)
    const calls = noticed.count()
    await put(fs, 'd/e/file', 'unseen')
    await sleep(50)
    assert.equal(noticed.count(), calls)
    fs.watch('d', noticed.call, { signal: controller.signal })
    await put(fs, 'd/x', 'unseen')
    await sleep(20)
    assert.equal(noticed.count(), calls)
  })
  test('calls soon after an entry of a directory appears or vanishes', async (fs) => {
    if (fs.watch === undefined) return
    const controller = new AbortController()
    const noticed = changes()
    fs.watch('d', noticed.call, { signal: controller.signal })
    await noticed.after(() => put(fs, 'd/one', 'x'))
    await noticed.after(() => put(fs, 'd/two', 'x'))
    await noticed.after(() => fs.remove('d/one'))
    if (fs.supports.directories) {
      await fs.remove('d/two')
      await noticed.after(() => fs.remove('d'))
    }
    await noticed.after(() => put(fs, 'd/three', 'x'))
    controller.abort()
  })
}

/** Counts calls, and waits for the next after an action; actions are repeated by nobody: one must be noticed. */
function changes(): { call: () => void; count: () => number; after: (action: () => Promise<void>) => Promise<void> } {
  let calls = 0
  let wake = (): void => {}
  return {
    call: () => {
      calls++
      wake()
    },
    count: () => calls,
    async after(action) {
      // Late calls about what was done before must not be taken for this one.
      await sleep(30)
      const before = calls
      const next = new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`no change was noticed in ${WATCH_MS} ms`)), WATCH_MS)
        wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
      await action()
      if (calls === before) await next
      else wake()
      wake = () => {}
    },
  }
}
