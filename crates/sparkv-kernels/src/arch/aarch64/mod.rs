//! Kernels for 64-bit Arm.

mod codes;
mod expand;
mod neon;
mod quantized;

use self::neon::Neon;
use crate::isa::{Isa, Kind, Task};
use crate::simd::Simd;

/// Does `task` with NEON.
///
/// # Panics
/// If `isa` is something else.
pub(crate) fn with_neon<T: Task>(isa: Isa, task: T) -> T::Output {
    assert_eq!(isa.0, Kind::Neon);
    // SAFETY: the value of `isa` is proof of the instructions.
    unsafe { Neon::<false>::new() }.outline(task)
}

/// Does `task` with NEON and its integer dot products.
///
/// # Panics
/// If `isa` is something else.
pub(crate) fn with_dot<T: Task>(isa: Isa, task: T) -> T::Output {
    assert_eq!(isa.0, Kind::Dot);
    // SAFETY: the value of `isa` is proof of the instructions.
    unsafe { Neon::<true>::new() }.outline(task)
}
