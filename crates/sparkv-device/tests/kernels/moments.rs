use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use sparkv_device::{MOMENTS, Places, RowPlace, moments, moments_scratch};
use sparkv_kernels::{Format, Side};

use crate::support::{bytes_of, dense_pool, dense_row, dense_units, device, scattered};

/// Sums in pieces, as the CPU's cache has them.
fn mean(rows: &[Vec<f32>], term: impl Fn(f32, usize) -> f32) -> Vec<f32> {
    let channels = rows.first().map_or(0, Vec::len);
    let of = |channel: usize| {
        let mut all = 0f32;
        for piece in rows.chunks(256) {
            all += piece.iter().fold(0f32, |sum, row| sum + term(row[channel], channel));
        }
        all / rows.len() as f32
    };
    (0..channels).map(of).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn moments_are_those_of_the_rows_in_the_order_that_is_promised() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    for (case, (head_dim, heads, format, runs, rows)) in [
        (64, 2, Format::F16, &[300, 40, 7][..], 330),
        (8, 3, Format::F32, &[513, 16], 513),
        (40, 1, Format::F16, &[20], 1),
        (80, 2, Format::F32, &[100, 200], 256),
        (128, 1, Format::F16, &[33, 17], 50),
    ]
    .into_iter()
    .enumerate()
    {
        let Some(device) = device(case as u64) else { return };
        let units = dense_units(head_dim, heads, format);
        let stored = scattered(&units, 1, runs);
        let (pool, _) = dense_pool(&mut rng, &device, &units, &stored);
        let bytes = bytes_of(&device, &pool);
        let mut draw = || -> Vec<RowPlace> {
            index::sample(&mut rng, stored.len(), rows).iter().map(|index| stored[index]).collect()
        };
        let (same, lists) = (draw(), (0..heads).map(|_| draw()).collect::<Vec<_>>());
        for (places, deviations) in [(Places::Same(&same), true), (Places::PerHead(&lists), case % 2 == 0)] {
            let results = device.allocate(heads * MOMENTS * head_dim * 4).unwrap();
            device.upload(results.view(), &vec![0xff; results.bytes()]).unwrap();
            let scratch = device.allocate(moments_scratch(&units, rows)).unwrap();
            let memory = [results.view(), scratch.view()];
            moments(&device, &units, pool.view().read_only(), places, memory, deviations).unwrap();
            let found = floats(&bytes_of(&device, &results));
            for (head, found) in found.chunks_exact(MOMENTS * head_dim).enumerate() {
                let list = if let Places::PerHead(lists) = places { &lists[head] } else { &same };
                let [keys, values] = [Side::Keys, Side::Values].map(|side| {
                    let row = |place: &RowPlace| dense_row(&units, &bytes, *place, head, side);
                    list.iter().map(row).collect::<Vec<_>>()
                });
                let key_mean = mean(&keys, |x, _| x);
                assert_eq!(found[..head_dim], key_mean, "case {case}");
                assert_eq!(found[2 * head_dim..], mean(&values, |x, _| x), "case {case}");
                let found = &found[head_dim..2 * head_dim];
                if deviations {
                    let centred = |x: f32, channel: usize| (x - key_mean[channel]) * (x - key_mean[channel]);
                    let deviation: Vec<f32> = mean(&keys, centred).into_iter().map(f32::sqrt).collect();
                    assert_eq!(found, deviation, "case {case}");
                } else {
                    assert!(found.iter().all(|left| left.to_bits() == u32::MAX));
                }
            }
        }
    }
}

#[test]
fn no_rows_have_means_of_zero() {
    let Some(device) = device(0) else { return };
    let units = dense_units(8, 2, Format::F16);
    let pool = device.allocate(units.bytes()).unwrap();
    let results = device.allocate(2 * MOMENTS * 8 * 4).unwrap();
    device.upload(results.view(), &vec![0xff; results.bytes()]).unwrap();
    let scratch = device.allocate(moments_scratch(&units, 0)).unwrap();
    let none = Places::Same(&[]);
    moments(&device, &units, pool.view(), none, [results.view(), scratch.view()], true).unwrap();
    assert!(bytes_of(&device, &results).iter().all(|byte| *byte == 0));
}

#[test]
fn memory_that_is_too_small_is_refused() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let Some(device) = device(0) else { return };
    let units = dense_units(8, 2, Format::F16);
    let stored = scattered(&units, 0, &[257]);
    let (pool, _) = dense_pool(&mut rng, &device, &units, &stored);
    let memory = device.allocate(2 * 2 * 2 * 8 * 4).unwrap();
    let rows = Places::Same(&stored);
    let with = |results: usize, scratch: usize| {
        let [results, scratch] = [results, scratch].map(|bytes| memory.view().part(0, bytes).unwrap());
        moments(&device, &units, pool.view(), rows, [results, scratch], true)
    };
    assert!(with(2 * 3 * 8 * 4, 255).is_err());
    assert!(with(2 * 3 * 8 * 4 - 1, 256).is_err());
    let far = [RowPlace { line: 1 << 20, row: 0 }];
    let views = [memory.view(), memory.view()];
    assert!(moments(&device, &units, pool.view(), Places::Same(&far), views, false).is_err());
}
