export { type IndexPlace, type IndexUnderTest, indexConformance, type Runner } from './lib/conformance.ts'
export {
  countersOf,
  describeModel,
  describeView,
  expungedFault,
  Model,
  type ModelChange,
  type ModelOutcome,
  type ModelRow,
  type ModelTable,
  request,
} from './lib/model.ts'
