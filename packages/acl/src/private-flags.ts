export {
  ALL_SHARED,
  decodePrivacyPolicy,
  encodePrivacyPolicy,
  type FlagClass,
  formatPrivacyPolicy,
  inheritedPolicy,
  parsePrivacyPolicy,
  type PolicyFault,
  PRIVACY_PATTERN_MAX,
  PRIVACY_RULES_MAX,
  type PrivacyPolicy,
  type PrivacyRule,
  PrivacyRules,
} from './lib/private-policy.ts'
export {
  flagsTable,
  keyOfTable,
  orderTable,
  privateColumns,
  type PrivateView,
  type SharedMailboxKey,
} from './lib/private-tables.ts'
export { ORDER_RUNS_MAX } from './lib/private-order.ts'
export { overlay, sharedView } from './lib/overlay-view.ts'
export { copiedStates, type FlagState, type SomeFlags, statesOf } from './lib/overlay-states.ts'
export {
  type AssignOptions,
  type FlagRights,
  type OverlayTable,
  type SharedMailbox,
} from './lib/overlay-table.ts'
export { type PrivateInfos, type PrivateStatus, privateStatus } from './lib/private-status.ts'
export { PrivateFlags, type PrivateFlagsOptions } from './lib/private-user.ts'
export type { MovedMessages, MovedTarget } from './lib/private-follow.ts'
export {
  makeMoved,
  MOVED_COLUMNS,
  MOVED_MAX,
  MOVED_TABLE,
  type MovedTo,
  noteMoved,
  remakeMoved,
} from './lib/private-moves.ts'
