/**
 * Benchmarks Mailstead beside Debian's Dovecot 2.3 with mdbox: same machine, same session, same load, runs interleaved.
 *
 *   npm run bench -- [--quick] [--only REGEXP] [--server mailstead|dovecot] [--rounds N] [--update-baseline]
 *
 * Each figure is the median of the rounds (5 at least; --quick: 3, and no mailbox above 10 k). The ratio is that of the
 * medians; above 1 Mailstead is the better one. `lib/cheap-imap.ts` says what keeps the client out of the figures.
 * --only runs the rows whose name matches REGEXP. --update-baseline renews
 * the rows it measured in baselines/bench.json (--baseline NAME: another).
 */
import { existsSync, rmSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { parseArgs } from 'node:util'
import { setTimeout as sleep } from 'node:timers/promises'
import { cpuMs, processTree, proportionalBytes } from '../tests/interop/lib/processes.ts'
import {
  dovecotLack,
  MAILSTEAD_COMMAND,
  PASSWORD,
  type Server,
  type ServerOptions,
  startDovecot,
  startMailstead,
  temporaryDirectory,
} from '../tests/interop/lib/servers.ts'
import { aclBench } from './acl.ts'
import { aclListBench } from './acl-list.ts'
import { boxBench } from './box.ts'
import { fsBench } from './fs.ts'
import { indexBench } from './index.ts'
import { sisBench } from './sis.ts'
import { CheapImap } from './lib/cheap-imap.ts'
import { appendLoad, fill, forCount, forTime, type Load, lmtpLoad, NEEDLE, type Work } from './lib/load.ts'
import { human, median } from './lib/statistics.ts'
import { countSyscalls, straceCommand, type TraceWindow } from './lib/syscalls.ts'
import { readBaseline, updateBaseline, WORSE } from './lib/baseline.ts'

type Name = Server['name']

interface Figure {
  readonly row: string
  readonly unit: string
  /** What Mailstead must reach, as a ratio; undefined where there is no target. */
  readonly target: number | undefined
  /** For memory: less is better, and the ratio is Mailstead's share of Dovecot's. */
  readonly lessIsBetter: boolean
  readonly medians: Partial<Record<Name, number>>
  /** Server CPU in microseconds for each operation. */
  readonly cpu: Partial<Record<Name, number>>
  readonly ratio: number | undefined
}

const { values: flags } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string' },
    server: { type: 'string' },
    rounds: { type: 'string' },
    'update-baseline': { type: 'boolean', default: false },
    baseline: { type: 'string', default: 'bench' },
  },
})
const ROUNDS = Number(flags.rounds ?? (flags.quick ? 3 : 5))
const RUN_MS = flags.quick ? 400 : 1000
const SAMPLE_MS = flags.quick ? 100 : 300
/** Before its first round each server repeats a step until it gets no faster: windows of so many milliseconds are compared … */
const WARM_WINDOW_MS = flags.quick ? 500 : 1000
/** … until so many in a row were no faster than the best before by more than this factor … */
const WARM_WINDOWS = 3
const WARM_FASTER = 1.03
/** … and no longer than so many of them. */
const WARM_MAX = flags.quick ? 8 : 20
const SIZES = flags.quick ? [1000, 10_000] : [1000, 10_000, 100_000]
const MILLION = 1_000_000
/** Bodies fetched from larger mailboxes in one command. */
const BODIES_MAX = 10_000
const IDLE_CONNECTIONS: Record<Name, number> = { mailstead: 1000, dovecot: 100 }

const figures: Figure[] = []
/** Servers that were started and not yet stopped: none is left behind when a row fails. */
const only = flags.only === undefined ? undefined : new RegExp(flags.only)
const running = new Set<Server>()

function wanted(row: string): boolean {
  return only === undefined || only.test(row)
}

function label(size: number): string {
  return size >= MILLION ? `${size / MILLION}M` : `${size / 1000}k`
}

function treeCpuMs(server: Server): number {
  return processTree(server.pid).reduce((sum, pid) => sum + cpuMs(pid), 0)
}

/** Runs a row on every server, alternating, and keeps the medians. The first round warms up and is not counted. */
async function measure(
  row: string,
  unit: string,
  target: number | undefined,
  servers: readonly Server[],
  run: (server: Server, round: number) => Promise<Work>,
): Promise<void> {
  if (!wanted(row)) return
  const rates = new Map<Name, number[]>()
  const cpu = new Map<Name, { ms: number; operations: number }>()
  for (let round = 0; round <= ROUNDS; round++) {
    const order = round % 2 === 0 ? servers : [...servers].reverse()
    for (const server of order) {
      const before = treeCpuMs(server)
      const { operations, seconds } = await run(server, round)
      if (round === 0) continue
      const spent = cpu.get(server.name) ?? { ms: 0, operations: 0 }
      spent.ms += Math.max(0, treeCpuMs(server) - before)
      spent.operations += operations
      cpu.set(server.name, spent)
      const list = rates.get(server.name) ?? []
      list.push(operations / seconds)
      rates.set(server.name, list)
    }
  }
  const medians: Partial<Record<Name, number>> = {}
  const cpuMicros: Partial<Record<Name, number>> = {}
  for (const [name, list] of rates) medians[name] = median(list)
  for (const [name, { ms, operations }] of cpu) cpuMicros[name] = (ms * 1000) / Math.max(1, operations)
  keep(row, unit, target, false, medians, cpuMicros)
}

function keep(
  row: string,
  unit: string,
  target: number | undefined,
  lessIsBetter: boolean,
  medians: Partial<Record<Name, number>>,
  cpu: Partial<Record<Name, number>> = {},
): void {
  const { mailstead, dovecot } = medians
  const ratio = mailstead === undefined || dovecot === undefined ? undefined : mailstead / dovecot
  const figure: Figure = { row, unit, target, lessIsBetter, medians, cpu, ratio }
  figures.push(figure)
  process.stdout.write(`${line(figure)}\n`)
}

function met({ target, ratio, lessIsBetter }: Figure): string {
  if (target === undefined || ratio === undefined) return ''
  return (lessIsBetter ? ratio <= target : ratio >= target) ? 'met' : 'MISSED'
}

function line(figure: Figure): string {
  const { row, unit, medians, cpu, ratio, target, lessIsBetter } = figure
  const goal = target === undefined ? '' : `${lessIsBetter ? '≤' : '≥'} ${target}`
  return [
    row.padEnd(34),
    human(medians.mailstead).padStart(12),
    human(medians.dovecot).padStart(12),
    unit.padEnd(16),
    (ratio === undefined ? '' : ratio.toFixed(2)).padStart(7),
    goal.padStart(7),
    met(figure).padEnd(7),
    cpu.mailstead === undefined && cpu.dovecot === undefined
      ? ''
      : `cpu µs/op ${human(cpu.mailstead)} · ${human(cpu.dovecot)}`,
  ].join(' ')
}

/** Every server that this run compares; Mailstead with lazy flag changes, as Dovecot's always are. */
async function start(options: ServerOptions = {}): Promise<readonly Server[]> {
  const servers: Server[] = []
  if (flags.server !== 'dovecot') servers.push(noted(await startMailstead({ lazyFlags: true, ...options })))
  if (flags.server !== 'mailstead') servers.push(noted(await startDovecot(options)))
  return servers
}

function noted(server: Server): Server {
  running.add(server)
  return server
}

async function stop(server: Server): Promise<void> {
  await server[Symbol.asyncDispose]()
  running.delete(server)
}

interface DeliveryRow {
  readonly row: string
  readonly target: number | undefined
  readonly load: (server: Server, name: string) => Promise<Load>
}

const DELIVERY: readonly DeliveryRow[] = [
  { row: 'append 1 connection', target: undefined, load: async (server, name) => appendLoad(server, 1, 1, name) },
  { row: 'append 16 connections 1 mailbox', target: 2, load: async (server, name) => appendLoad(server, 16, 1, name) },
  { row: 'append 16 connections 16 users', target: 1, load: async (server, name) => appendLoad(server, 16, 16, name) },
  { row: 'lmtp 1 connection 1 user', target: undefined, load: async (server) => lmtpLoad(server, 1, 1) },
  { row: 'lmtp 16 connections 1 user', target: undefined, load: async (server) => lmtpLoad(server, 16, 1) },
  { row: 'lmtp 16 connections 16 users', target: 2, load: async (server) => lmtpLoad(server, 16, 16) },
  { row: 'lmtp 1 connection 16 recipients', target: undefined, load: async (server) => lmtpLoad(server, 1, 16, 16) },
]

async function deliveries(): Promise<void> {
  if (!DELIVERY.some(({ row }) => wanted(row))) return
  const servers = await start()
  for (const [index, { row, target, load }] of DELIVERY.entries()) {
    await measure(row, 'messages/s', target, servers, async (server, round) => {
      await using made = await load(server, `append-${index}-${round}`)
      return await forTime(made.workers, RUN_MS, made.operations)
    })
  }
  for (const server of servers) await stop(server)
  await flushCounts()
}

/** The same loads once more under strace: flushes and bytes for each message. Rates of these runs are not shown. */
async function flushCounts(): Promise<void> {
  const rows = DELIVERY.filter(({ row }) => wanted(row))
  const flushes = new Map<string, Partial<Record<Name, number>>>()
  const written = new Map<string, Partial<Record<Name, number>>>()
  for (const name of ['mailstead', 'dovecot'] as const) {
    if (flags.server !== undefined && flags.server !== name) continue
    const directory = temporaryDirectory(`trace-${name}`)
    const trace = `${directory}.strace`
    const options: ServerOptions = { directory, wrapper: straceCommand(trace) }
    const server = noted(name === 'mailstead' ? await startMailstead(options) : await startDovecot(options))
    const windows: (TraceWindow & { row: string; operations: number })[] = []
    for (const [index, { row, load }] of rows.entries()) {
      await using made = await load(server, `counted-${index}`)
      await forCount(made.workers, 5)
      await sleep(300)
      const from = Date.now() / 1000
      const { operations } = await forCount(
        made.workers,
        Math.ceil((flags.quick ? 160 : 480) / made.workers.length),
        made.operations,
      )
      await sleep(300)
      windows.push({ row, operations, from, to: Date.now() / 1000 })
    }
    await stop(server)
    for (const { row, operations, ...window } of windows) {
      const counts = countSyscalls(trace, window, directory)
      flushes.set(row, { ...flushes.get(row), [name]: counts.flushes / operations })
      written.set(row, { ...written.get(row), [name]: counts.bytesWritten / operations })
    }
    rmSync(trace, { force: true })
    rmSync(directory, { recursive: true, force: true })
  }
  for (const { row } of rows) {
    keep(`${row}: flushes`, 'per message', undefined, true, flushes.get(row) ?? {})
    keep(`${row}: bytes written`, 'per message', undefined, true, written.get(row) ?? {})
  }
}

/** Repeats one step until a sample is long enough to be trusted. */
async function sampleOf(step: () => Promise<unknown>, operations: number): Promise<Work> {
  return forTime([step], SAMPLE_MS, operations)
}

interface ReadRow {
  readonly row: string
  readonly unit: string
  /** Operations in one step. */
  readonly operations: (size: number) => number
  readonly step: (client: CheapImap, mailbox: string, size: number, turn: number) => Promise<unknown>
}

const each = (size: number): number => size
const one = (): number => 1

const READS: readonly ReadRow[] = [
  {
    row: 'select',
    unit: 'commands/s',
    operations: one,
    step: async (client, mailbox) => {
      await client.run('UNSELECT')
      await client.run(`SELECT ${mailbox}`)
    },
  },
  {
    row: 'fetch flags',
    unit: 'messages/s',
    operations: each,
    step: async (client) => client.run('FETCH 1:* (UID FLAGS)'),
  },
  {
    row: 'fetch envelopes',
    unit: 'messages/s',
    operations: each,
    step: async (client) => client.run('FETCH 1:* (UID ENVELOPE)'),
  },
  {
    row: 'fetch as a new client',
    unit: 'messages/s',
    operations: each,
    step: async (client) => client.run('FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE BODYSTRUCTURE ENVELOPE)'),
  },
  {
    row: 'fetch header fields',
    unit: 'messages/s',
    operations: each,
    step: async (client) =>
      client.run(
        'FETCH 1:* (UID BODY.PEEK[HEADER.FIELDS (DATE FROM SUBJECT TO CC MESSAGE-ID REFERENCES IN-REPLY-TO)])',
      ),
  },
  {
    row: 'fetch bodies',
    unit: 'messages/s',
    operations: (size) => Math.min(size, BODIES_MAX),
    step: async (client, _mailbox, size) => client.run(`FETCH 1:${Math.min(size, BODIES_MAX)} (UID BODY.PEEK[])`),
  },
  { row: 'search unseen', unit: 'messages/s', operations: each, step: async (client) => client.run('SEARCH UNSEEN') },
  {
    row: 'search subject',
    unit: 'messages/s',
    operations: each,
    step: async (client) => client.run('SEARCH SUBJECT "harbour crane"'),
  },
  {
    row: 'search header',
    unit: 'messages/s',
    operations: each,
    step: async (client) => client.run('SEARCH HEADER List-Id "nowhere"'),
  },
  {
    row: 'search body',
    unit: 'messages/s',
    operations: each,
    step: async (client) => client.run(`SEARCH BODY "${NEEDLE}"`),
  },
  {
    row: 'search text',
    unit: 'messages/s',
    operations: each,
    step: async (client) => client.run(`SEARCH TEXT "${NEEDLE}"`),
  },
]

const SINGLES = 500

const STORES: readonly ReadRow[] = [
  {
    row: 'store all',
    unit: 'messages/s',
    operations: each,
    step: async (client, _mailbox, _size, turn) =>
      client.run(`STORE 1:* ${turn % 2 === 0 ? '+' : '-'}FLAGS.SILENT (\\Answered)`),
  },
  {
    row: 'store one at a time',
    unit: 'commands/s',
    operations: () => SINGLES,
    step: async (client, _mailbox, size, turn) => {
      for (let at = 0; at < SINGLES; at++) {
        const number = ((at * 7919) % size) + 1
        await client.run(`STORE ${number} ${turn % 2 === 0 ? '+' : '-'}FLAGS (\\Draft)`)
      }
    },
  },
]

/** Repeats a step until a just-in-time compiler has done what it can: what is compared are servers at work for a while. */
async function warmUp(step: () => Promise<void>): Promise<void> {
  let best = 0
  for (let window = 0, since = 0; window < WARM_MAX && since < WARM_WINDOWS; window++) {
    const started = performance.now()
    let steps = 0
    do {
      await step()
      steps++
    } while (performance.now() - started < WARM_WINDOW_MS)
    const rate = steps / (performance.now() - started)
    since = rate > best * WARM_FASTER ? 0 : since + 1
    best = Math.max(best, rate)
  }
}

async function reads(): Promise<void> {
  const rows = [...READS, ...STORES]
  const sizes = SIZES.filter((size) => rows.some(({ row }) => wanted(`${row} ${label(size)}`)))
  const flushedWanted = SIZES.some((size) => STORES.some(({ row }) => wanted(`${row} flushed ${label(size)}`)))
  if (sizes.length === 0 && !flushedWanted) return
  const servers = await start()
  for (const size of sizes) {
    const mailbox = `box${label(size)}`
    const started = performance.now()
    await fill(servers, mailbox, size)
    process.stdout.write(`filled ${mailbox} in ${((performance.now() - started) / 1000).toFixed(1)} s\n`)
    const clients = new Map<Server, CheapImap>()
    for (const server of servers) {
      const client = await CheapImap.login(server.imap, 'user1', PASSWORD)
      await client.run(`SELECT ${mailbox}`)
      clients.set(server, client)
    }
    for (const { row, unit, operations, step } of rows) {
      const turns = new Map<Server, number>()
      if (size === sizes[0] && wanted(`${row} ${label(size)}`))
        for (const server of servers)
          await warmUp(async () => {
            const turn = turns.get(server) ?? 0
            turns.set(server, turn + 1)
            await step(clients.get(server)!, mailbox, size, turn)
          })
      await measure(`${row} ${label(size)}`, unit, 1, servers, async (server) =>
        sampleOf(async () => {
          const turn = turns.get(server) ?? 0
          turns.set(server, turn + 1)
          await step(clients.get(server)!, mailbox, size, turn)
        }, operations(size)),
      )
    }
    for (const client of clients.values()) client.close()
    await measure(`login select logout ${label(size)}`, 'sessions/s', 1, servers, async (server) =>
      sampleOf(async () => {
        const client = await CheapImap.login(server.imap, 'user1', PASSWORD)
        await client.run(`SELECT ${mailbox}`)
        client.close()
      }, 1),
    )
  }
  await flushedStores(servers)
  for (const server of servers) await stop(server)
}

/** Flag changes that are flushed before they are acknowledged, which Dovecot never does: shown beside, not compared. */
async function flushedStores(servers: readonly Server[]): Promise<void> {
  if (servers[0]?.name !== 'mailstead') return
  const flushed = noted(await startMailstead({ lazyFlags: false }))
  for (const size of SIZES) {
    if (!STORES.some(({ row }) => wanted(`${row} flushed ${label(size)}`))) continue
    const mailbox = `box${label(size)}`
    await fill([flushed], mailbox, size)
    const client = await CheapImap.login(flushed.imap, 'user1', PASSWORD)
    await client.run(`SELECT ${mailbox}`)
    for (const { row, unit, operations, step } of STORES) {
      let turn = 0
      await measure(`${row} flushed ${label(size)}`, unit, undefined, [flushed], async () =>
        sampleOf(async () => step(client, mailbox, size, turn++), operations(size)),
      )
    }
    client.close()
  }
  await stop(flushed)
}

/** A mailbox of a million small messages: how long it takes to open it. */
async function million(): Promise<void> {
  const rows = ['select 1M', 'login select logout 1M', 'fetch flags 1M', 'search unseen 1M']
  if (flags.quick || !rows.some(wanted)) return
  const servers = await start()
  const started = performance.now()
  await fill(servers, 'box1M', MILLION, 100)
  process.stdout.write(`filled box1M in ${((performance.now() - started) / 1000).toFixed(1)} s\n`)
  const clients = new Map<Server, CheapImap>()
  for (const server of servers) {
    const client = await CheapImap.login(server.imap, 'user1', PASSWORD)
    const cold = performance.now()
    await client.run('SELECT box1M')
    process.stdout.write(`${server.name}: first select 1M after filling ${(performance.now() - cold).toFixed(1)} ms\n`)
    clients.set(server, client)
  }
  const commands: readonly [string, string, number, (client: CheapImap) => Promise<unknown>][] = [
    [
      'select 1M',
      'commands/s',
      1,
      async (client) => {
        await client.run('UNSELECT')
        await client.run('SELECT box1M')
      },
    ],
    ['fetch flags 1M', 'messages/s', MILLION, async (client) => client.run('FETCH 1:* (UID FLAGS)')],
    ['search unseen 1M', 'messages/s', MILLION, async (client) => client.run('SEARCH UNSEEN')],
  ]
  for (const [row, unit, operations, step] of commands) {
    await measure(row, unit, 1, servers, async (server) => sampleOf(async () => step(clients.get(server)!), operations))
  }
  for (const client of clients.values()) client.close()
  await measure('login select logout 1M', 'sessions/s', 1, servers, async (server) =>
    sampleOf(async () => {
      const client = await CheapImap.login(server.imap, 'user1', PASSWORD)
      await client.run('SELECT box1M')
      client.close()
    }, 1),
  )
  for (const server of servers) await stop(server)
}

function serverMemory(server: Server): number {
  return processTree(server.pid).reduce((sum, pid) => sum + proportionalBytes(pid), 0)
}

/** Memory of connections that selected a mailbox of 1 k messages and then do nothing. Shared pages are counted once (PSS). */
async function memory(): Promise<void> {
  if (!wanted('memory')) return
  const servers = await start()
  const total: Partial<Record<Name, number>> = {}
  const share: Partial<Record<Name, number>> = {}
  const bare: Partial<Record<Name, number>> = {}
  for (const server of servers) {
    await fill([server], 'idle', 1000)
    const warm: CheapImap[] = []
    for (let at = 0; at < 16; at++) {
      const client = await CheapImap.login(server.imap, 'user1', PASSWORD)
      await client.run('SELECT idle')
      warm.push(client)
    }
    for (const client of warm) client.close()
    await sleep(3000)
    bare[server.name] = serverMemory(server)
    const count = IDLE_CONNECTIONS[server.name]
    const clients: CheapImap[] = []
    for (let at = 0; at < count; at++) {
      const client = await CheapImap.login(server.imap, 'user1', PASSWORD)
      await client.run('SELECT idle')
      clients.push(client)
    }
    await sleep(3000)
    const now = serverMemory(server)
    total[server.name] = now
    share[server.name] = (now - bare[server.name]!) / count
    for (const client of clients) client.close()
  }
  keep('memory with nobody connected', 'bytes', undefined, true, bare)
  keep(`memory, ${IDLE_CONNECTIONS.mailstead} and ${IDLE_CONNECTIONS.dovecot} idle`, 'bytes', undefined, true, total)
  keep('memory of an idle connection', 'bytes', 0.1, true, share)
  for (const server of servers) await stop(server)
}

/** Rows that lost more than a third of their ratio since the baseline. */
function regressions(): readonly string[] {
  const before = readBaseline<Figure>(flags.baseline)
  return figures.flatMap(({ row, ratio, lessIsBetter }) => {
    const old = before.get(row)?.ratio
    if (old === undefined || ratio === undefined) return []
    const worse = lessIsBetter ? ratio / old : old / ratio
    return worse > WORSE ? [`${row}: ratio ${ratio.toFixed(2)}, was ${old.toFixed(2)}`] : []
  })
}

/** File systems and the index need no server; a run of one server alone leaves them out. */
const withParts = flags.server === undefined
const lack = flags.server === 'mailstead' ? undefined : dovecotLack()
if (lack !== undefined) {
  process.stderr.write(`Dovecot is not compared: ${lack.reason}\n`)
  flags.server = 'mailstead'
}
if (flags.server !== 'dovecot' && !existsSync(MAILSTEAD_COMMAND)) {
  process.stderr.write(`Mailstead is not measured: no ${MAILSTEAD_COMMAND}\n`)
  flags.server = 'dovecot'
}
const machine = `${cpus().length} × ${cpus()[0]?.model ?? 'unknown'}, ${(totalmem() / 2 ** 30).toFixed(0)} GiB, Node ${process.versions.node}`
process.stdout.write(`${machine}; median of ${ROUNDS}\n`)
process.stdout.write(
  `${'row'.padEnd(34)} ${'mailstead'.padStart(12)} ${'dovecot'.padStart(12)} ${'unit'.padEnd(16)}   ratio  target\n`,
)
for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => process.exit(1))
const complaints: string[] = []
try {
  if (withParts) {
    const shared = { wanted, machine, update: flags['update-baseline'] }
    complaints.push(...(await fsBench({ ...shared, rounds: 3 * ROUNDS })))
    complaints.push(...(await indexBench({ ...shared, rounds: ROUNDS, quick: flags.quick })))
    complaints.push(...(await boxBench({ ...shared, rounds: ROUNDS, quick: flags.quick })))
    complaints.push(...(await sisBench({ ...shared, rounds: 3 * ROUNDS, quick: flags.quick })))
    complaints.push(...aclBench({ ...shared, rounds: 3 * ROUNDS }))
    complaints.push(...(await aclListBench({ ...shared, rounds: 3 * ROUNDS })))
  }
  for (const part of [deliveries, memory, reads, million]) {
    await part()
    if (flags['update-baseline']) updateBaseline(flags.baseline, figures, { machine, rounds: ROUNDS })
  }
} finally {
  for (const server of running) await stop(server)
}
const regressed = flags['update-baseline'] ? [] : regressions()
const missed = figures.filter((figure) => met(figure) === 'MISSED')
process.stdout.write(`\n${figures.length} rows, ${missed.length} targets missed\n`)
for (const text of complaints) process.stdout.write(`${text}\n`)
for (const text of regressed) process.stdout.write(`worse than the baseline: ${text}\n`)
