//! Parts that pages are made of. Plain functions: each `#[component]` costs bytes of the bundle.
pub mod cells;
pub mod conditions;
pub mod controls;
pub mod detail;
pub mod dialog;
pub mod diff;
pub mod editor;
pub mod events;
pub mod icon;
pub mod key_values;
pub mod palette;
pub mod shell;
pub mod state;
pub mod table;
pub mod toasts;
pub mod trouble;
