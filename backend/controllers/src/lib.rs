//! Control loops as pure functions: `reconcile(key, cluster, now) -> Plan`. No tokio, no clock, no store.
