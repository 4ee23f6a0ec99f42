export { type IndexPlace, type IndexUnderTest, indexConformance, type Runner } from './lib/conformance.ts'
export { Model, type ModelChange, type ModelOutcome, type ModelRow, type ModelTable } from './lib/model.ts'
