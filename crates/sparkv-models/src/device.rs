//! What `--device` chooses.
use std::str::FromStr;

use candle_core::Device;
use serde::{Deserialize, Serialize};
use sparkv::Accelerator;

use crate::error::LoadError;
#[cfg(any(feature = "cuda", feature = "metal"))]
use crate::error::without_backtrace;

/// What a model runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The best that this build knows and that is there: a GPU, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU, by its number.
    Cuda(usize),
    /// An Apple GPU.
    Metal,
}

impl DeviceChoice {
    /// What [`DeviceChoice::Auto`] is here. A GPU that is there and lacks something is not passed over in silence: it is
    /// chosen, and refused when it is opened.
    pub fn found() -> Self {
        let found = sparkv::accelerator::gpus();
        found.first().and_then(|gpu| gpu.device.parse().ok()).unwrap_or(Self::Cpu)
    }

    /// The device itself.
    ///
    /// # Errors
    /// If there is no such device, this build does not know it, or it lacks something.
    pub fn open(self) -> Result<Device, LoadError> {
        let refused = |reason: String| LoadError::Device { device: self.to_string(), reason };
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto => Self::found().open(),
            #[cfg(feature = "cuda")]
            Self::Cuda(number) => {
                sparkv::accelerator::check_cuda(number).map_err(|error| refused(error.to_string()))?;
                // Not the stream of the thread, which no other thread's work waits for.
                Device::new_cuda_with_stream(number).map_err(|error| refused(without_backtrace(&error)))
            }
            #[cfg(feature = "metal")]
            Self::Metal => {
                // Candle panics where there is none, or the system is too old.
                sparkv::accelerator::check_metal().map_err(|error| refused(error.to_string()))?;
                Device::new_metal(0).map_err(|error| refused(without_backtrace(&error)))
            }
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => Err(refused(
                "this binary was built without CUDA (`--features cuda`, docker/Dockerfile.cuda)".into(),
            )),
            #[cfg(not(feature = "metal"))]
            Self::Metal => {
                Err(refused("this binary was built without Metal (`--features metal`, on a Mac)".into()))
            }
        }
    }
}

/// Where a decoder is: its tensors, and its caches and our kernels, if that is not the CPU.
#[derive(Debug, Clone)]
pub struct Place {
    tensors: Device,
    accelerator: Option<Accelerator>,
}

impl Place {
    /// Everything on `device`.
    ///
    /// # Errors
    /// If the device lacks something that our kernels need.
    pub fn on(device: &Device) -> Result<Self, LoadError> {
        let accelerator = Accelerator::of(device).map_err(|error| LoadError::Device {
            device: format!("{:?}", device.location()),
            reason: error.to_string(),
        })?;
        Ok(Self { tensors: device.clone(), accelerator })
    }

    /// Caches and our kernels on `accelerator`, and tensors where it has them.
    pub fn on_accelerator(accelerator: &Accelerator) -> Self {
        Self { tensors: accelerator.tensors().clone(), accelerator: Some(accelerator.clone()) }
    }

    pub(crate) fn tensors(&self) -> &Device {
        &self.tensors
    }

    pub(crate) fn accelerator(&self) -> Option<&Accelerator> {
        self.accelerator.as_ref()
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let unknown = || format!("unknown device `{name}`; there are auto, cpu, cuda, cuda:N and metal");
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "metal" => Ok(Self::Metal),
            _ => {
                let number = name.strip_prefix("cuda:").ok_or_else(unknown)?;
                number.parse().map(Self::Cuda).map_err(|_| unknown())
            }
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(device: DeviceChoice) -> Self {
        device.to_string()
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_parsed_and_gpus_refused_with_a_reason() {
        for name in ["auto", "cpu", "cuda:0", "cuda:3", "metal"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        assert!("gpu".parse::<DeviceChoice>().unwrap_err().contains("cuda:N"));
        assert!("cuda:x".parse::<DeviceChoice>().is_err());
        assert!(DeviceChoice::Auto.open().unwrap().is_cpu());
        let refusal = DeviceChoice::Cuda(1).open().unwrap_err().to_string();
        // Without a GPU, and with or without CUDA in the build.
        assert!(refusal.contains("`cuda:1` cannot be used"), "{refusal}");
    }
}
