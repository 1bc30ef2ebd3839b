//! The GGUF models among the files of a repository, and which of them a name means.
//!
//! As llama.cpp has it: a tag is looked for in the names of files, whatever its case; without one it is Q4_K_M, or the
//! first there is.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::source::gguf;

/// What is taken where no tag says more.
const DEFAULT: &str = "Q4_K_M";

/// In the names of GGUF files that are no language models: projectors of images, and statistics.
const OTHERS: [&str; 2] = ["mmproj", "imatrix"];

/// A model in one GGUF file, or in several parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quantization {
    /// Its files in the repository, first to last.
    pub(crate) files: Vec<String>,
    /// Whether all of them are there.
    pub(crate) complete: bool,
}

impl Quantization {
    /// The first file, by which the model is loaded.
    pub(crate) fn first(&self) -> &str {
        self.files.first().map_or("", String::as_str)
    }

    /// What tells it apart: the quantization that its file's name ends in, or else the name.
    pub(crate) fn tag(&self) -> String {
        let name = gguf::model_name(Path::new(self.first()));
        let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let last = name.rsplit(['-', '.']).next().unwrap_or(&name);
        if is_quantization(last) { last.to_owned() } else { name }
    }

    /// Whether `tag` stands in the path of its file, as a word.
    fn is_called(&self, tag: &str) -> bool {
        let (path, tag) = (self.first().to_ascii_lowercase(), tag.to_ascii_lowercase());
        let starts = |at: usize| !path[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        let ends = |at: usize| matches!(path[at..].chars().next(), None | Some('.' | '-' | '/'));
        path.match_indices(&tag).any(|(at, _)| starts(at) && ends(at + tag.len()))
    }

    fn is_default(&self) -> bool {
        self.is_called(DEFAULT)
    }
}

/// Whether the file at `path` is what is taken where no tag is given.
pub(super) fn is_default(path: &Path) -> bool {
    // The folders above have names, too.
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Quantization { files: vec![name], complete: true }.is_default()
}

/// Whether a word is one of ggml's names of types, as Q4_K_M, IQ2_XXS or BF16.
fn is_quantization(word: &str) -> bool {
    let word = word.to_ascii_uppercase();
    let numbered = ["Q", "IQ", "TQ", "MXFP", "NVFP", "F", "BF", "FP"];
    numbered.iter().any(|prefix| {
        word.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    })
}

/// The models among `files`, in the order of their names.
pub(crate) fn quantizations<'a>(files: impl IntoIterator<Item = &'a str>) -> Vec<Quantization> {
    let is_other = |file: &str| OTHERS.iter().any(|other| file.to_ascii_lowercase().contains(other));
    let files = files.into_iter().filter(|file| gguf::is_called_gguf(Path::new(file)) && !is_other(file));
    let files: BTreeSet<&str> = files.collect();
    let mut found = BTreeMap::new();
    for file in &files {
        let parts: Vec<String> = match gguf::parts(Path::new(file)) {
            // The hub's names have slashes on every system.
            Some(parts) => parts.map(|part| part.to_string_lossy().replace('\\', "/")).collect(),
            None => vec![(*file).to_owned()],
        };
        let complete = parts.iter().all(|part| files.contains(part.as_str()));
        found.entry(parts.clone()).or_insert(Quantization { files: parts, complete });
    }
    found.into_values().collect()
}

/// The one that is meant by `tag`.
///
/// # Errors
/// If there is none, or `tag` could mean several; the message lists what there is.
pub(crate) fn choose<'a>(models: &'a [Quantization], tag: Option<&str>) -> Result<&'a Quantization, String> {
    let Some(tag) = tag else {
        let default = models.iter().find(|model| model.is_default()).or_else(|| models.first());
        return default.ok_or_else(|| "there are no GGUF files".to_owned());
    };
    let called: Vec<&Quantization> = models.iter().filter(|model| model.is_called(tag)).collect();
    match called[..] {
        [model] => Ok(model),
        [] if models.is_empty() => Err("there are no GGUF files".to_owned()),
        [] => Err(format!(
            "no GGUF file is called `{tag}`; there are {}",
            list(models.iter(), Quantization::tag)
        )),
        _ => Err(format!(
            "`{tag}` could mean several files; name more of one: {}",
            list(called.into_iter(), |model| model.first().to_owned())
        )),
    }
}

fn list<'a>(
    models: impl Iterator<Item = &'a Quantization>,
    name: impl Fn(&Quantization) -> String,
) -> String {
    models.map(name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 10] = [
        "README.md",
        "model-IQ4_XS.gguf",
        "model-Q4_K_M.gguf",
        "model-q8_0.gguf",
        "model.Q5_K_S.gguf",
        "mmproj-model-f16.gguf",
        "BF16/model-BF16-00002-of-00002.gguf",
        "BF16/model-BF16-00001-of-00002.gguf",
        "UD/model-UD-Q6_K-00001-of-00003.gguf",
        "imatrix.gguf",
    ];

    #[test]
    fn models_are_told_apart_by_tags() {
        let models = quantizations(FILES);
        let tags: Vec<_> = models.iter().map(|model| (model.tag(), model.complete)).collect();
        let expected = ["BF16", "Q6_K", "IQ4_XS", "Q4_K_M", "q8_0", "Q5_K_S"];
        assert_eq!(tags, expected.map(|tag| (tag.to_owned(), tag != "Q6_K")));
        let chosen = |tag| choose(&models, Some(tag)).map(|model| model.first().to_owned());
        for (tag, file) in [
            ("Q8_0", "model-q8_0.gguf"),
            ("q4_k_m", "model-Q4_K_M.gguf"),
            ("bf16", "BF16/model-BF16-00001-of-00002.gguf"),
            ("Q5_K_S", "model.Q5_K_S.gguf"),
            ("UD-Q6_K", "UD/model-UD-Q6_K-00001-of-00003.gguf"),
            ("model-q8_0.gguf", "model-q8_0.gguf"),
        ] {
            assert_eq!(chosen(tag).unwrap(), file, "{tag}");
        }
        // Parts of a word are no tag.
        for tag in ["Q4_XS", "Q4", "Q4_K", "8_0", "f16", "Q2_K"] {
            let message = chosen(tag).unwrap_err();
            assert!(message.contains(tag) && message.contains("BF16, Q6_K, IQ4_XS, Q4_K_M"), "{message}");
        }
        let message = chosen("model").unwrap_err();
        assert!(message.contains("several") && message.contains("model-q8_0.gguf"), "{message}");
    }

    #[test]
    fn without_a_tag_it_is_the_default_or_the_first() {
        let first = |files: &[&str]| {
            choose(&quantizations(files.iter().copied()), None).map(|m| m.first().to_owned())
        };
        assert_eq!(first(&FILES).unwrap(), "model-Q4_K_M.gguf");
        assert_eq!(first(&["b-Q8_0.gguf", "a-Q2_K.gguf"]).unwrap(), "a-Q2_K.gguf");
        assert!(first(&["mmproj.gguf", "model.safetensors"]).unwrap_err().contains("no GGUF files"));
    }

    #[test]
    fn a_model_without_a_quantization_in_its_name_is_called_by_it() {
        let models = quantizations(["tiny-llama.gguf", "sub/v1.5-chat.gguf"]);
        assert_eq!(models.iter().map(Quantization::tag).collect::<Vec<_>>(), ["v1.5-chat", "tiny-llama"]);
    }
}
