//! THE LIST: one line a kind.
use crate::kind::KindEntry;

mod config_map;

pub fn all() -> Vec<KindEntry> {
    vec![
        KindEntry::of::<config_map::ConfigMap>(), //
    ]
}
