//! Descriptions of types, for /openapi.json, where they cannot be derived in place.

pub(crate) mod kv_cache;

use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Schema};

/// An event of a stream, as its lines say it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a description of what is written event by event")]
pub(crate) struct ServerSentEvent {
    /// The event's type, where the API names its events.
    event: Option<String>,
    /// JSON of the API's types (of chats, a `ChatChunk`; of completions, a `Completion`), or `[DONE]`.
    data: String,
}

/// One object with the fields of several, and no others.
///
/// Bodies are read field by field into groups of fields that endpoints share; clients see one object.
pub(crate) fn as_one(description: &str, parts: Vec<RefOr<Schema>>, without: &[&str]) -> RefOr<Schema> {
    let mut whole = ObjectBuilder::new()
        .description(Some(description))
        .additional_properties(Some(AdditionalProperties::FreeForm(false)))
        .build();
    for part in parts {
        // A derived struct is an object.
        if let RefOr::T(Schema::Object(part)) = part {
            whole.properties.extend(part.properties);
            whole.required.extend(part.required);
        }
    }
    whole.properties.retain(|name, _| !without.contains(&name.as_str()));
    RefOr::T(Schema::Object(whole))
}

/// Describes a body that is read into groups of fields, some of which may be refused.
macro_rules! described_as_one {
    ($body:ty, $name:literal, [$($part:ty),+ $(,)?]) => {
        crate::schema::described_as_one!($body, $name, [$($part),+], without []);
    };
    ($body:ty, $name:literal, [$($part:ty),+ $(,)?], without [$($refused:literal),* $(,)?]) => {
        impl utoipa::PartialSchema for $body {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                crate::schema::as_one($name, vec![$(<$part as utoipa::PartialSchema>::schema()),+], &[$($refused),*])
            }
        }

        impl utoipa::ToSchema for $body {
            fn name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn schemas(
                schemas: &mut Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::Schema>)>,
            ) {
                $(<$part as utoipa::ToSchema>::schemas(schemas);)+
            }
        }
    };
}

pub(crate) use described_as_one;
