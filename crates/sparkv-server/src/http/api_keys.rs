//! API keys.

use std::fmt;

use subtle::{Choice, ConstantTimeEq};

/// A secret that clients send as `Authorization: Bearer KEY` or `x-api-key: KEY`. Never printed.
#[derive(Clone)]
pub struct ApiKey(String);

/// The keys that open the server; with none, it is open. Never printed.
#[derive(Clone, Default)]
pub struct ApiKeys(Vec<ApiKey>);

/// The key is empty, or has characters that no HTTP header can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an API key has one or more visible ASCII characters and no spaces")]
pub struct InvalidApiKey;

impl ApiKey {
    /// A key.
    ///
    /// # Errors
    /// If no client could ever send it.
    pub fn new(key: impl Into<String>) -> Result<Self, InvalidApiKey> {
        let key = key.into();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidApiKey);
        }
        Ok(Self(key))
    }

    /// Takes the same time wherever `given` differs, so that the key cannot be guessed piece by piece. (That
    /// of another length is told sooner: the length is no secret.)
    fn matches(&self, given: &str) -> Choice {
        self.0.as_bytes().ct_eq(given.as_bytes())
    }
}

impl ApiKeys {
    /// Whether the server is open.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares with every key, whichever it is, so that the time does not tell which one came close.
    pub(super) fn contain(&self, given: &str) -> bool {
        self.0.iter().fold(Choice::from(0), |found, key| found | key.matches(given)).into()
    }
}

impl FromIterator<ApiKey> for ApiKeys {
    fn from_iter<I: IntoIterator<Item = ApiKey>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_cannot_be_sent_is_refused() {
        for key in ["", "two words", "schlüssel", "line\nbreak"] {
            assert_eq!(ApiKey::new(key).unwrap_err(), InvalidApiKey, "{key:?}");
        }
        assert!(ApiKey::new("sk-123").is_ok());
    }

    #[test]
    fn a_key_is_not_printed() {
        let key = ApiKey::new("secret").unwrap();
        let keys = ApiKeys::from_iter([key.clone()]);
        assert!(!format!("{key:?} {keys:?}").contains("secret"));
    }

    #[test]
    fn every_key_opens_and_nothing_else() {
        let keys = ApiKeys::from_iter(["first", "second"].map(|key| ApiKey::new(key).unwrap()));
        assert!(keys.contain("first") && keys.contain("second"));
        for wrong in ["", "third", "firs", "firstx", "first,second", "FIRST"] {
            assert!(!keys.contain(wrong), "{wrong}");
        }
    }
}
