//! SparK attention for Candle. (Being written; the public surface below is settled.)
pub mod attention;
pub mod budget;
pub mod cache;
pub mod settings;

pub use attention::{AttentionConfig, Span, attend};
pub use cache::{KvShape, KvUsage, LayerCache, SequenceCache};
pub use settings::{KvChoice, KvOptions, KvSettings, Presets, SettingsError};
