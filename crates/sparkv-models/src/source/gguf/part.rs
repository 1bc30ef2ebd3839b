//! The files that a model lies in: one, or the parts into which llama.cpp's `gguf-split` cut it.
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Content;

use super::weights::SUPPORTED;
use crate::error::{LoadError, without_backtrace};
use crate::source::files::FileBytes;

/// What a GGUF file begins with.
const MAGIC: &[u8] = b"GGUF";

/// A file, or one part of several, whose header has been read.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) bytes: FileBytes,
    pub(super) content: Content,
}

impl Part {
    /// Maps the file and reads its header.
    pub(super) fn open(path: &Path) -> Result<Self, LoadError> {
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
}

/// Whether there is a file at `path` that begins as GGUF files do.
pub(crate) fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; MAGIC.len()];
    let read =
        std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic));
    read.is_ok() && magic == MAGIC
}

/// Whether a file is called as GGUF files usually are.
pub(crate) fn is_called_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// The name of a model without what tells its files apart: the ending, and which part it is.
pub(crate) fn model_name(path: &Path) -> PathBuf {
    let name = if is_called_gguf(path) { path.with_extension("") } else { path.to_owned() };
    split_name(path).map_or(name, |(stem, _)| path.with_file_name(stem))
}

/// The paths of all parts of a model, first to last, by that of any of them; `None` if it is not named as a part.
pub(crate) fn parts(path: &Path) -> Option<impl Iterator<Item = PathBuf>> {
    let (_, count) = split_name(path)?;
    part_paths(path, count)
}

/// The paths of all `count` parts of a model, first to last, by that of any of them; `None` if it is not named as a part
/// of so many.
pub(super) fn part_paths(path: &Path, count: usize) -> Option<impl Iterator<Item = PathBuf>> {
    let (stem, _) = split_name(path).filter(|(_, parts)| *parts == count)?;
    Some((1..=count).map(move |part| path.with_file_name(format!("{stem}-{part:05}-of-{count:05}.gguf"))))
}

/// What stands before the numbers in a part's name, `STEM-00001-of-00003.gguf`, and how many parts it says there are.
fn split_name(path: &Path) -> Option<(&str, usize)> {
    let is_number = |digits: &str| digits.len() == 5 && digits.bytes().all(|digit| digit.is_ascii_digit());
    let (rest, count) = path.file_name()?.to_str()?.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    (is_number(part) && is_number(count)).then(|| count.parse().ok().map(|count| (stem, count)))?
}

/// Candle's reader refuses types it does not know before it says which tensor is of them.
fn unknown_type(reason: &str) -> Option<LoadError> {
    let (_, rest) = reason.split_once("unknown dtype for tensor ")?;
    let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(LoadError::TensorType {
        name: "(its name was not read)".to_owned(),
        dtype: format!("number {number} of ggml"),
        supported: SUPPORTED,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_by_the_name_of_any_of_them() {
        let paths: Vec<_> = part_paths("a/b-00002-of-00003.gguf".as_ref(), 3).unwrap().collect();
        let names = ["a/b-00001-of-00003.gguf", "a/b-00002-of-00003.gguf", "a/b-00003-of-00003.gguf"];
        assert_eq!(paths, names.map(PathBuf::from));
        let no_parts =
            ["b.gguf", "b-of-00003.gguf", "b-1-of-3.gguf", "b-00001-of-00002.gguf", "b-00001-of-00003"];
        for name in no_parts {
            assert!(part_paths(name.as_ref(), 3).is_none(), "{name}");
        }
    }

    #[test]
    fn a_model_is_called_by_its_files() {
        let cases = [
            ("a/b.gguf", "a/b"),
            ("a/b.Q4_K_M.gguf", "a/b.Q4_K_M"),
            ("a/b.Q4_K_M", "a/b.Q4_K_M"),
            ("a/b-00002-of-00003.gguf", "a/b"),
            ("a/b-2-of-3.gguf", "a/b-2-of-3"),
        ];
        for (path, name) in cases {
            assert_eq!(model_name(path.as_ref()), Path::new(name));
        }
    }
}
