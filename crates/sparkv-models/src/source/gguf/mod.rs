//! GGUF files: weights, configuration and tokenizer in one file, or in several parts.
mod config;
mod part;
mod pre_tokenizer;
mod tokenizer;
mod weights;

use std::path::Path;

use candle_core::quantized::gguf_file::{TensorInfo, Value};

use crate::error::LoadError;
use part::Part;

pub(crate) use part::{is_called_gguf, is_gguf, model_name, parts};
pub use weights::GgufWeights;

/// A model's GGUF file whose header has been read, or all the files that it was split into.
#[derive(Debug)]
pub struct GgufFile {
    /// Its metadata are the model's.
    first: Part,
    /// The others, which hold tensors.
    rest: Vec<Part>,
}

impl GgufFile {
    /// Maps the file and reads its header. Of a model that was split, all parts, whichever is named.
    ///
    /// # Errors
    /// If it cannot be read, is no GGUF file, or is truncated; if a part is missing, or is one of another model.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let named = Self { first: Part::open(path)?, rest: Vec::new() };
        let count = named.count("split.count")?.unwrap_or(1);
        if count <= 1 {
            return Ok(named);
        }
        let paths = part::part_paths(path, count).ok_or_else(|| {
            let number = named.count("split.no").ok().flatten().map_or(1, |number| number.saturating_add(1));
            named.corrupt(format!(
                "it is a part of {count}; give the parts their names back, this one MODEL-{number:05}-of-{count:05}.gguf"
            ))
        })?;
        let mut parts = paths.enumerate().map(|(index, path)| open_part(&path, index, count));
        let first = parts.next().ok_or_else(|| named.corrupt("it has no parts"))??;
        let file = Self { first, rest: parts.collect::<Result<_, _>>()? };
        let tensors: usize = file.parts().map(|part| part.content.tensor_infos.len()).sum();
        match file.count("split.tensors.count")? {
            Some(stated) if stated != tensors => {
                Err(file.corrupt(format!("its {count} parts have {tensors} tensors, of {stated}")))
            }
            _ => Ok(file),
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// Where a tensor is, and what is said of it there.
    fn tensor_info(&self, name: &str) -> Option<(&Part, &TensorInfo)> {
        self.parts().find_map(|part| Some((part, part.content.tensor_infos.get(name)?)))
    }

    fn corrupt(&self, reason: impl Into<String>) -> LoadError {
        LoadError::Corrupt { file: self.first.name.clone(), reason: reason.into() }
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.first.content.metadata.get(key)
    }

    /// A text, or `None` if there is no such key.
    fn text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        self.scalar(key, "a text", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, LoadError> {
        self.scalar(key, "a boolean", |value| value.to_bool().ok())
    }

    fn float(&self, key: &str) -> Result<Option<f32>, LoadError> {
        self.scalar(key, "a number", |value| match value {
            Value::F32(number) => Some(*number),
            Value::F64(number) => Some(*number as f32),
            _ => None,
        })
    }

    fn count(&self, key: &str) -> Result<Option<usize>, LoadError> {
        self.scalar(key, "one number that is not negative", as_count)
    }

    /// The id at tokenizer.ggml.`name`_token_id; `None` if there is none, for which -1 may stand, signed or not.
    fn token_id(&self, name: &str) -> Result<Option<u32>, LoadError> {
        let id =
            self.scalar(&format!("tokenizer.ggml.{name}_token_id"), "a token's id", |value| match value {
                Value::I8(-1) | Value::I16(-1) | Value::I32(-1) | Value::I64(-1) => Some(u32::MAX),
                value => as_count(value)?.try_into().ok(),
            })?;
        Ok(id.filter(|id| *id != u32::MAX))
    }

    fn array<T>(&self, key: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<Vec<T>>, LoadError> {
        self.typed(key, "an array of the right type", |value| match value {
            Value::Array(values) => values.iter().map(&read).collect(),
            _ => None,
        })
    }

    /// What `read` makes of the value at `key`, or of all the values there, where they are the same: some files have
    /// one for each layer.
    fn scalar<'a, T: PartialEq>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        self.typed(key, expected, |value| match value {
            Value::Array(values) => {
                let (first, others) = values.split_first()?;
                let first = read(first)?;
                others.iter().all(|other| read(other).as_ref() == Some(&first)).then_some(first)
            }
            value => read(value),
        })
    }

    /// What `read` makes of the value at `key`; an error where it makes nothing of it.
    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => Err(self.corrupt(format!("`{key}` is not {expected}"))),
            },
        }
    }
}

/// A part of `count`, which must be the one of this index.
fn open_part(path: &Path, index: usize, count: usize) -> Result<Part, LoadError> {
    if !path.exists() {
        let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        return Err(LoadError::MissingFile { folder, file: text(path.file_name()) });
    }
    let part = GgufFile { first: Part::open(path)?, rest: Vec::new() };
    let stated = (part.count("split.no")?, part.count("split.count")?);
    if stated == (Some(index), Some(count)) {
        Ok(part.first)
    } else {
        Err(part.corrupt(format!(
            "its `split.no` and `split.count` are not {index} and {count}: it is no part of this model"
        )))
    }
}

fn as_count(value: &Value) -> Option<usize> {
    match *value {
        Value::U8(number) => Some(number.into()),
        Value::U16(number) => Some(number.into()),
        Value::U32(number) => number.try_into().ok(),
        Value::U64(number) => number.try_into().ok(),
        Value::I8(number) => number.try_into().ok(),
        Value::I16(number) => number.try_into().ok(),
        Value::I32(number) => number.try_into().ok(),
        Value::I64(number) => number.try_into().ok(),
        _ => None,
    }
}
