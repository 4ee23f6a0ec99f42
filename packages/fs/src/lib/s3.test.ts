import { describe, it, test } from 'vitest'
import { createFakeS3Fs } from '../../test/fake-s3.ts'
import { raceToCreate, raceToReplace } from '../../test/races.ts'
import { fsConformance } from '../testing.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const modelRuns = depth === 'soak' ? 1000 : depth === 'ci' ? 40 : 5
const races = depth === 'soak' ? 5000 : depth === 'ci' ? 200 : 10

describe('s3', () => {
  fsConformance({ describe, it }, { create: () => createFakeS3Fs(), modelRuns })

  test('of many who create one name exactly one wins', async () => {
    await using fs = await createFakeS3Fs()
    await raceToCreate(fs, races)
  })
  test('of many who replace one version exactly one wins', async () => {
    await using fs = await createFakeS3Fs()
    await raceToReplace(fs, races)
  })
  test('of many who replace a version by its own bytes exactly one wins, where uploads in parts heed conditions', async () => {
    await using fs = await createFakeS3Fs({ conditionalMultipart: true })
    await raceToReplace(fs, races, true)
  })
})
