//! Work done with the instructions that are asked for.

#[cfg(target_arch = "aarch64")]
use super::aarch64::Neon;
use super::isa::{Isa, Kind};
use super::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use super::x86_64::{Avx2, Avx512};
use super::{Simd, Task};

/// Work that can be done with the vectors of every instruction set, with a result of type `O`.
#[cfg(target_arch = "x86_64")]
pub(crate) trait ForAll<O>:
    Task<Scalar, Output = O> + Task<Avx2, Output = O> + Task<Avx512, Output = O>
{
}

#[cfg(target_arch = "x86_64")]
impl<O, T> ForAll<O> for T where
    T: Task<Scalar, Output = O> + Task<Avx2, Output = O> + Task<Avx512, Output = O>
{
}

/// Work that can be done with the vectors of every instruction set, with a result of type `O`.
#[cfg(target_arch = "aarch64")]
pub(crate) trait ForAll<O>:
    Task<Scalar, Output = O> + Task<Neon<false>, Output = O> + Task<Neon<true>, Output = O>
{
}

#[cfg(target_arch = "aarch64")]
impl<O, T> ForAll<O> for T where
    T: Task<Scalar, Output = O> + Task<Neon<false>, Output = O> + Task<Neon<true>, Output = O>
{
}

/// Work that can be done with the vectors of every instruction set, with a result of type `O`.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) trait ForAll<O>: Task<Scalar, Output = O> {}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
impl<O, T> ForAll<O> for T where T: Task<Scalar, Output = O> {}

/// Does `task` with the instructions of `isa`.
pub(crate) fn dispatch<O>(isa: Isa, task: impl ForAll<O>) -> O {
    match isa.0 {
        Kind::Scalar => task.run(Scalar),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => Avx2::new(isa).outline(task),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => Avx512::new(isa).outline(task),
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => Neon::<false>::new(isa).outline(task),
        #[cfg(target_arch = "aarch64")]
        Kind::Dot => Neon::<true>::new(isa).outline(task),
    }
}
