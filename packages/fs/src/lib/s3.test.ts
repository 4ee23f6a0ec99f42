import { describe, it } from 'vitest'
import { createFakeS3Fs } from '../../test/fake-s3.ts'
import { fsConformance } from '../testing.ts'

describe('s3 over the fake', () => {
  fsConformance({ describe, it }, { create: () => createFakeS3Fs() })
})
