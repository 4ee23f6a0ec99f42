/**
 * Before each test file: fast-check draws the same cases in every run of one commit, so that a run's verdict is the commit's.
 * A soak draws others each time, and prints the seed of what fails.
 */
import { configureGlobal } from 'fast-check'
import { depth, runSeed } from './depth.ts'

if (depth() !== 'soak') configureGlobal({ seed: runSeed() })
