//! Weights in safetensors files: one, or several with an index.
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use sparkv_kernels::matmul::WeightType;

use crate::error::LoadError;
use crate::json;
use crate::source::files::{FileBytes, read_optional};
use crate::weights::{Stored, TensorSource};

/// Name of the only weights file.
pub(crate) const SINGLE: &str = "model.safetensors";

/// Name of the index of several.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The safetensors files of a model.
#[derive(Debug)]
pub struct SafetensorsFiles {
    files: Vec<File>,
    /// Which of `files` holds a tensor.
    places: HashMap<String, usize>,
}

#[derive(Debug)]
struct File {
    name: String,
    bytes: FileBytes,
    metadata: Metadata,
    /// Where the tensors' data begins.
    data: usize,
}

impl SafetensorsFiles {
    /// Maps `model.safetensors` in `folder`, or all files that `model.safetensors.index.json` lists.
    ///
    /// # Errors
    /// If there are none, or one is missing, truncated or corrupt.
    pub fn open(folder: &Path) -> Result<Self, LoadError> {
        let names = match read_optional(folder, INDEX)? {
            Some(index) if !folder.join(SINGLE).exists() => shards(&index)?,
            _ => BTreeSet::from([SINGLE.to_owned()]),
        };
        let files = names.into_iter().map(|name| {
            let path = folder.join(&name);
            if !path.exists() {
                return Err(LoadError::MissingFile { folder: folder.to_owned(), file: name });
            }
            File::new(path.display().to_string(), FileBytes::map(&path)?)
        });
        Ok(Self::new(files.collect::<Result<_, _>>()?))
    }

    /// Reads a file that is part of the binary.
    ///
    /// # Errors
    /// If it is corrupt.
    pub fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self, LoadError> {
        Ok(Self::new(vec![File::new(name.to_owned(), FileBytes::Embedded(bytes))?]))
    }

    fn new(files: Vec<File>) -> Self {
        let names = |(index, file): (usize, &File)| {
            file.metadata.tensors().into_keys().map(move |name| (name, index)).collect::<Vec<_>>()
        };
        let places = files.iter().enumerate().flat_map(names).collect();
        Self { files, places }
    }
}

/// The files that an index lists.
pub(crate) fn shards(index: &str) -> Result<BTreeSet<String>, LoadError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let corrupt = |reason: String| LoadError::Corrupt { file: INDEX.to_owned(), reason };
    let index: Index = json::read(index).map_err(|error| corrupt(error.to_string()))?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    // An index names its neighbours; it must not reach elsewhere on the disk.
    match shards.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        Some(name) => Err(corrupt(format!("`{name}` is not the name of a file beside it"))),
        None => Ok(shards),
    }
}

impl File {
    fn new(name: String, bytes: FileBytes) -> Result<Self, LoadError> {
        let (header, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| LoadError::Corrupt { file: name.clone(), reason: error.to_string() })?;
        let data = header + size_of::<u64>();
        Ok(Self { name, bytes, metadata, data })
    }
}

impl TensorSource for SafetensorsFiles {
    fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Stored<'_>, LoadError> {
        let missing = || LoadError::MissingTensor { name: name.to_owned() };
        let file = self.places.get(name).and_then(|&index| self.files.get(index)).ok_or_else(missing)?;
        let info = file.metadata.info(name).ok_or_else(missing)?;
        let weight_type = match info.dtype {
            Dtype::F32 => WeightType::F32,
            Dtype::F16 => WeightType::F16,
            Dtype::BF16 => WeightType::Bf16,
            other => {
                return Err(LoadError::TensorType {
                    name: name.to_owned(),
                    dtype: other.to_string(),
                    supported: "F32, F16 and BF16",
                });
            }
        };
        if info.shape != shape {
            return Err(LoadError::Shape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: info.shape.clone(),
            });
        }
        let (start, end) = info.data_offsets;
        let data = file.bytes.get(file.data + start..file.data + end).ok_or_else(|| LoadError::Corrupt {
            file: file.name.clone(),
            reason: format!("tensor `{name}` lies outside the file"),
        })?;
        Ok(Stored { weight_type, shape: shape.to_vec(), bytes: Cow::Borrowed(data), file: Some(&file.bytes) })
    }
}
