//! The bytes of a model's files.
use std::ops::Deref;
use std::path::Path;

use crate::error::LoadError;

/// The bytes of a file, mapped or built into the binary.
#[derive(Debug)]
pub(crate) enum FileBytes {
    /// A file on disk; its pages are read when they are needed and shared between processes.
    Mapped(memmap2::Mmap),
    /// Part of the binary.
    Embedded(&'static [u8]),
}

impl FileBytes {
    /// Maps the file at `path`.
    pub(crate) fn map(path: &Path) -> Result<Self, LoadError> {
        let error = |source| LoadError::Io { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(error)?;
        // SAFETY: the map is only read. As with every reader of mapped weights, the file must not be
        // truncated or rewritten while it is being loaded; nothing is read from it after that.
        #[expect(unsafe_code, reason = "mapping a file has no safe form; see SAFETY")]
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(error)?;
        Ok(Self::Mapped(map))
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }
}

/// The text of `folder`/`name`, or `None` if there is no such file.
pub(crate) fn read_optional(folder: &Path, name: &str) -> Result<Option<String>, LoadError> {
    let path = folder.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LoadError::Io { path, source }),
    }
}

/// The text of `folder`/`name`.
pub(crate) fn read_required(folder: &Path, name: &str) -> Result<String, LoadError> {
    read_optional(folder, name)?
        .ok_or_else(|| LoadError::MissingFile { folder: folder.to_owned(), file: name.to_owned() })
}
