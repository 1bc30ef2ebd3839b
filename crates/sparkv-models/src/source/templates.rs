//! Chat templates: one, or several by name.
use std::collections::BTreeMap;

use serde::Deserialize;

/// What a template is called that is meant for all conversations.
pub(crate) const DEFAULT: &str = "default";

/// What one is called that is meant for conversations with tools.
const TOOL_USE: &str = "tool_use";

/// One template, or several by name.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "must be a template, or a list of templates that each have a name")]
pub(crate) enum Templates {
    One(String),
    List(Vec<NamedTemplate>),
    ByName(BTreeMap<String, String>),
}

#[derive(Debug, Deserialize)]
pub(crate) struct NamedTemplate {
    name: String,
    template: String,
}

/// The templates that conversations are written by.
#[derive(Debug, PartialEq)]
pub(crate) struct Chosen {
    pub(crate) template: String,
    /// The one for conversations with tools, if there is one.
    pub(crate) tool_use: Option<String>,
}

impl Templates {
    /// The template for tools, and that for everything else: the default, else the only one that may be meant. `None` if
    /// there is no template at all.
    ///
    /// # Errors
    /// If several may be; they are named.
    pub(crate) fn choose(self) -> Result<Option<Chosen>, Vec<String>> {
        let mut named = match self {
            Self::One(template) => return Ok(Some(Chosen { template, tool_use: None })),
            Self::List(list) => list.into_iter().map(|named| (named.name, named.template)).collect(),
            Self::ByName(named) => named,
        };
        let tool_use = named.get(TOOL_USE).cloned();
        if let Some(template) = named.remove(DEFAULT) {
            return Ok(Some(Chosen { template, tool_use }));
        }
        if named.len() > 1 {
            named.remove(TOOL_USE);
        }
        if named.len() > 1 {
            return Err(named.into_keys().collect());
        }
        Ok(named.into_values().next().map(|template| Chosen { template, tool_use }))
    }
}
