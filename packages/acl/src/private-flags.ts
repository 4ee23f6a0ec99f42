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
export { type FlagState, statesOf } from './lib/overlay-states.ts'
export { copiedStates, type FlagRights, type OverlayTable, type SharedMailbox } from './lib/overlay-table.ts'
export { type PrivateInfos, type PrivateStatus, privateStatus } from './lib/private-status.ts'
export { PrivateFlags, type PrivateFlagsOptions } from './lib/private-user.ts'
