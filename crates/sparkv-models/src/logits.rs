//! Logits as they are asked for and given: of all tokens, or of the likeliest alone, so that no others leave a device.

/// Which logits are wanted of a span of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogitsWanted {
    /// Of how many of the tokens, the last ones.
    pub rows: usize,
    /// How many of the likeliest of a row are enough; `None` where all are wanted.
    pub likeliest: Option<usize>,
}

impl LogitsWanted {
    /// All logits of the last `rows` tokens.
    pub fn all(rows: usize) -> Self {
        Self { rows, likeliest: None }
    }
}

/// The logits of what may follow a token.
#[derive(Debug, Clone, PartialEq)]
pub enum Logits {
    /// Of every token (`vocab_size`).
    All(Vec<f32>),
    /// Tokens and logits of the likeliest, at least as many as are enough: the largest finite ones, largest first, of
    /// equals the smaller id. Fewer only if there are no more. Never where all are wanted.
    Likeliest(Vec<(u32, f32)>),
}

impl Logits {
    /// Those of every token, if that is what they are.
    pub fn all(&self) -> Option<&[f32]> {
        match self {
            Self::All(logits) => Some(logits),
            Self::Likeliest(_) => None,
        }
    }

    /// The same, taken out.
    pub fn into_all(self) -> Option<Vec<f32>> {
        match self {
            Self::All(logits) => Some(logits),
            Self::Likeliest(_) => None,
        }
    }
}

/// Rows of logits, of tokens that follow each other.
pub type LogitsRows = Vec<Logits>;
