//! Row operations in Candle's own: they run on every device, and are what the faster forms are tested against.
use candle_core::{Result, Tensor};

use super::RowOps;
use super::rope::Rotation;

/// Any device.
#[derive(Debug)]
pub(super) struct Plain;

impl RowOps for Plain {
    fn rms_norm(&self, rows: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let divisor = (rows.sqr()?.mean_keepdim(1)? + f64::from(eps))?.sqrt()?;
        rows.broadcast_div(&divisor)?.broadcast_mul(weight)
    }

    fn add(&self, rows: &Tensor, other: &Tensor) -> Result<()> {
        replace(rows, &(rows + other)?)
    }

    fn silu_times(&self, gate: &Tensor, up: &Tensor) -> Result<()> {
        replace(gate, &(gate.silu()? * up)?)
    }

    fn rotate(&self, rows: &Tensor, rotation: &Rotation) -> Result<()> {
        let half = rotation.sin.dim(1)?;
        let (count, row) = rows.dims2()?;
        let heads = rows.reshape((count, row / (2 * half), 2 * half))?;
        let (first, second) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
        let (sin, cos) = (rotation.sin.unsqueeze(1)?, rotation.cos.unsqueeze(1)?);
        let turned = [
            (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?,
            (first.broadcast_mul(&sin)? + second.broadcast_mul(&cos)?)?,
        ];
        replace(rows, &Tensor::cat(&turned, 2)?.reshape(rows.shape())?)
    }
}

fn replace(rows: &Tensor, values: &Tensor) -> Result<()> {
    rows.slice_set(values, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::super::cpu::Cpu;
    use super::super::rope::Rope;
    use super::*;
    use crate::config::DecoderConfig;
    use candle_core::Device;

    /// One row, an odd number of rows, enough to be shared out among threads; rows of whole heads.
    const SHAPES: [(usize, usize); 3] = [(1, 40), (7, 32), (100, 1000)];

    /// Numbers in [-8, 8).
    fn numbers(rows: usize, row: usize, seed: usize) -> Tensor {
        let values: Vec<f32> =
            (0..rows * row).map(|i| ((i * 7919 + seed) % 4001) as f32 / 250.0 - 8.0).collect();
        Tensor::from_vec(values, (rows, row), &Device::Cpu).unwrap()
    }

    /// How many f32 lie between values of one place, at most.
    fn ulps(a: &Tensor, b: &Tensor) -> u32 {
        let bits = |t: &Tensor| {
            let values = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values.into_iter().map(|value| if value == 0.0 { 0 } else { value.to_bits() }).collect::<Vec<_>>()
        };
        bits(a).iter().zip(bits(b)).map(|(a, b)| a.abs_diff(b)).max().unwrap()
    }

    /// What `change` makes of a part of a tensor whose other rows it leaves alone.
    fn changed(rows: &Tensor, change: impl Fn(&Tensor)) -> Tensor {
        let count = rows.dim(0).unwrap();
        let all = Tensor::cat(&[rows, rows, rows], 0).unwrap();
        change(&all.narrow(0, count, count).unwrap());
        for untouched in [0, 2 * count] {
            assert_eq!(ulps(&all.narrow(0, untouched, count).unwrap(), rows), 0);
        }
        all.narrow(0, count, count).unwrap()
    }

    #[test]
    fn the_plain_form_adds_and_rotates_to_the_bits_of_the_fast_one() {
        // Heads of 8 channels.
        let config = r#"{"model_type": "llama", "vocab_size": 8, "hidden_size": 16, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}"#;
        let rope = Rope::new(&DecoderConfig::from_json(config).unwrap(), &Device::Cpu, false).unwrap();
        for (rows, row) in SHAPES {
            let (x, y) = (numbers(rows, row, 1), numbers(rows, row, 2));
            let with = |ops: &dyn RowOps| changed(&x, |x| ops.add(x, &y).unwrap());
            assert_eq!(ulps(&with(&Plain), &with(&Cpu)), 0);
            let rotation = rope.at((0..rows).map(|index| 3 * index + 1)).unwrap();
            let with = |ops: &dyn RowOps| changed(&x, |x| ops.rotate(x, &rotation).unwrap());
            assert_eq!(ulps(&with(&Plain), &with(&Cpu)), 0);
            assert!(ulps(&with(&Cpu), &x) > 0);
        }
    }

    #[test]
    fn the_plain_form_norms_and_activates_within_a_few_bits_of_the_fast_one() {
        for (rows, row) in SHAPES {
            let (x, y) = (numbers(rows, row, 1), numbers(rows, row, 2));
            let weight = numbers(1, row, 3).squeeze(0).unwrap();
            // Candle adds the squares in several sums at once, and multiplies by 1 / row.
            let norm = |ops: &dyn RowOps| ops.rms_norm(&x, &weight, 1e-5).unwrap();
            let off = ulps(&norm(&Plain), &norm(&Cpu));
            assert!(off <= 16, "{rows} x {row}: {off}");
            // The fast form has an exponential function of its own, within 2e-7.
            let silu = |ops: &dyn RowOps| changed(&x, |x| ops.silu_times(x, &y).unwrap());
            let off = ulps(&silu(&Plain), &silu(&Cpu));
            assert!(off <= 6, "{rows} x {row}: {off}");
        }
    }
}
