//! Configurations that cannot be used.

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or not of the right form.
    #[error("not JSON of the right form: {0}")]
    Json(#[from] serde_json::Error),
    /// A field of the wrong type.
    #[error("{field}: {source}")]
    Field {
        /// The field.
        field: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A model this decoder does not run.
    #[error("unsupported {what} `{name}`: {instead}")]
    Unsupported {
        /// Which part of the model, e.g. `architecture`.
        what: &'static str,
        /// Its name in the file.
        name: String,
        /// What is supported.
        instead: String,
    },
    /// A value that makes no sense.
    #[error("{field}: {message}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
}

impl ConfigError {
    pub(crate) fn unsupported(
        what: &'static str,
        name: impl Into<String>,
        instead: impl Into<String>,
    ) -> Self {
        Self::Unsupported { what, name: name.into(), instead: instead.into() }
    }

    pub(crate) fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { field, message: message.into() }
    }
}

/// # Errors
/// If `value` is not between 1 and `limit`.
pub(super) fn within(field: &'static str, value: usize, limit: usize) -> Result<(), ConfigError> {
    if (1..=limit).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::invalid(field, format!("must be between 1 and {limit}, got {value}")))
    }
}

/// # Errors
/// If `value` is not a number above zero.
pub(super) fn positive(field: &'static str, value: f32) -> Result<(), ConfigError> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(ConfigError::invalid(field, format!("must be a positive number, got {value}")))
    }
}
