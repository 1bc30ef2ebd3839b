//! Which GPUs there are.

use serde::Serialize;

/// The devices that this build knows.
pub const BUILT_FOR: &[&str] = &[
    "cpu",
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "metal")]
    "metal",
];

/// A GPU that this build knows how to use, or would if nothing were lacking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// As `--device` calls it: `cuda:0`, `metal`.
    pub device: String,
    /// As its maker calls it.
    pub name: String,
    /// Bytes of its memory.
    pub memory: Option<u64>,
    /// Bytes of it that are free.
    pub free: Option<u64>,
    /// What else there is to know: versions of drivers and compilers, its architecture.
    pub facts: Vec<(&'static str, String)>,
    /// What it lacks, if it cannot be used.
    pub fault: Option<String>,
}

/// The GPUs that are there.
pub fn gpus() -> Vec<Gpu> {
    #[allow(unused_mut, reason = "without a device in this build")]
    let mut found = Vec::new();
    #[cfg(feature = "cuda")]
    found.extend(cuda());
    #[cfg(feature = "metal")]
    found.extend(metal());
    found
}

/// Why there are no GPUs, where a driver says so.
pub fn no_gpus() -> Option<String> {
    #[cfg(feature = "cuda")]
    return sparkv_device::cuda::devices().err().map(|error| error.to_string());
    #[cfg(not(feature = "cuda"))]
    None
}

/// Checks that kernels run on an NVIDIA GPU. To be asked before Candle opens it, which says less.
///
/// # Errors
/// What it lacks, and what to do.
#[cfg(feature = "cuda")]
pub fn check_cuda(ordinal: usize) -> Result<(), sparkv_device::DeviceError> {
    sparkv_device::cuda::check(ordinal).map(drop)
}

/// Checks that kernels run on the Apple GPU. To be asked before Candle opens it, which ends the process if there is none.
///
/// # Errors
/// What it lacks, and what to do.
#[cfg(feature = "metal")]
pub fn check_metal() -> Result<(), sparkv_device::DeviceError> {
    sparkv_device::metal::check(0).map(drop)
}

/// The Apple GPU, if there is one.
#[cfg(feature = "metal")]
fn metal() -> Option<Gpu> {
    let found = sparkv_device::metal::devices().into_iter().next()?;
    Some(Gpu {
        device: "metal".into(),
        name: found.name,
        memory: Some(found.memory as u64),
        free: Some(found.memory.saturating_sub(found.taken) as u64),
        facts: Vec::new(),
        fault: check_metal().err().map(|error| error.to_string()),
    })
}

/// NVIDIA's GPUs; none where there is no driver.
#[cfg(feature = "cuda")]
fn cuda() -> Vec<Gpu> {
    use sparkv_device::cuda;

    let releases = cuda::releases();
    let dotted = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    let gpu = |found: cuda::Found| Gpu {
        device: format!("cuda:{}", found.ordinal),
        memory: Some(found.memory as u64),
        free: None,
        facts: vec![
            ("compute capability", dotted((found.capability / 10, found.capability % 10))),
            ("CUDA of the driver", dotted(releases.driver)),
            ("CUDA of this program", dotted(releases.compiler)),
        ],
        fault: cuda::check(found.ordinal).err().map(|error| error.to_string()),
        name: found.name,
    };
    cuda::devices().map_or_else(|_| Vec::new(), |devices| devices.into_iter().map(gpu).collect())
}
