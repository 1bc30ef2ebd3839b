//! What `--model` and `--device` choose.
pub(crate) mod demo;
pub(crate) mod dummy;
pub(crate) mod files;
pub(crate) mod folder;
pub(crate) mod gguf;
pub mod hub;
pub(crate) mod safetensors;
pub(crate) mod text;

use std::path::PathBuf;
use std::str::FromStr;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::error::LoadError;

/// Where a model is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ModelSource {
    /// The demo model inside the binary.
    #[default]
    Demo,
    /// A folder in Hugging Face's layout.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
    /// A model on the hub, ORG/NAME.
    Hub(String),
}

/// How the demo model is written where a model has to be named.
const DEMO: &str = "demo";

impl FromStr for ModelSource {
    type Err = LoadError;

    fn from_str(name: &str) -> Result<Self, LoadError> {
        let path = PathBuf::from(name);
        if path.is_dir() {
            Ok(Self::Folder(path))
        } else if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            Ok(Self::Gguf(path))
        } else if name == DEMO {
            Ok(Self::Demo)
        } else if is_hub_name(name) {
            Ok(Self::Hub(name.to_owned()))
        } else {
            Err(LoadError::NoSuchModel(name.to_owned()))
        }
    }
}

impl std::fmt::Display for ModelSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Demo => f.write_str(DEMO),
            Self::Folder(path) | Self::Gguf(path) => path.display().fmt(f),
            Self::Hub(name) => f.write_str(name),
        }
    }
}

/// ORG/NAME, in the characters the hub allows.
fn is_hub_name(name: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    matches!(name.split_once('/'), Some((org, name)) if is_part(org) && is_part(name))
}

/// What a model runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The best that this build can use: the CPU.
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
    /// The device itself.
    ///
    /// # Errors
    /// For a GPU: attention over the packed cache runs on the CPU only, so far.
    pub fn open(self) -> Result<Device, LoadError> {
        match self {
            Self::Auto | Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(_) | Self::Metal => Err(LoadError::Device { device: self.to_string() }),
        }
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
    fn names_of_models_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().to_str().unwrap();
        assert_eq!(name.parse::<ModelSource>().unwrap(), ModelSource::Folder(folder.path().to_owned()));
        assert_eq!("a/b/c.gguf".parse::<ModelSource>().unwrap(), ModelSource::Gguf("a/b/c.gguf".into()));
        assert_eq!("demo".parse::<ModelSource>().unwrap(), ModelSource::Demo);
        let hub = "HuggingFaceTB/SmolLM2-135M-Instruct";
        assert_eq!(hub.parse::<ModelSource>().unwrap(), ModelSource::Hub(hub.to_owned()));
        for wrong in ["", "nothing", "./no/folder", "/no/folder", "../up", "a/b/c", "a/", "org/na me"] {
            assert!(matches!(wrong.parse::<ModelSource>(), Err(LoadError::NoSuchModel(_))), "{wrong}");
        }
    }

    #[test]
    fn devices_are_parsed_and_gpus_refused_with_a_reason() {
        for name in ["auto", "cpu", "cuda:0", "cuda:3", "metal"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        assert!("gpu".parse::<DeviceChoice>().unwrap_err().contains("cuda:N"));
        assert!("cuda:x".parse::<DeviceChoice>().is_err());
        assert!(DeviceChoice::Auto.open().unwrap().is_cpu());
        let refusal = DeviceChoice::Cuda(1).open().unwrap_err().to_string();
        assert!(refusal.contains("cuda:1") && refusal.contains("CPU only"), "{refusal}");
    }
}
