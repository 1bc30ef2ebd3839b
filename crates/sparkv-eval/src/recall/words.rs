//! Words to draw from.

/// Adjectives.
pub(super) const ADJECTIVES: [&str; 48] = [
    "amber", "ancient", "bright", "broken", "calm", "clever", "cold", "crimson", "curved", "dusty", "eager",
    "early", "faint", "fierce", "fresh", "gentle", "golden", "green", "happy", "heavy", "hollow", "icy",
    "jolly", "kind", "late", "light", "lonely", "loud", "mellow", "narrow", "noble", "odd", "pale", "plain",
    "proud", "quick", "quiet", "rapid", "rough", "rusty", "shiny", "silent", "silver", "smooth", "sturdy",
    "tiny", "vivid", "wooden",
];

/// Nouns.
pub(super) const NOUNS: [&str; 64] = [
    "anchor", "apple", "arrow", "bakery", "barrel", "basket", "bridge", "bucket", "button", "cabin",
    "candle", "canyon", "castle", "chair", "circle", "clock", "cloud", "compass", "copper", "corner",
    "desert", "engine", "falcon", "feather", "forest", "fountain", "garden", "gate", "glacier", "guitar",
    "hammer", "harbor", "helmet", "island", "jacket", "kettle", "ladder", "lantern", "library", "magnet",
    "marble", "meadow", "mirror", "mountain", "needle", "ocean", "orchard", "paddle", "pepper", "pillow",
    "planet", "pocket", "rabbit", "ribbon", "river", "rocket", "saddle", "shadow", "temple", "ticket",
    "tunnel", "valley", "violin", "window",
];
