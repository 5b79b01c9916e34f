//! Reports: what stands in the store, as tables, plots and pages. Nothing is trained or scored here; means over seeds and
//! the intervals of plots are all that is computed.

pub mod page;
pub mod plot;
pub mod render;
pub mod reproduce;
pub mod table;
