//! Strings around the token core.
//!
//! A request is rendered by the model's chat template (`template`), encoded, and handed to the core; the
//! tokens that come back become text (`detokenizer`), which is searched for stop strings (`stop`) before
//! anybody sees it (`stream`). All of it runs where the events are read, none of it on the model's thread.
mod detokenizer;
mod engine;
mod model;
mod stop;
mod stream;
mod template;

pub use self::{
    engine::TextEngine,
    model::{TextModel, TextModelError},
    stream::EventStream,
};
