//! Which GPUs there are, and whether kernels run on them.

use std::ffi::c_int;

use cudarc::driver::sys::{CUdevice, CUdevice_attribute, CUresult, cuDriverGetVersion};
use cudarc::driver::{DriverError, result};

use super::compile::{self, Target};
use crate::error::DeviceError;

/// The least compute capability that kernels run on: the first with a product of four bytes.
const LEAST: u32 = 61;

/// A GPU, as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its number among those that the driver shows this process.
    pub ordinal: usize,
    /// What it is called.
    pub name: String,
    /// Its compute capability: 90 for 9.0.
    pub capability: u32,
    /// Bytes of memory.
    pub memory: usize,
}

/// Releases of CUDA, as 13.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Releases {
    /// The newest that the driver knows.
    pub driver: (u32, u32),
    /// That of the compiler of kernels (NVRTC), which is the toolkit's.
    pub compiler: (u32, u32),
}

/// The releases in use here.
pub fn releases() -> Releases {
    let mut version = 0;
    // SAFETY: a number to be written.
    let _ = unsafe { cuDriverGetVersion(&raw mut version) };
    let version = version.unsigned_abs();
    Releases { driver: (version / 1000, version % 1000 / 10), compiler: compile::version() }
}

/// All GPUs, whether kernels run on them or not.
///
/// # Errors
/// [`DeviceError::Unsupported`] if there is no driver that works, or no GPU.
pub fn devices() -> Result<Vec<Found>, DeviceError> {
    let count = result::init().and_then(|()| result::device::get_count()).map_err(no_driver)?;
    match usize::try_from(count) {
        Ok(count) if count > 0 => (0..count).map(|ordinal| describe(ordinal).map_err(no_driver)).collect(),
        _ => Err(no_driver(DriverError(CUresult::CUDA_ERROR_NO_DEVICE))),
    }
}

/// The GPU with this number, if kernels run on it, and what they are compiled to.
///
/// # Errors
/// [`DeviceError::Unsupported`] says what is missing and what to do.
pub fn check(ordinal: usize) -> Result<(Found, Target), DeviceError> {
    let mut found = devices()?;
    let count = found.len();
    if ordinal >= count {
        let reason =
            format!("there is no GPU {ordinal}: the driver shows {count}, which are numbered from 0 on");
        return Err(DeviceError::Unsupported { reason });
    }
    let found = found.swap_remove(ordinal);
    let target = target(&found, releases(), &compile::supported())
        .map_err(|reason| DeviceError::Unsupported { reason })?;
    Ok((found, target))
}

/// What kernels are compiled to for a GPU; else why none run on it.
fn target(gpu: &Found, releases: Releases, supported: &[u32]) -> Result<Target, String> {
    let Found { name, capability, .. } = gpu;
    let Releases { driver, compiler } = releases;
    if *capability < LEAST {
        return Err(format!(
            "{name} has the compute capability {}; kernels need {} (products of four bytes), or a later one",
            dotted(*capability),
            dotted(LEAST)
        ));
    }
    if driver.0 < compiler.0 {
        return Err(format!(
            "the driver of {name} knows CUDA {}.{} at most, this program is made with CUDA {}.{}: install a newer driver, or \
             a program made with CUDA {}",
            driver.0, driver.1, compiler.0, compiler.1, driver.0
        ));
    }
    let target = Target::of(*capability, supported).ok_or_else(|| {
        format!(
            "CUDA {}.{} makes no code for {name}, which has the compute capability {}: use a program made with an older \
             toolkit",
            compiler.0,
            compiler.1,
            dotted(*capability)
        )
    })?;
    match target {
        Target::Ptx(_) if driver < compiler => Err(format!(
            "{name} is newer than CUDA {}.{}, which this program is made with, and its driver knows CUDA {}.{} at most: \
             install a newer driver",
            compiler.0, compiler.1, driver.0, driver.1
        )),
        target => Ok(target),
    }
}

fn dotted(capability: u32) -> String {
    format!("{}.{}", capability / 10, capability % 10)
}

fn describe(ordinal: usize) -> Result<Found, DriverError> {
    let device = result::device::get(c_int::try_from(ordinal).unwrap_or(c_int::MAX))?;
    let capability = |attribute| Ok::<_, DriverError>(attribute_of(device, attribute)?.unsigned_abs());
    let major = capability(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = capability(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    // SAFETY: a device that the driver gave.
    let memory = unsafe { result::device::total_mem(device) }?;
    Ok(Found { ordinal, name: result::device::get_name(device)?, capability: 10 * major + minor, memory })
}

fn attribute_of(device: CUdevice, attribute: CUdevice_attribute) -> Result<i32, DriverError> {
    // SAFETY: a device that the driver gave.
    unsafe { result::device::get_attribute(device, attribute) }
}

/// Why there is no device, and what to do.
fn no_driver(error: DriverError) -> DeviceError {
    let what = match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => {
            "NVIDIA's driver shows no GPU: see nvidia-smi, CUDA_VISIBLE_DEVICES, and whether a container was started with \
             its GPUs (docker run --gpus all)"
        }
        CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "the libcuda.so.1 that was found is the toolkit's, to link with, not the driver's: take its folder (stubs) out of \
             LD_LIBRARY_PATH"
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | CUresult::CUDA_ERROR_SYSTEM_NOT_READY => {
            "libcuda.so.1 and the driver in the kernel do not fit each other, or a service of theirs does not run: restart \
             the machine after the driver was updated, and see nvidia-smi"
        }
        CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "the libcuda.so.1 that was found is that of CUDA's compatibility package, which is not for this GPU: take its \
             folder (compat) out of LD_LIBRARY_PATH, and install a newer driver"
        }
        _ => "NVIDIA's driver does not work: see nvidia-smi",
    };
    DeviceError::Unsupported { reason: format!("{what} ({:?})", error.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(capability: u32) -> Found {
        Found { ordinal: 0, name: "A card".into(), capability, memory: 1 << 30 }
    }

    fn tried(capability: u32, driver: (u32, u32), compiler: (u32, u32)) -> Result<Target, String> {
        target(&gpu(capability), Releases { driver, compiler }, &[75, 80, 86, 89, 90, 100, 120])
    }

    #[test]
    fn drivers_need_the_major_version_for_code_and_the_release_for_ptx() {
        assert_eq!(tried(90, (13, 0), (13, 0)), Ok(Target::Machine(90)));
        assert_eq!(tried(90, (13, 0), (13, 1)), Ok(Target::Machine(90)));
        assert_eq!(tried(90, (14, 0), (13, 1)), Ok(Target::Machine(90)));
        assert_eq!(tried(130, (13, 1), (13, 1)), Ok(Target::Ptx(120)));
        let error = tried(90, (12, 8), (13, 0)).unwrap_err();
        assert!(
            error.contains("CUDA 12.8") && error.contains("CUDA 13.0") && error.contains("newer driver"),
            "{error}"
        );
        let error = tried(130, (13, 0), (13, 1)).unwrap_err();
        assert!(error.contains("13.0 at most") && error.contains("newer driver"), "{error}");
    }

    #[test]
    fn what_a_gpu_lacks_is_named() {
        for (capability, part) in [(60, "6.0; kernels need 6.1"), (70, "CUDA 13.0 makes no code for A card")]
        {
            let error = tried(capability, (13, 0), (13, 0)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_the_driver_says_becomes_what_to_do() {
        for (code, part) in [
            (CUresult::CUDA_ERROR_NO_DEVICE, "--gpus all"),
            (CUresult::CUDA_ERROR_STUB_LIBRARY, "stubs"),
            (CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "restart"),
            (CUresult::CUDA_ERROR_UNKNOWN, "CUDA_ERROR_UNKNOWN"),
        ] {
            let error = no_driver(DriverError(code)).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
