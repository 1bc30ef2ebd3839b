//! What an answer may say, as far as a grammar decides it.
use std::fmt::Debug;

/// A language that answers are to be in. Shared by all answers to a request.
pub trait Grammar: Debug + Send + Sync {
    /// At the beginning of an answer.
    fn start(&self) -> Box<dyn Constraint>;
}

/// How far one answer is in its language.
pub trait Constraint: Debug + Send {
    /// Sets the logits of all tokens that cannot come next to negative infinity; an end-of-sequence token can come
    /// where the answer is complete.
    ///
    /// # Errors
    /// If that takes more time or memory than a token may; a message for the client.
    fn restrict(&mut self, logits: &mut [f32]) -> Result<(), String>;

    /// Takes note of the token drawn; returns whether the answer is complete and nothing can follow.
    ///
    /// # Errors
    /// If the token cannot come next; a message for the client.
    fn accept(&mut self, id: u32) -> Result<bool, String>;
}
