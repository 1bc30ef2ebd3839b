//! The demo model, part of the binary: what runs when no model is named.
use super::folder::ModelFiles;
use super::safetensors::SafetensorsFiles;
use super::text::TextFiles;
use crate::error::LoadError;

/// What the demo model is called in answers.
const NAME: &str = "sparkv-demo";

/// Where its files are, for errors.
const PLACE: &str = "embedded demo model";

/// Files of the demo model.
macro_rules! demo_file {
    ($include:ident, $name:literal) => {
        $include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo/", $name))
    };
}

pub(crate) fn files() -> Result<ModelFiles, LoadError> {
    Ok(ModelFiles {
        name: NAME.to_owned(),
        place: PLACE.to_owned(),
        config: demo_file!(include_str, "config.json").to_owned(),
        generation_config: Some(demo_file!(include_str, "generation_config.json").to_owned()),
        text: TextFiles::parse(
            PLACE,
            demo_file!(include_str, "tokenizer.json"),
            Some(demo_file!(include_str, "tokenizer_config.json")),
        )?,
    })
}

pub(crate) fn weights() -> Result<SafetensorsFiles, LoadError> {
    SafetensorsFiles::embedded(PLACE, demo_file!(include_bytes, "model.safetensors"))
}
