//! Strings around the token core.
//!
//! A request is rendered by the model's chat template (`template`), encoded so that what clients said stays text
//! (`control_tokens`), and handed to the core; the tokens that come back become text (`detokenizer`), which is searched for stop strings (`stop`) before
//! anybody sees it (`stream`). Formats are compiled to what the core restricts its draws by (`grammar`), over the
//! bytes of the tokens (`vocabulary`); calls of tools are written as the model's template has it (`tools`), and found
//! in answers (`calls`). All of it runs where the events are read, none of it on the model's thread.
mod calls;
mod control_tokens;
mod detokenizer;
mod engine;
mod grammar;
mod jinja_dialect;
mod lark;
mod model;
mod schema;
mod stop;
mod stream;
mod template;
#[cfg(test)]
mod testing;
mod tojson;
mod tools;
mod vocabulary;

pub use self::{
    calls::{CallParser, ParsedDelta},
    engine::TextEngine,
    model::{TextModel, TokenizerInfo},
    stream::EventStream,
    tools::ToolFormat,
};
