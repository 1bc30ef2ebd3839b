//! GGUF files: weights, configuration and tokenizer in one file.
mod config;
mod tokenizer;
mod weights;

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};

use crate::error::{LoadError, without_backtrace};
use crate::source::files::FileBytes;

pub use weights::GgufWeights;

/// A GGUF file whose header has been read.
#[derive(Debug)]
pub struct GgufFile {
    name: String,
    bytes: FileBytes,
    content: Content,
}

impl GgufFile {
    /// Maps the file and reads its header.
    ///
    /// # Errors
    /// If it cannot be read, is no GGUF file, or is truncated.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let name = path.display().to_string();
        let bytes = FileBytes::map(path)?;
        let corrupt = |reason: String| LoadError::Corrupt { file: name.clone(), reason };
        // Candle's reader divides by the alignment that the file states, which panics at 0.
        let read = catch_unwind(AssertUnwindSafe(|| Content::read(&mut Cursor::new(&bytes[..]))));
        let content = match read {
            Ok(Ok(content)) => content,
            Ok(Err(error)) => {
                let reason = without_backtrace(&error);
                return Err(unknown_type(&reason).unwrap_or_else(|| corrupt(reason)));
            }
            Err(_) => return Err(corrupt("its header makes no sense".to_owned())),
        };
        Ok(Self { name, bytes, content })
    }

    fn corrupt(&self, reason: impl Into<String>) -> LoadError {
        LoadError::Corrupt { file: self.name.clone(), reason: reason.into() }
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    /// A text, or `None` if there is no such key.
    fn text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        self.typed(key, "a text", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, LoadError> {
        self.typed(key, "a boolean", |value| value.to_bool().ok())
    }

    fn float(&self, key: &str) -> Result<Option<f32>, LoadError> {
        self.typed(key, "a number", |value| match value {
            Value::F32(number) => Some(*number),
            Value::F64(number) => Some(*number as f32),
            _ => None,
        })
    }

    fn count(&self, key: &str) -> Result<Option<usize>, LoadError> {
        self.typed(key, "one number that is not negative", as_count)
    }

    fn array<T>(&self, key: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<Vec<T>>, LoadError> {
        self.typed(key, "an array of the right type", |value| match value {
            Value::Array(values) => values.iter().map(&read).collect(),
            _ => None,
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

/// Candle's reader refuses types it does not know before it says which tensor is of them.
fn unknown_type(reason: &str) -> Option<LoadError> {
    let (_, rest) = reason.split_once("unknown dtype for tensor ")?;
    let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(LoadError::TensorType {
        name: "(its name was not read)".to_owned(),
        dtype: format!("number {number} of ggml"),
        supported: weights::SUPPORTED,
    })
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
