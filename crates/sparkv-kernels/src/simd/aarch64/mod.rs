//! Vectors for 64-bit Arm.

mod neon;

pub(crate) use self::neon::{Neon, Vector};
