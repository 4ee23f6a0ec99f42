export { type S3FsOptions, s3Fs } from './lib/s3.ts'
