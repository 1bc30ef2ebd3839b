//! Texts to measure on where none are given.

/// Name and text of each; `texts/README.md` says what they are.
pub const BUILT_IN: [(&str, &str); 8] = [
    ("prose-1", include_str!("../../texts/prose-1.txt")),
    ("prose-2", include_str!("../../texts/prose-2.txt")),
    ("prose-3", include_str!("../../texts/prose-3.txt")),
    ("prose-4", include_str!("../../texts/prose-4.txt")),
    ("code-1", include_str!("../../texts/code-1.txt")),
    ("code-2", include_str!("../../texts/code-2.txt")),
    ("code-3", include_str!("../../texts/code-3.txt")),
    ("code-4", include_str!("../../texts/code-4.txt")),
];
