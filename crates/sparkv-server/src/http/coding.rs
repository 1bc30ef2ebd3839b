//! Request bodies that come compressed.

use std::io::Read;

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use flate2::read::{MultiGzDecoder, ZlibDecoder};

use crate::error::ApiError;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// Not at all.
    Identity,
    Gzip,
    /// Which is zlib's format, by HTTP's definition.
    Deflate,
}

impl Coding {
    /// What `Content-Encoding` says.
    ///
    /// # Errors
    /// If it names a coding that is not taken, or several.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let values = headers.get_all(header::CONTENT_ENCODING).iter();
        let names: Vec<String> = values
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
            .map(|name| String::from_utf8_lossy(name).trim().to_ascii_lowercase())
            .filter(|name| !name.is_empty() && name != "identity")
            .collect();
        match names.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => Ok(Self::Identity),
            ["gzip" | "x-gzip"] => Ok(Self::Gzip),
            ["deflate"] => Ok(Self::Deflate),
            _ => Err(ApiError::UnknownCoding(names.join(", "))),
        }
    }

    /// The body as it was before.
    ///
    /// # Errors
    /// If it is not compressed as it should be, or is larger than `limit` bytes, of which no more are unpacked.
    pub(super) async fn decoded(self, body: Bytes, limit: usize) -> Result<Bytes, ApiError> {
        if self == Self::Identity {
            return Ok(body);
        }
        // It takes a core for a while, if the operator lets bodies be large.
        let unpacking = tokio::task::spawn_blocking(move || self.unpacked(&body, limit));
        unpacking.await.map_err(|error| ApiError::Internal(error.to_string()))?
    }

    fn unpacked(self, body: &[u8], limit: usize) -> Result<Bytes, ApiError> {
        let (name, mut reader): (_, Box<dyn Read + '_>) = match self {
            Self::Identity => ("identity", Box::new(body)),
            Self::Gzip => ("gzip", Box::new(MultiGzDecoder::new(body))),
            Self::Deflate => ("deflate", Box::new(ZlibDecoder::new(body))),
        };
        let mut whole = Vec::new();
        let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        reader
            .by_ref()
            .take(most)
            .read_to_end(&mut whole)
            .map_err(|error| ApiError::Malformed(format!("the body is not valid {name}: {error}")))?;
        if whole.len() > limit { Err(ApiError::BodyTooLarge { limit }) } else { Ok(whole.into()) }
    }
}
