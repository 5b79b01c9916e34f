//! Reports: what stands in the store, as tables. Nothing is computed here but means over seeds.

pub mod render;
pub mod table;
