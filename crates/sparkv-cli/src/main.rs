//! The `sparkv` binary. (Being written.)
fn main() {}
