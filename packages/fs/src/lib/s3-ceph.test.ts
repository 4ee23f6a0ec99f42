import { afterAll, beforeAll, describe, it } from 'vitest'
import { type Ceph, cephMissing, startCeph } from '../../test/ceph.ts'
import { fsConformance } from '../testing.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const modelRuns = depth === 'soak' ? 200 : depth === 'ci' ? 20 : 3
const missing = cephMissing()
if (missing !== undefined) console.log(`S3 over Ceph is not tested: ${missing}`)

describe.skipIf(missing !== undefined)('s3 over Ceph', () => {
  let ceph: Ceph
  beforeAll(async () => {
    ceph = await startCeph()
  })
  afterAll(async () => {
    await ceph?.[Symbol.asyncDispose]()
  })
  fsConformance({ describe, it }, { create: async () => ceph.fs(), modelRuns, modelSteps: 60 })
})
