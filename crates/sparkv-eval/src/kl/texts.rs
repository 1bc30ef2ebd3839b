//! Texts to measure on where none are given.

use crate::recall::tasks::recalled;

/// Texts of a kind, of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextSet {
    /// Prose; `texts/README.md` says what it is.
    Prose,
    /// Code.
    Code,
    /// Codes of things that a long context mentions, told again behind it.
    Recall,
    /// The same as calls of a tool.
    Tools,
}

/// Texts of a set.
const TEXTS: u64 = 4;

impl TextSet {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Prose, Self::Code, Self::Recall, Self::Tools];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prose => "prose",
            Self::Code => "code",
            Self::Recall => "recall",
            Self::Tools => "tools",
        }
    }

    /// Name and text of each, of which the first `prefix` tokens, as `count` counts them, will be compressed.
    pub fn texts(self, prefix: usize, count: &dyn Fn(&str) -> usize) -> Vec<(String, String)> {
        let texts: Vec<String> = match self {
            Self::Prose => PROSE.iter().map(|text| (*text).to_owned()).collect(),
            Self::Code => CODE.iter().map(|text| (*text).to_owned()).collect(),
            Self::Recall => (0..TEXTS).map(|seed| recalled(seed, prefix, false, count)).collect(),
            Self::Tools => (0..TEXTS).map(|seed| recalled(seed, prefix, true, count)).collect(),
        };
        (1..).zip(texts).map(|(number, text)| (format!("{}-{number}", self.name()), text)).collect()
    }
}

const PROSE: [&str; 4] = [
    include_str!("../../texts/prose-1.txt"),
    include_str!("../../texts/prose-2.txt"),
    include_str!("../../texts/prose-3.txt"),
    include_str!("../../texts/prose-4.txt"),
];

const CODE: [&str; 4] = [
    include_str!("../../texts/code-1.txt"),
    include_str!("../../texts/code-2.txt"),
    include_str!("../../texts/code-3.txt"),
    include_str!("../../texts/code-4.txt"),
];
