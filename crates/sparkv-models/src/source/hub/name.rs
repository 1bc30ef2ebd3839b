//! Names of models on the hub.
use std::fmt;
use std::str::FromStr;

use crate::error::LoadError;

/// A model on the hub, as `ORG/NAME[:TAG][@REVISION]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HubName {
    /// ORG/NAME.
    pub repo: String,
    /// Which of the model's GGUF files: by the quantization in its name, as `Q4_K_M`, or by more of the name.
    pub tag: Option<String>,
    /// A branch, a tag or a commit; `main` if none is named.
    pub revision: Option<String>,
}

impl HubName {
    /// What the model is called in answers: its name, whatever its revision.
    pub fn model_name(&self) -> String {
        Self { revision: None, ..self.clone() }.to_string()
    }
}

impl FromStr for HubName {
    type Err = LoadError;

    fn from_str(name: &str) -> Result<Self, LoadError> {
        let (rest, revision) = match name.split_once('@') {
            Some((rest, revision)) => (rest, Some(revision)),
            None => (name, None),
        };
        let (repo, tag) = match rest.split_once(':') {
            Some((repo, tag)) => (repo, Some(tag)),
            None => (rest, None),
        };
        if !is_repo(repo) || ![tag, revision].into_iter().flatten().all(is_path) {
            return Err(LoadError::NoSuchModel(name.to_owned()));
        }
        Ok(Self { repo: repo.to_owned(), tag: tag.map(str::to_owned), revision: revision.map(str::to_owned) })
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.revision.iter().try_for_each(|revision| write!(f, "@{revision}"))
    }
}

/// The characters that the hub allows in names.
fn is_plain(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// ORG/NAME.
fn is_repo(name: &str) -> bool {
    matches!(name.split_once('/'), Some((org, name)) if is_plain(org) && is_plain(name))
}

/// Names with slashes between them, as branches and files have; none of them leads out of a folder.
fn is_path(text: &str) -> bool {
    text.split('/').all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let name = |repo: &str, tag: Option<&str>, revision: Option<&str>| HubName {
            repo: repo.to_owned(),
            tag: tag.map(str::to_owned),
            revision: revision.map(str::to_owned),
        };
        let cases = [
            ("a/b", name("a/b", None, None)),
            ("a/b.C-d_e:Q4_K_M", name("a/b.C-d_e", Some("Q4_K_M"), None)),
            ("a/b@main", name("a/b", None, Some("main"))),
            ("a/b:q8_0@refs/pr/5", name("a/b", Some("q8_0"), Some("refs/pr/5"))),
            ("a/b:sub/model-Q8_0.gguf", name("a/b", Some("sub/model-Q8_0.gguf"), None)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<HubName>().unwrap(), expected);
            assert_eq!(expected.to_string(), text);
        }
        assert_eq!("a/b:q8_0@v1".parse::<HubName>().unwrap().model_name(), "a/b:q8_0");
        for wrong in [
            "a",
            "a/",
            "/b",
            "a/b/c",
            "a/b:",
            "a/b@",
            "a/b@..",
            "a/b@../x",
            "a/b@/x",
            "a/b:x/../y",
            "a/b:x y",
        ] {
            assert!(wrong.parse::<HubName>().is_err(), "{wrong}");
        }
    }
}
