//! Names of a family's tensors, in Hugging Face's files and in GGUF.

/// What a module is called; its tensors are `NAME.weight` and `NAME.bias`.
#[derive(Debug, PartialEq)]
pub(crate) struct Name {
    /// In Hugging Face's files, and in this crate.
    pub(crate) hf: &'static str,
    /// In GGUF files.
    pub(crate) gguf: &'static str,
}

/// Names of all modules that have tensors, and how GGUF orders these.
#[derive(Debug, PartialEq)]
pub(crate) struct TensorNames {
    pub(crate) embeddings: Name,
    /// The last norm.
    pub(crate) norm: Name,
    pub(crate) head: Name,
    /// What stands before the number of a layer; the modules below stand behind it.
    pub(crate) layers: Name,
    pub(crate) attention_norm: Name,
    pub(crate) q: Name,
    pub(crate) k: Name,
    pub(crate) v: Name,
    pub(crate) o: Name,
    pub(crate) mlp_norm: Name,
    pub(crate) gate: Name,
    pub(crate) up: Name,
    pub(crate) down: Name,
    /// Of queries, where they are normalized.
    pub(crate) q_norm: Name,
    /// Of keys, likewise.
    pub(crate) k_norm: Name,
    /// Whether GGUF files reorder the rows of q and k for a rotation of neighbouring channels (llama.cpp's NORM), where
    /// the decoder rotates channel i with i + D/2.
    pub(crate) gguf_interleaves_heads: bool,
}

impl TensorNames {
    /// Hugging Face's name of a module in a layer.
    pub(crate) fn in_layer(&self, index: usize, module: &Name) -> String {
        format!("{}.{index}.{}", self.layers.hf, module.hf)
    }

    /// Whether Hugging Face's `name` is that of a tensor of `module` in some layer.
    pub(crate) fn is_of(&self, name: &str, module: &Name) -> bool {
        self.split(name).is_some_and(|(_, found, _)| found == module.hf)
    }

    /// GGUF's name of a tensor, by Hugging Face's.
    pub(crate) fn gguf(&self, name: &str) -> Option<String> {
        if let Some((layer, module, kind)) = self.split(name) {
            let modules = [
                &self.attention_norm,
                &self.q,
                &self.k,
                &self.v,
                &self.o,
                &self.mlp_norm,
                &self.gate,
                &self.up,
                &self.down,
                &self.q_norm,
                &self.k_norm,
            ];
            let module = modules.into_iter().find(|known| known.hf == module)?.gguf;
            return Some(format!("{}.{layer}.{module}.{kind}", self.layers.gguf));
        }
        let (module, kind) = name.rsplit_once('.')?;
        let modules = [&self.embeddings, &self.norm, &self.head];
        let module = modules.into_iter().find(|known| known.hf == module)?.gguf;
        Some(format!("{module}.{kind}"))
    }

    /// Layer, module and kind (weight or bias) of a layer's tensor, by Hugging Face's name.
    fn split<'a>(&self, name: &'a str) -> Option<(&'a str, &'a str, &'a str)> {
        let (layer, rest) = name.strip_prefix(self.layers.hf)?.strip_prefix('.')?.split_once('.')?;
        let (module, kind) = rest.rsplit_once('.')?;
        Some((layer, module, kind))
    }
}

#[cfg(test)]
mod tests {
    use super::super::llama::TENSORS;

    #[test]
    fn names_are_those_of_llama_cpp() {
        let name = |name| TENSORS.gguf(name).unwrap();
        assert_eq!(name("model.layers.11.self_attn.o_proj.weight"), "blk.11.attn_output.weight");
        assert_eq!(name("model.layers.0.mlp.down_proj.bias"), "blk.0.ffn_down.bias");
        assert_eq!(name("lm_head.weight"), "output.weight");
        assert_eq!(TENSORS.gguf("model.layers.0.self_attn.rotary_emb.inv_freq"), None);
    }

    #[test]
    fn a_module_is_known_in_every_layer_and_by_all_its_tensors() {
        let name = TENSORS.in_layer(3, &TENSORS.q);
        assert_eq!(name, "model.layers.3.self_attn.q_proj");
        assert!(TENSORS.is_of(&format!("{name}.weight"), &TENSORS.q));
        assert!(TENSORS.is_of(&format!("{name}.bias"), &TENSORS.q));
        assert!(!TENSORS.is_of(&format!("{name}.weight"), &TENSORS.k));
    }
}
