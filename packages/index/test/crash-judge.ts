/** What is to be true of every disk that a power cut can leave. */
import type { Fs } from '@mailstead/fs'
import { type CrashState, faultyFs } from '@mailstead/fs/faults'
import { type Index, openIndex } from '../src/index.ts'
import { isSealedTwice } from '../src/lib/control.ts'
import { readTableList } from '../src/lib/table-list.ts'
import { type Recovered, recoveredOf } from './crash-history.ts'
import {
  type Medium,
  mediumOptions,
  type Mutation,
  PATH,
  type Scene,
  smallOf,
  SPECS,
  type Work,
} from './crash-workload.ts'

export interface JudgeOptions {
  readonly seed: number
  /** States of each moment. */
  readonly statesEach: number
  /** Of so many disks one loses its power again while it is opened, one goes on working, one loses a backed-up file. */
  readonly againEvery: number
  readonly onwardEvery: number
  readonly mutation?: Mutation
  /** States that were looked at, by what had happened last. */
  readonly counted?: Map<string, number>
}

/** A disk that broke a promise. */
export interface Broken {
  readonly where: string
  readonly what: string
}

export interface Judged {
  readonly states: number
  /** Disks that were opened: equal ones once. */
  readonly opened: number
  /** Of these, disks whose list tells frames after a snapshot; and those whose log had been dropped in part, besides. */
  readonly listed: number
  readonly dropped: number
  readonly broken: Broken | undefined
}

/** What a disk gives, or why not. */
type Answer = (Recovered & { readonly objection: string | undefined }) | { readonly objection: string }

/** Looks at every moment until a disk breaks a promise. */
export async function judge({ disk, history, medium }: Work, options: JudgeOptions): Promise<Judged> {
  const { seed, statesEach, againEvery, onwardEvery, mutation, counted } = options
  const answers = new Map<string, Answer>()
  let states = 0
  let opened = 0
  const seen = { listed: 0, dropped: 0 }
  const look = async (state: CrashState, at: number, before: string): Promise<Broken | undefined> => {
    states++
    const step = before === '' ? stepOf(state.after) : 'during recovery'
    counted?.set(step, (counted.get(step) ?? 0) + 1)
    const during: CrashState[] = []
    let answer = answers.get(state.hash)
    if (answer === undefined) {
      opened++
      const again = before === '' && opened % againEvery === 0
      const onward = opened % onwardEvery === 0
      answer = await answerOf(state, { medium, mutation, seed, onward, seen, during: again ? during : undefined })
      answers.set(state.hash, answer)
    }
    const objection = answer.objection ?? history.objection(history.at(at), answer as Recovered)
    if (objection !== undefined) return { where: `seed ${seed}, ${before}${state.description}`, what: objection }
    for (const next of during) {
      const broken = await look(next, at, `${state.description}, then `)
      if (broken !== undefined) return broken
    }
    return undefined
  }
  for (const state of disk.everyState({ seed, maxStates: statesEach })) {
    const broken = await look(state, state.tick, '')
    if (broken !== undefined) return { states, opened, ...seen, broken }
  }
  return { states, opened, ...seen, broken: undefined }
}

interface Opening {
  readonly medium: Medium
  readonly mutation: Mutation | undefined
  readonly seed: number
  readonly onward: boolean
  readonly seen: { listed: number; dropped: number }
  /** Where to put the states of a power cut while it is opened. */
  readonly during: CrashState[] | undefined
}

async function answerOf(state: CrashState, opening: Opening): Promise<Answer> {
  try {
    return await recover(state, opening)
  } catch (error) {
    const { code = '', message } = error as { code?: string; message: string }
    return { objection: `${code} ${message}` }
  }
}

async function recover(state: CrashState, opening: Opening): Promise<Answer> {
  const { medium, mutation, seed, onward, seen, during } = opening
  let recovering = during !== undefined
  let volatile = Number.POSITIVE_INFINITY
  let wrote = false
  await using disk = state.open({
    ...mediumOptions(medium),
    onChange: (now) => {
      if (recovering) during!.push(...now.states({ seed, maxStates: 3 }))
      // A flush of what is flushed changes nothing.
      if (now.volatile().length > volatile) wrote = true
    },
  })
  await look(disk, seen)
  const scene: Scene = { phase: 'opening' }
  const fs = mutation?.wrap?.(disk, scene) ?? disk
  const damages: string[] = []
  const onEvent = ({ kind, message }: { kind: string; message: string }): void => {
    if (isDamage(kind)) damages.push(`${kind}: ${message}`)
  }
  const options = { create: true, ...smallOf(seed), onEvent }
  const index = await openIndex(fs, PATH, options)
  let found = await recoveredOf(index, SPECS)
  if (recovering) {
    // Whatever is put right is put right by the first writer at the latest.
    await index.checkpoint()
    recovering = false
    if (medium === 'file' && (await hasOldList(disk))) await withoutList(disk, options, found)
  }
  for await (const page of index.check())
    for (const { severity, file, message } of page) if (severity === 'damage') damages.push(`${file}: ${message}`)
  if (damages.length > 0) return { objection: damages.join('; ') }
  const first = found
  if (onward) found = await goOn(index)
  scene.phase = 'closing'
  await index[Symbol.asyncDispose]()
  if (onward && medium === 'file' && !isSealedTwice(await disk.readFile(`${PATH}/control`)))
    return { objection: 'the log was closed, and not both slots say so' }
  volatile = disk.volatile().length
  const again = await openIndex(fs, PATH, options)
  const later = await recoveredOf(again, SPECS)
  await (again as Index & { abandon(): Promise<void> }).abandon()
  if (wrote) return { objection: 'a second opening writes' }
  if (later.description !== found.description) return { objection: 'a second opening finds something else' }
  for (const [table, modSeq] of found.modSeqs)
    if ((later.modSeqs.get(table) ?? 0) < modSeq) return { objection: 'a modseq goes back' }
  return damages.length > 0 ? { objection: damages.join('; ') } : { ...first, objection: undefined }
}

/** Writes in every way; returns what is there then. */
async function goOn(index: Index): Promise<Recovered> {
  for (let n = 0; n < 2; n++) {
    const tx = index.begin()
    if (index.info('later') === undefined) tx.createTable({ id: 'later', uidValidity: 1_000_000, columns: [] })
    tx.append('later', {})
    if (index.info('inbox') !== undefined) tx.setValue('inbox', 'later', Uint8Array.of(n))
    await tx.commit()
    await index.checkpoint()
  }
  return recoveredOf(index, SPECS)
}

/** What the list tells of the log. */
async function look(fs: Fs, seen: { listed: number; dropped: number }): Promise<void> {
  const path = `${PATH}/tables/directory`
  if ((await fs.stat(path)) === undefined) return
  const list = readTableList(await fs.readFile(path))
  if (list?.tables.some(({ frames }) => frames.length > 0) !== true) return
  seen.listed++
  if (list.firstSegment > 1) seen.dropped++
}

async function hasOldList(fs: Fs): Promise<boolean> {
  return (await fs.stat(`${PATH}/tables/directory.old`)) !== undefined
}

/** The list before the last one takes its place. */
async function withoutList(fs: Fs, options: object, found: Recovered): Promise<void> {
  const path = `${PATH}/tables/directory`
  const lost = faultyFs(fs, {
    fail: (operation, at) => (operation === 'readFile' && at === path ? 'FS_NOT_FOUND' : undefined),
  })
  const index = await openIndex(lost, PATH, { ...options, readOnly: true, create: false })
  const { description } = await recoveredOf(index, SPECS)
  await (index as Index & { abandon(): Promise<void> }).abandon()
  if (description !== found.description) throw new Error('without the list of tables, the one before does not do')
}

/** `write store/log/0000000000000001.log @120+64` as `write log/segment.log`. */
function stepOf(after: string): string {
  return after
    .replace(/store\//g, '')
    .replace(/[0-9]{16}/, 'segment')
    .replace(/ (@|to ).*/, '')
}

/** Whether an event tells of what no power cut may leave. One slot of the control file may be torn: the other one counts. */
export function isDamage(kind: string): boolean {
  return kind.includes('damaged') && kind !== 'control-slot-damaged'
}
