export { type FsUnderTest, fsConformance, type Runner } from './lib/conformance.ts'
export { fsModel, FsModelError, type FsModelOptions, type FsModelReport } from './lib/fs-model.ts'
