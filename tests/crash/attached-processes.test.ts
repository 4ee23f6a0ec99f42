/**
 * Real processes on real directories: two stores that keep their attachments in one place, several processes on each, which save,
 * expunge, purge and sweep side by side and are killed in the middle. Everything acknowledged is there, byte for byte, uses are what
 * the messages say, and after the grace period nothing is left that nobody needs.
 */
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { posixFs } from '@mailstead/fs/posix'
import { afterAll, expect, test } from 'vitest'
import { depth, runSeed, say } from '../support/depth.ts'
import { ANNA, blobsIn, bytesOf, damageIn, openAttached } from '../store/attached-world.ts'
import { contentMail, GRACE_MS, storeAt } from './attached-contents.ts'

const child = fileURLToPath(new URL('attached-child.ts', import.meta.url))
const ROUNDS = { normal: 1, ci: 2, soak: 10_000 }[depth()]
const STEPS = 40
/** What is the box's is judged elsewhere. */
const BOXES = depth() === 'normal' ? (['mdbox'] as const) : (['mdbox', 'sdbox'] as const)
const OWNERS = ['anna', 'bert'] as const
const root = mkdtempSync(join(tmpdir(), 'mailstead-attached-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))

interface Worker {
  readonly owner: string
  readonly seed: number
  /** Killed once it has said so many lines. */
  readonly killAfter: number | undefined
}

async function run(
  { owner, seed, killAfter }: Worker,
  box: string,
): Promise<{ readonly owner: string; readonly said: readonly string[]; readonly killed: boolean }> {
  const args = ['--no-warnings', '--conditions=@mailstead/source', child, root, owner, box, String(seed), String(STEPS)]
  const running = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let text = ''
  let errors = ''
  running.stderr.on('data', (data: Buffer) => void (errors += data.toString()))
  running.stdout.on('data', (data: Buffer) => {
    text += data.toString()
    if (killAfter !== undefined && text.split('\n').length > killAfter) running.kill('SIGKILL')
  })
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) => {
    running.on('close', (...ended) => {
      resolve(ended)
    })
  })
  expect(signal === 'SIGKILL' ? '' : `${code} ${errors}`, `seed ${seed}`).toMatch(/^$|^0 /)
  return { owner, said: text.split('\n').slice(0, -1), killed: signal === 'SIGKILL' }
}

test.each(BOXES)(
  'processes on stores in %s with attachments in common lose nothing when they are killed, and leave nothing for ever',
  async (box) => {
    rmSync(root, { recursive: true, force: true })
    for (const owner of OWNERS) mkdirSync(storeAt(root, owner), { recursive: true })
    const counts = { saved: 0, expunged: 0, purged: 0, swept: 0, refused: 0, killed: 0 }
    const live = { anna: new Map<number, number>(), bert: new Map<number, number>() }
    const clock = { ms: 0 }
    for (let round = 0; round < ROUNDS; round++) {
      const workers = OWNERS.flatMap((owner, at) =>
        [0, 1].map((n) => ({
          owner,
          seed: 100_000 * runSeed() + 100 * round + 10 * at + n,
          killAfter: n === 0 ? undefined : 5 + ((7 * round + 11 * at) % 30),
        })),
      )
      const said = await Promise.all(workers.map((worker) => run(worker, box)))
      for (const { owner, said: lines, killed } of said) {
        if (killed) counts.killed++
        const messages = live[owner as 'anna' | 'bert']
        for (const line of lines) {
          const [what, first, second] = line.split(' ')
          if (what === 'saved') messages.set(Number(first), Number(second))
          if (what === 'expunging') messages.delete(Number(first))
          counts[what === 'expunging' ? 'expunged' : (what as keyof typeof counts)]++
        }
      }
      await using blobs = await posixFs(root)
      for (const owner of OWNERS) {
        await using fs = await posixFs(storeAt(root, owner))
        await using store = await openAttached(placeOf(fs, blobs, box, clock))
        for (const [uid, content] of live[owner])
          expect((await bytesOf(store, 'INBOX', uid)).equals(contentMail(content)), `${owner} ${uid}`).toBe(true)
        expect(await damageIn(store)).toEqual([])
      }
    }
    // Later, when nobody works any more.
    await using blobs = await posixFs(root)
    let kept: string[] = []
    for (const last of [false, true]) {
      for (let i = 0; i < 5; i++) {
        clock.ms += 10 * GRACE_MS
        for (const owner of OWNERS) {
          await using fs = await posixFs(storeAt(root, owner))
          await using store = await openAttached(placeOf(fs, blobs, box, clock))
          if (last) {
            await using inbox = await store.as(ANNA).open('INBOX')
            await inbox.expunge(undefined, { force: true })
          }
          await store.purge()
          await store.sweepAttachments()
          if (i === 4) expect(await damageIn(store)).toEqual([])
        }
      }
      if (!last) kept = (await blobsIn(blobs)).files
    }
    const different = new Set<string>()
    for (const messages of Object.values(live))
      for (const content of messages.values()) {
        different.add(`picture ${content % 7}`)
        if (content % 3 === 0) different.add(`file ${content % 5}`)
      }
    // Of processes that are first at the same time each writes a file: names without what tells those apart.
    const files = new Set(kept.map((file) => file.slice(0, -17))).size
    // Killed between a save and saying so, a process left messages that nobody knows of.
    expect(files).toBeGreaterThanOrEqual(different.size)
    expect(files).toBeLessThanOrEqual(7 + 5)
    expect((await blobsIn(blobs)).files).toEqual([])
    say(
      `processes with attachments in common, ${box}: ${JSON.stringify(counts)}; ${files} different blobs in ${kept.length} files at the end`,
    )
  },
)

function placeOf(
  fs: Awaited<ReturnType<typeof posixFs>>,
  blobs: Awaited<ReturnType<typeof posixFs>>,
  box: 'mdbox' | 'sdbox',
  clock: { readonly ms: number },
): Parameters<typeof openAttached>[0] {
  const now = (): number => Date.now() + clock.ms
  return { fs, blobs, box, clock: { ms: Date.now() }, attachments: { shared: true, graceMs: GRACE_MS, now } }
}
