//! Which kernels there are, and what they are compiled for.

use sparkv_kernels::{Format, Layout};

/// The largest number of queries of a KV head that `attend` takes together.
pub const MAX_QUERIES: usize = 16;

/// The largest head that `attend_prompt` is for, and whose size it divides by [`MATRIX_ROWS`]: of larger ones, the sums of a tile
/// are more than registers hold.
pub const MAX_PROMPT_HEAD_DIM: usize = 256;

/// Rows of a product of matrix units: the queries, or twice as many, that `attend_prompt` takes together.
pub const MATRIX_ROWS: usize = 16;

/// Numbers that a module of kernels is compiled for; `kernels/cpu.h` has them in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Constants {
    /// HEAD_DIM
    pub head_dim: u32,
    /// QUERIES: of one KV head, that a kernel takes together.
    pub queries: u32,
    /// How keys are stored.
    pub keys: RowConstants,
    /// How values are stored.
    pub values: RowConstants,
}

/// How a side's rows are stored, as kernels want to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowConstants {
    /// KEY_FORMAT, VALUE_FORMAT
    pub format: u32,
    /// KEY_BITS, VALUE_BITS: of all channels, in rows of few bits; 0 where each set of channels has its own.
    pub bits: u32,
    /// KEY_KEPT, VALUE_KEPT: channels that packed rows keep.
    pub kept: u32,
}

impl RowConstants {
    /// Of rows of this layout. `allotted`: where each set of channels has bits of its own, whatever the layout says.
    pub fn of(layout: &Layout, allotted: bool) -> Self {
        let (format, bits, kept) = match layout.format() {
            Format::F32 => (0, 0, 0),
            Format::F16 => (1, 0, 0),
            Format::Int8 => (2, 8, 0),
            Format::Planes(widths) if !allotted => {
                (3, widths.of_all(layout.head_dim()).map_or(0, u32::from), 0)
            }
            Format::Planes(_) => (3, 0, 0),
            Format::Packed(packing) => (4, 8, packing.kept as u32),
        };
        Self { format, bits, kept }
    }
}

impl Constants {
    /// For kernels that know no rows: one module for all of them.
    pub const NONE: Self = {
        let rows = RowConstants { format: 0, bits: 0, kept: 0 };
        Self { head_dim: 8, queries: 1, keys: rows, values: rows }
    };

    /// For rows of these layouts, the keys of which may be `allotted` bits of their own ([`RowConstants::of`]).
    pub fn new(keys: &Layout, values: &Layout, allotted: bool, queries: usize) -> Self {
        Self {
            head_dim: keys.head_dim() as u32,
            queries: queries as u32,
            keys: RowConstants::of(keys, allotted),
            values: RowConstants::of(values, false),
        }
    }

    /// Names and values, in the order of `kernels/cpu.h`.
    pub fn named(&self) -> [(&'static str, u32); 8] {
        let Self { keys, values, .. } = self;
        [
            ("HEAD_DIM", self.head_dim),
            ("QUERIES", self.queries),
            ("KEY_FORMAT", keys.format),
            ("VALUE_FORMAT", values.format),
            ("KEY_BITS", keys.bits),
            ("VALUE_BITS", values.bits),
            ("KEY_KEPT", keys.kept),
            ("VALUE_KEPT", values.kept),
        ]
    }
}

/// A file of the kernels: its name and its text.
pub type Source = (&'static str, &'static str);

/// What goes before the kernels on CUDA.
pub const CUDA: Source = ("cuda.h", include_str!("../kernels/cuda.h"));
/// What goes before the kernels on Metal.
pub const METAL: Source = ("metal.h", include_str!("../kernels/metal.h"));

/// The kernels' text, in order: what every language has the same. A prefix goes before it.
pub const SOURCES: &[Source] = &[
    ("formats.inc", include_str!("../kernels/formats.inc")),
    ("tables.inc", include_str!("../kernels/tables.inc")),
    ("lanes.inc", include_str!("../kernels/lanes.inc")),
    ("append.inc", include_str!("../kernels/append.inc")),
    ("places.inc", include_str!("../kernels/places.inc")),
    ("copy.inc", include_str!("../kernels/copy.inc")),
    ("domains.inc", include_str!("../kernels/domains.inc")),
    ("codes.inc", include_str!("../kernels/codes.inc")),
    ("planes.inc", include_str!("../kernels/planes.inc")),
    ("packed.inc", include_str!("../kernels/packed.inc")),
    ("quantize.inc", include_str!("../kernels/quantize.inc")),
    ("moments.inc", include_str!("../kernels/moments.inc")),
    ("queries.inc", include_str!("../kernels/queries.inc")),
    ("move.inc", include_str!("../kernels/move.inc")),
    ("elementwise.inc", include_str!("../kernels/elementwise.inc")),
    ("top_k.inc", include_str!("../kernels/top_k.inc")),
    ("attention_rows.inc", include_str!("../kernels/attention_rows.inc")),
    ("attention_tile.inc", include_str!("../kernels/attention_tile.inc")),
    ("attention_queries.inc", include_str!("../kernels/attention_queries.inc")),
    ("attention.inc", include_str!("../kernels/attention.inc")),
    ("attention_prompt.inc", include_str!("../kernels/attention_prompt.inc")),
    ("merge.inc", include_str!("../kernels/merge.inc")),
    ("mass.inc", include_str!("../kernels/mass.inc")),
];

/// The text of a module for a GPU: its numbers, what a language has before the kernels, and the kernels. A compiler names the
/// lines of the files.
pub fn source(prefix: Source, constants: &Constants) -> String {
    let numbers = constants.named().map(|(name, value)| format!("#define {name} {value}\n")).concat();
    [prefix]
        .iter()
        .chain(SOURCES)
        .fold(numbers, |text, (file, code)| text + &format!("#line 1 \"{file}\"\n{code}\n"))
}

/// The names of all kernels.
pub fn names() -> impl Iterator<Item = &'static str> {
    let beginning = "KERNEL(";
    let name = move |line: &'static str| line.strip_prefix(beginning)?.split_once(')').map(|(name, _)| name);
    SOURCES.iter().flat_map(|(_, code)| code.lines()).filter_map(name)
}
