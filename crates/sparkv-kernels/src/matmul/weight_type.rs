//! The types that weights are stored in.

/// How weights are stored: GGUF's types, whose names these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// 32 bits a weight.
    F32,
    /// 16 bits a weight.
    F16,
    /// 16 bits a weight.
    Bf16,
    /// 8 bits and an f16 scale for 32.
    Q8_0,
    /// 4 bits and an f16 scale for 32.
    Q4_0,
    /// 4 bits, an f16 scale and an f16 minimum for 32.
    Q4_1,
    /// 5 bits and an f16 scale for 32.
    Q5_0,
    /// 5 bits, an f16 scale and an f16 minimum for 32.
    Q5_1,
    /// 2 bits; 4 bits of scale and of minimum for 16, an f16 for 256 of either.
    Q2K,
    /// 3 bits; 6 bits of scale for 16, an f16 for 256 of them.
    Q3K,
    /// 4 bits; 6 bits of scale and of minimum for 32, an f16 for 256 of either.
    Q4K,
    /// 5 bits; 6 bits of scale and of minimum for 32, an f16 for 256 of either.
    Q5K,
    /// 6 bits; 8 bits of scale for 16, an f16 for 256 of them.
    Q6K,
}

impl WeightType {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Its name: `f32`, `q8_0`, `q4_k`, ...
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }

    /// Weights of a block, as files store them; rows are whole blocks.
    pub fn block_len(self) -> usize {
        match self.shape() {
            None => 1,
            Some(shape) => shape.block_len,
        }
    }

    /// Bytes of a block, as files store them.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Bytes of a row of this many weights, which are whole blocks, as files store it.
    pub fn row_bytes(self, columns: usize) -> usize {
        columns / self.block_len() * self.block_bytes()
    }

    /// Whether it is a number for each weight, without scales.
    pub fn is_dense(self) -> bool {
        self.shape().is_none()
    }

    /// What codes and scales there are; `None` for dense ones.
    pub(crate) const fn shape(self) -> Option<Shape> {
        Some(match self {
            Self::F32 | Self::F16 | Self::Bf16 => return None,
            Self::Q8_0 => Shape::of(8).less(7),
            Self::Q4_0 => Shape::of(4).less(3),
            Self::Q4_1 => Shape::of(4).with_minima(),
            Self::Q5_0 => Shape::of(5).less(4),
            Self::Q5_1 => Shape::of(5).with_minima(),
            Self::Q2K => Shape::of(2).with_minima().in_halves().of_256(),
            Self::Q3K => Shape::of(3).less(2).in_halves().of_256(),
            Self::Q4K => Shape::of(4).with_minima().of_256(),
            Self::Q5K => Shape::of(5).with_minima().of_256(),
            Self::Q6K => Shape::of(6).less(5).in_halves().of_256(),
        })
    }
}

/// Columns that a kernel takes at a time.
pub(crate) const COLUMNS: usize = 32;

/// Weights of the larger blocks.
pub(crate) const SUPER: usize = 256;

/// What 32 weights of a row are: codes, times a scale of all or of each half, less a minimum of the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Bits of a code.
    pub(crate) bits: usize,
    /// Scales for 32 weights: one, or one for each half.
    pub(crate) groups: usize,
    /// Whether there is a minimum beside each scale.
    pub(crate) has_min: bool,
    /// Weights of a block as files store it. In those of 256, scales are bytes, times an f16 of the block.
    pub(crate) block_len: usize,
    /// A code stands for itself less two to this power.
    pub(crate) offset: Option<u32>,
}

impl Shape {
    const fn of(bits: usize) -> Self {
        Self { bits, groups: 1, has_min: false, block_len: COLUMNS, offset: None }
    }

    const fn less(self, power: u32) -> Self {
        Self { offset: Some(power), ..self }
    }

    const fn with_minima(self) -> Self {
        Self { has_min: true, ..self }
    }

    const fn in_halves(self) -> Self {
        Self { groups: 2, ..self }
    }

    const fn of_256(self) -> Self {
        Self { block_len: SUPER, ..self }
    }

    /// Numbers of each kind that 32 weights have: scales, and minima.
    pub(crate) const fn kinds(self) -> usize {
        if self.has_min { 2 } else { 1 }
    }

    /// Whether scales are bytes, times an f16 of 256 weights.
    pub(crate) const fn is_super(self) -> bool {
        self.block_len == SUPER
    }
}
