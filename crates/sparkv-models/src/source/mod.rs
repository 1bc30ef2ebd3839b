//! Where a model's tensors and texts come from, and what `--model` chooses: files in Hugging Face's layout, GGUF, the
//! hub, the binary, or chance.
pub(crate) mod demo;
pub(crate) mod dummy;
pub(crate) mod files;
pub(crate) mod folder;
pub(crate) mod gguf;
pub mod hub;
pub(crate) mod safetensors;
pub(crate) mod templates;
pub(crate) mod text;

use std::path::PathBuf;
use std::str::FromStr;

use crate::error::LoadError;
use hub::name::HubName;

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
    /// A model on the hub.
    Hub(HubName),
}

/// How the demo model is written where a model has to be named.
const DEMO: &str = "demo";

impl FromStr for ModelSource {
    type Err = LoadError;

    fn from_str(name: &str) -> Result<Self, LoadError> {
        let path = PathBuf::from(name);
        if path.is_dir() {
            Ok(Self::Folder(path))
        } else if gguf::is_called_gguf(&path) || gguf::is_gguf(&path) {
            Ok(Self::Gguf(path))
        } else if name == DEMO {
            Ok(Self::Demo)
        } else if path.is_file() {
            Err(LoadError::NotGguf(path))
        } else {
            name.parse().map(Self::Hub)
        }
    }
}

impl std::fmt::Display for ModelSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Demo => f.write_str(DEMO),
            Self::Folder(path) | Self::Gguf(path) => path.display().fmt(f),
            Self::Hub(name) => name.fmt(f),
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
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        for name in ["model", "model.Q4_K_M", "sha256-0123", "model.bin"] {
            let path = file(name, b"GGUF\x03\0\0\0");
            assert_eq!(path.to_str().unwrap().parse::<ModelSource>().unwrap(), ModelSource::Gguf(path));
        }
        for (name, bytes) in [("model.safetensors", &b"{}"[..]), ("config.json", b"{}"), ("empty", b"")] {
            let path = file(name, bytes);
            let error = path.to_str().unwrap().parse::<ModelSource>().unwrap_err();
            assert!(matches!(&error, LoadError::NotGguf(wrong) if *wrong == path), "{error}");
        }
        assert_eq!("demo".parse::<ModelSource>().unwrap(), ModelSource::Demo);
        let hub = "HuggingFaceTB/SmolLM2-135M-Instruct";
        assert_eq!(hub.parse::<ModelSource>().unwrap(), ModelSource::Hub(hub.parse().unwrap()));
        let tagged = "org/name:Q4_K_M@main";
        assert!(matches!(tagged.parse(), Ok(ModelSource::Hub(name)) if name.to_string() == tagged));
        for wrong in ["", "nothing", "./no/folder", "/no/folder", "../up", "a/b/c", "a/", "org/na me"] {
            assert!(matches!(wrong.parse::<ModelSource>(), Err(LoadError::NoSuchModel(_))), "{wrong}");
        }
    }
}
