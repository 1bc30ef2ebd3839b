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

impl FileBytes {
    /// Says that `bytes`, part of the file, are not needed again soon: the pages that they fill leave the memory of this
    /// process. They stay what they are, and are read from the disk again where they are needed after all.
    pub(crate) fn give_back(&self, bytes: &[u8]) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self
            && let Some(start) = bytes.as_ptr().addr().checked_sub(map.as_ptr().addr())
            && start + bytes.len() <= map.len()
        {
            // SAFETY: the map is one of a file and never written to, so that its pages can be had again.
            #[expect(unsafe_code, reason = "giving pages back has no safe form; see SAFETY")]
            let given =
                unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, bytes.len()) };
            // A favour, which may be refused.
            let _ = given;
        }
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
