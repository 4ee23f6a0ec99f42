/** Tests that say why they are skipped, and that fail instead of skipping where nothing may be skipped. */
import { test } from 'vitest'
import { deep, type Lack, say } from './depth.ts'

export function testUnless(lack: Lack | undefined, title: string, body: () => Promise<void> | void): void {
  if (lack === undefined) {
    test(title, body)
    return
  }
  if (deep()) {
    test(title, () => {
      throw new Error(`nothing may be skipped in a deep run: ${lack.reason}`)
    })
    return
  }
  say(`skipped: ${title}: ${lack.reason}`)
  test.skip(`${title} (skipped: ${lack.reason})`, body)
}
