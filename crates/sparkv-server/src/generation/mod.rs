//! What all generating endpoints share: the fields about how to generate (`fields`, `format`) and their checks
//! (`validate`), what is asked of the engine (`requests`), its events on their way to the client (`instrumented`, `reply`,
//! `wire`), and what answers carry beside their text (`head`, `ids`, `logprobs`, `usage`).

pub(crate) mod answer;
pub(crate) mod fields;
pub(crate) mod format;
pub(crate) mod head;
pub(crate) mod ids;
pub(crate) mod instrumented;
pub(crate) mod logprobs;
pub(crate) mod reply;
pub(crate) mod requests;
pub(crate) mod usage;
pub(crate) mod validate;
pub(crate) mod wire;
