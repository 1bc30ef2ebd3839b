//! Compiled kernels on disk, so that only the first start compiles.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A folder of compiled kernels, which need not be there.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    folder: Option<PathBuf>,
}

/// Bytes of the sum that a file begins with.
const SUM: usize = size_of::<u64>();

impl Cache {
    /// What `SPARKV_KERNEL_CACHE` names (nothing is kept where it is empty), else `sparkv/kernels` in the user's cache.
    pub(crate) fn of_environment() -> Self {
        let folder = std::env::var_os("SPARKV_KERNEL_CACHE").map(PathBuf::from).or_else(|| {
            let cache =
                std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
            let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")));
            Some(cache?.join("sparkv").join("kernels"))
        });
        Self { folder: folder.filter(|folder| !folder.as_os_str().is_empty()) }
    }

    #[cfg(test)]
    fn at(folder: &Path) -> Self {
        Self { folder: Some(folder.to_owned()) }
    }

    fn path(&self, kernel: &str, key: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{kernel}-{:016x}", hash(key))))
    }

    /// What was made of `key`, if it is kept, whole.
    pub(crate) fn load(&self, kernel: &str, key: &str) -> Option<Vec<u8>> {
        let mut file = std::fs::read(self.path(kernel, key)?).ok()?;
        let sum = u64::from_le_bytes(*file.first_chunk::<SUM>()?);
        let image = file.split_off(SUM);
        (hash(&image) == sum).then_some(image)
    }

    /// Keeps what was made of `key`, where it can. Whoever reads meanwhile sees all of it or nothing.
    pub(crate) fn store(&self, kernel: &str, key: &str, image: &[u8]) {
        let Some(path) = self.path(kernel, key) else { return };
        // Without it, the next start compiles again; there is nobody whom that stops.
        let _ = write(&path, image);
    }
}

fn write(path: &Path, image: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&hash(image).to_le_bytes())?;
    file.write_all(image)?;
    file.persist(path)?;
    Ok(())
}

/// The same in all processes of one build; from another build's, files are found or not, but never wrong.
fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_loaded_by_its_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(&folder.path().join("new").join("kernels"));
        assert_eq!(cache.load("attend", "sm_90"), None);
        cache.store("attend", "sm_90", b"code");
        assert_eq!(cache.load("attend", "sm_90").as_deref(), Some(b"code".as_slice()));
        for (kernel, key) in [("attend", "sm_80"), ("merge", "sm_90")] {
            assert_eq!(cache.load(kernel, key), None, "{kernel} {key}");
        }
        cache.store("attend", "sm_90", b"other code");
        assert_eq!(cache.load("attend", "sm_90").as_deref(), Some(b"other code".as_slice()));
    }

    #[test]
    fn what_is_not_whole_is_not_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        cache.store("attend", "sm_90", b"some code");
        let path = cache.path("attend", "sm_90").unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(cache.load("attend", "sm_90"), None, "{length} bytes");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, changed).unwrap();
            assert_eq!(cache.load("attend", "sm_90"), None, "byte {at}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_is_no_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cache = Cache::at(&file.path().join("kernels"));
        cache.store("attend", "sm_90", b"code");
        assert_eq!(cache.load("attend", "sm_90"), None);
        let none = Cache { folder: None };
        none.store("attend", "sm_90", b"code");
        assert_eq!(none.load("attend", "sm_90"), None);
    }
}
