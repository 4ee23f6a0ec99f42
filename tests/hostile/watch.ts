/** Watches a server while a test attacks it: its memory, and whether somebody else is still served. */
import { setTimeout as sleep } from 'node:timers/promises'
import { ImapClient } from '../interop/lib/imap.ts'
import { processTree, proportionalBytes, residentBytes } from '../interop/lib/processes.ts'
import { PASSWORD, type Server } from '../interop/lib/servers.ts'

export const MiB: number = 1024 * 1024
const SAMPLE_MS = 40

export interface Watched {
  /** The most memory seen, in bytes. */
  readonly peakBytes: number
  /** The longest that the bystander waited for an answer. */
  readonly longestWaitMs: number
  /** Answers that the bystander got. */
  readonly answers: number
}

/** Memory of the server: resident, or shared fairly over the processes of one that has many. */
export function memoryOf(server: Server): number {
  if (server.name === 'mailstead') return residentBytes(server.pid)
  return processTree(server.pid).reduce((sum, pid) => sum + proportionalBytes(pid), 0)
}

/** Runs the attack while a bystander of another user asks for something all the time. Throws if he is not answered. */
export async function watch(server: Server, attack: () => Promise<void>): Promise<Watched> {
  await using bystander = await ImapClient.login(server.imap, 'user16', PASSWORD)
  await bystander.command('CREATE watched')
  await bystander.append('watched', Buffer.from('Subject: bystander\r\n\r\nbody\r\n'))
  await bystander.ok('SELECT watched')
  let peakBytes = memoryOf(server)
  let longestWaitMs = 0
  let answers = 0
  let attacking = true
  const asking = (async () => {
    while (attacking) {
      const asked = performance.now()
      const rows = await bystander.fetch('1', '(FLAGS BODY.PEEK[])', false)
      if (rows.length !== 1) throw new Error('the bystander got no answer')
      longestWaitMs = Math.max(longestWaitMs, performance.now() - asked)
      answers++
      peakBytes = Math.max(peakBytes, memoryOf(server))
      await sleep(SAMPLE_MS)
    }
  })()
  try {
    await Promise.race([attack(), asking])
  } finally {
    attacking = false
  }
  await asking
  return { peakBytes, longestWaitMs, answers }
}
