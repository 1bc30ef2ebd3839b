//! Measures what KV cache settings cost and bring: how many answers are still right, the bytes they were given
//! from, and the speed.
//!
//! [`TaskSet`] draws fresh samples of the demo model's tasks (`models/demo/tasks.json`, from which it was
//! trained with other draws): facts among filler, and a question about one of them. [`Retrieval`] runs them
//! through a model at several settings, the same samples for each, greedily, and counts answers that are
//! right word for word. [`table`] prints what came out.
//!
//! [`mod@kl`] tells how far settings move the predictions of any model, and [`mod@recall`] whether it still finds what stands in a
//! long context.
//!
//! [`mod@bench`] measures speed and memory, of any model or of random weights in its shape.
//!
//! Query-aware: the question is part of the prompt that is compressed, so policies that look at the last
//! queries know what will be asked. Query-agnostic: the context is compressed first and the question follows.

pub mod bench;
mod bootstrap;
pub mod kl;
pub mod recall;
mod report;
mod retrieval;
mod tasks;

pub use report::table;
pub use retrieval::{EvalError, Measurement, Mode, Retrieval, SettingsUnderTest};
pub use tasks::{Sample, SampleShape, TaskError, TaskSet};
