//! `kv_cache`, in requests and in `usage`. The types are the cache's own, which knows nothing of OpenAPI, so they are
//! described here; tests hold the descriptions against what the types read and write.

use std::borrow::Cow;

use utoipa::openapi::schema::{
    AdditionalProperties, KnownFormat, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

/// Schemas by their names.
type Schemas = Vec<(String, RefOr<Schema>)>;

/// Describes a type of the cache, and names those that it refers to.
macro_rules! described {
    ($name:ident = $schema:expr, refers to [$($other:ty),*]) => {
        #[doc = concat!("Stands for the cache's `", stringify!($name), "`.")]
        pub(crate) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                RefOr::T($schema.into())
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn schemas(schemas: &mut Schemas) {
                let others: Schemas = vec![$((<$other>::name().into_owned(), <$other>::schema())),*];
                schemas.extend(others);
                $(<$other>::schemas(schemas);)*
            }
        }
    };
}

described!(
    KvField = OneOfBuilder::new().item(Ref::from_schema_name("KvOptions")).item(
        ObjectBuilder::new().schema_type(Type::String).description(Some("A preset's name.")),
    ),
    refers to [KvOptions]
);

described!(
    KvOptions = settings("Wire form of the `kv_cache` object. Fields that are set override those of the named preset.")
        .property("preset", text("A preset to start from; `exact` if nothing is set."))
        .property(
            "budget",
            other::<Budget>(
                "What the cache may cost: a share of the dense f16 bytes (`\"25%\"`) or bytes (`67108864`, `\"64MiB\"`).",
            ),
        )
        .property("eviction", other::<EvictionOptions>("Which tokens stay."))
        .property("pruning", other::<PruningOptions>("Which channels stay."))
        .property(
            "precision",
            other::<PrecisionOptions>(
                "How values are stored. Left out: f16, and int8 for the channels that pruned rows keep.",
            ),
        )
        .property(
            "allocation",
            other::<Allocation>(
                "How keys of fewer than 8 bits share them among channels. If nothing is said, query up to 5 bits, uniform with 6.",
            ),
        )
        .property(
            "window",
            tokens("Tokens of the observation window, and of the recent tail that stays dense."),
        )
        .property("sinks", tokens("First tokens that are never evicted or pruned."))
        .property(
            "continues",
            flag(
                "Whether the next turn of the conversation goes on from this compressed cache, which is kept for it, rather \
                 than compress the whole conversation anew: sooner, but what was lost for this turn's question stays lost.",
            ),
        ),
    refers to [Budget, EvictionOptions, PruningOptions, PrecisionOptions, Allocation]
);

described!(
    EvictionOptions = settings("Wire form of `kv_cache.eviction`.")
        .property("policy", other::<EvictionPolicy>("Which tokens stay."))
        .property(
            "max_tokens",
            tokens(
                "Tokens kept, of the prompt or (streaming) at any time, sinks and window included; on average over the \
                 layers (pyramidkv) or in each. Where tokens are pruned or quantized, streaming drops a block at a time, \
                 so it holds up to 31 fewer.",
            ),
        )
        .property("keep_ratio", share("Tokens kept as a share of the prompt, in (0, 1]."))
        .property(
            "keep_system",
            flag(
                "Whether the system prompt and the definitions of tools, with which a conversation begins, always stay, as far as \
                 the bound has room for them beside the window; true, if nothing is said.",
            ),
        ),
    refers to [EvictionPolicy]
);

described!(
    PruningOptions = settings(
        "Wire form of `kv_cache.pruning`: the share of channels pruned from every token's row, in [0, 1)."
    )
    .property("key_ratio", share("Share of key channels pruned."))
    .property("value_ratio", share("Share of value channels pruned."))
    .property(
        "query_statistic",
        other::<QueryStatistic>("How query energy is combined over a group of query heads."),
    )
    .property(
        "center_keys",
        flag("Whether the mean key of the prompt is subtracted from keys before they are pruned; not in the paper."),
    ),
    refers to [QueryStatistic]
);

described!(
    PrecisionOptions = OneOfBuilder::new()
        .item(Ref::from_schema_name(Precision::name()))
        .item(
            settings("One for keys and one for values.")
                .property("keys", other::<Precision>("How keys are stored."))
                .property("values", other::<Precision>("How values are stored.")),
        ),
    refers to [Precision]
);

described!(
    Allocation = one_of_names(
        "Whether all channels of keys of fewer than 8 bits have as many (uniform), or those more of which the queries ask more \
         (query); as many in all.",
        &["query", "uniform"],
    ),
    refers to []
);

described!(
    Precision = one_of_names(
        "Storage of rows that are not pruned. Of those that are, the kept channels are int8, or f32 where this is. Sinks, \
         window and the block that fills up behind it are f16 even where this is less.",
        &["f32", "f16", "int8", "int6", "int5", "int4", "int3", "int2"],
    ),
    refers to []
);

described!(
    EvictionPolicy = one_of_names(
        "Which tokens stay.",
        sparkv::EvictionPolicy::names(),
    ),
    refers to []
);

described!(
    QueryStatistic = one_of_names(
        "How the query energy of a channel is combined over the query heads of one KV head.",
        &["rms", "mean"],
    ),
    refers to []
);

described!(
    Budget = OneOfBuilder::new()
        .item(
            ObjectBuilder::new()
                .schema_type(Type::String)
                .pattern(Some(r"^\d+(\.\d+)?\s*(%|B|KiB|MiB|GiB|KB|MB|GB)?$"))
                .examples(["25%", "64MiB"]),
        )
        .item(ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)))
        .description(Some("A share of the dense f16 bytes, or bytes")),
    refers to []
);

described!(
    KvUsage = [
        ("preset", ObjectBuilder::new().schema_type(Type::String).description(Some("Name of the preset, or `custom`, or `budget`."))),
        (
            "keys",
            ObjectBuilder::new()
                .schema_type(Type::String)
                .description(Some("How keys are stored that have left the window, such as `int4 query`.")),
        ),
        ("values", ObjectBuilder::new().schema_type(Type::String).description(Some("The same of values."))),
        (
            "eviction",
            ObjectBuilder::new().schema_type(Type::String).description(Some(
                "Which tokens stay: `none` is dropped, or by which policy how many are, such as `snapkv, 1024 tokens`.",
            )),
        ),
        ("prompt_tokens", counted("Tokens of the prompt.", None)),
        (
            "kept_tokens",
            counted(
                "Tokens stored per KV head, of prompt and completion; the mean over layers, which may keep different \
                 numbers, rounded.",
                None,
            ),
        ),
        ("bytes", counted("Bytes held.", Some(KnownFormat::Int64))),
        ("dense_bytes", counted(
            "Bytes of a dense f16 cache of the same logical length, in groups of 16 tokens, as `bytes` are of dense rows.",
            Some(KnownFormat::Int64),
        )),
        (
            "bytes_per_token",
            ObjectBuilder::new()
                .schema_type(Type::Number)
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::Double)))
                .description(Some("`bytes` over the logical length.")),
        ),
    ]
    .into_iter()
    .fold(
        ObjectBuilder::new().description(Some("What a sequence's cache costs, as counted, at some moment.")),
        |object, (name, schema)| object.property(name, schema).required(name),
    ),
    refers to []
);

/// An object of settings, none of which need be there.
fn settings(description: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .description(Some(description))
        .additional_properties(Some(AdditionalProperties::FreeForm(false)))
}

/// A setting that may be null.
fn setting(kind: Type, description: &str) -> ObjectBuilder {
    let kind = SchemaType::from_iter([kind, Type::Null]);
    ObjectBuilder::new().schema_type(kind).description(Some(description))
}

fn text(description: &str) -> ObjectBuilder {
    setting(Type::String, description)
}

fn flag(description: &str) -> ObjectBuilder {
    setting(Type::Boolean, description)
}

fn tokens(description: &str) -> ObjectBuilder {
    setting(Type::Integer, description).minimum(Some(0))
}

fn share(description: &str) -> ObjectBuilder {
    setting(Type::Number, description).format(Some(SchemaFormat::KnownFormat(KnownFormat::Double)))
}

/// A setting of another type, which may be null.
fn other<T: ToSchema>(description: &str) -> OneOfBuilder {
    let mut reference = Ref::from_schema_name(T::name());
    reference.description = description.to_owned();
    OneOfBuilder::new().item(reference).item(ObjectBuilder::new().schema_type(Type::Null))
}

fn one_of_names(description: &str, names: &[&'static str]) -> ObjectBuilder {
    let names = names.iter().copied();
    ObjectBuilder::new().schema_type(Type::String).description(Some(description)).enum_values(Some(names))
}

fn counted(description: &str, format: Option<KnownFormat>) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(format.map(SchemaFormat::KnownFormat))
        .minimum(Some(0))
        .description(Some(description))
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn described<T: ToSchema>() -> Value {
        serde_json::to_value(T::schema()).unwrap()
    }

    fn names(schema: &Value) -> Vec<String> {
        let names = schema["enum"].as_array().unwrap().iter();
        names.map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    /// The fields that are described are those that `value` is written with.
    fn check_fields<T: ToSchema>(value: &Value) {
        let described = described::<T>();
        let mut fields: Vec<&String> = described["properties"].as_object().unwrap().keys().collect();
        let mut written: Vec<&String> = value.as_object().unwrap().keys().collect();
        fields.sort();
        written.sort();
        assert_eq!(fields, written, "{}", T::name());
    }

    /// Every name is read, and a type that does not know a name says which there are.
    fn check_names<T: ToSchema, Real: DeserializeOwned>() {
        for name in names(&described::<T>()) {
            serde_json::from_value::<Real>(json!(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let error = serde_json::from_value::<Real>(json!("?")).err().unwrap().to_string();
        let known = error.split_once("expected").unwrap().1.matches('`').count() / 2;
        assert_eq!(known, names(&described::<T>()).len(), "{error}");
    }

    #[test]
    fn what_is_described_is_what_is_read_and_written() {
        // All fields by name, so that a new one does not compile until it is here.
        let pruning = sparkv::settings::PruningOptions {
            key_ratio: Some(0.5),
            value_ratio: Some(0.5),
            query_statistic: Some(sparkv::settings::QueryStatistic::Rms),
            center_keys: Some(true),
        };
        let eviction = sparkv::settings::EvictionOptions {
            policy: sparkv::EvictionPolicy::named("snapkv"),
            max_tokens: Some(100),
            keep_ratio: Some(0.5),
            keep_system: Some(true),
        };
        let options = sparkv::KvOptions {
            preset: Some("exact".to_owned()),
            budget: Some(sparkv::Budget::Bytes(1)),
            eviction: Some(eviction),
            pruning: Some(pruning),
            precision: Some(sparkv::settings::Precision::Int8.into()),
            allocation: Some(sparkv::settings::Allocation::Query),
            window: Some(32),
            sinks: Some(4),
            continues: Some(true),
        };
        let options = serde_json::to_value(options).unwrap();
        check_fields::<KvOptions>(&options);
        check_fields::<EvictionOptions>(&options["eviction"]);
        check_fields::<PruningOptions>(&options["pruning"]);
        let usage = sparkv::KvUsage {
            preset: "exact".to_owned(),
            keys: "f16".to_owned(),
            values: "f16".to_owned(),
            eviction: "none".to_owned(),
            prompt_tokens: 1,
            kept_tokens: 1,
            bytes: 1,
            dense_bytes: 1,
            bytes_per_token: 1.0,
        };
        check_fields::<KvUsage>(&serde_json::to_value(usage).unwrap());
        check_names::<Precision, sparkv::settings::Precision>();
        check_names::<Allocation, sparkv::settings::Allocation>();
        check_names::<EvictionPolicy, sparkv::settings::EvictionPolicy>();
        check_names::<QueryStatistic, sparkv::settings::QueryStatistic>();
    }
}
