//! What happens to rows of activations beside matrix products and attention.
pub(crate) mod rope;
pub(crate) mod rows;
