export interface CheckpointHost {
  readonly prefix: string
}
export async function checkpoint(_host: CheckpointHost): Promise<boolean> {
  return false
}
