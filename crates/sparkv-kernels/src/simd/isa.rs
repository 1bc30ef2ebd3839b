//! Which instructions the kernels may use, found out at run time.

use std::sync::OnceLock;

/// A set of vector instructions that this processor has: a value is proof of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(pub(crate) Kind);

/// The instruction sets there are kernels for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Plain Rust; the reference that all others are tested against.
    Scalar,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ, VL, VBMI, VBMI2 and VNNI; AVX2, FMA, F16C, BMI2 and POPCNT.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// NEON, with conversions of f16.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// NEON with the dot products of bytes of Armv8.4 (and of many an Armv8.2).
    #[cfg(target_arch = "aarch64")]
    Dot,
}

impl Isa {
    /// Plain Rust, which runs anywhere.
    pub const SCALAR: Self = Self(Kind::Scalar);

    /// The fastest set this processor has.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().last().copied().unwrap_or(Self::SCALAR))
    }

    /// All sets this processor has, slowest first.
    pub fn available() -> Vec<Self> {
        std::iter::once(Self::SCALAR).chain(Self::vectors()).collect()
    }

    /// All of them but the scalar one.
    #[cfg(target_arch = "x86_64")]
    fn vectors() -> impl Iterator<Item = Self> {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt");
        let sets = [(avx2, Kind::Avx2), (avx512, Kind::Avx512)];
        sets.into_iter().filter(|(has, _)| *has).map(|(_, kind)| Self(kind))
    }

    /// All of them but the scalar one. (Registers of big-endian processors have their lanes in another order.)
    #[cfg(target_arch = "aarch64")]
    fn vectors() -> impl Iterator<Item = Self> {
        let neon = cfg!(target_endian = "little") && std::arch::is_aarch64_feature_detected!("neon");
        let dot = neon && std::arch::is_aarch64_feature_detected!("dotprod");
        let sets = [(neon, Kind::Neon), (dot, Kind::Dot)];
        sets.into_iter().filter(|(has, _)| *has).map(|(_, kind)| Self(kind))
    }

    /// There are none.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn vectors() -> impl Iterator<Item = Self> {
        std::iter::empty()
    }

    /// Whether there are registers for 16 sums; see [`Simd::MANY_REGISTERS`](super::Simd::MANY_REGISTERS).
    pub(crate) fn has_many_registers(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => true,
            _ => false,
        }
    }

    /// Its name: `scalar`, `avx2`, `avx512`, `neon` or `dotprod`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Kind::Dot => "dotprod",
        }
    }
}
