use rand::seq::{SliceRandom, index};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sparkv_device::{HeldQuery, QueryStatistic, View, observe, query_energy};
use sparkv_kernels::Format;

use crate::support::{dense_units, device, values};

/// By the definition, in the order that is promised.
fn energy(
    queries: &[&[f32]],
    head_dim: usize,
    group: usize,
    head: usize,
    statistic: QueryStatistic,
) -> Vec<f32> {
    let of = |channel: usize| {
        let mut squares = 0f32;
        for query in queries {
            let heads = (0..group).map(|index| query[(head * group + index) * head_dim + channel]);
            match statistic {
                QueryStatistic::Rms => squares = heads.fold(squares, |sum, q| sum + q * q),
                QueryStatistic::Mean => {
                    let mean = heads.fold(0f32, |sum, q| sum + q) / group as f32;
                    squares += mean * mean;
                }
            }
        }
        squares.sqrt()
    };
    (0..head_dim).map(of).collect()
}

#[test]
fn queries_are_held_and_their_energy_is_the_cpus() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    for (case, (head_dim, heads, group)) in
        [(64, 2, 4), (8, 3, 1), (40, 1, 3), (80, 2, 2), (128, 1, 7)].into_iter().enumerate()
    {
        let Some(device) = device(case as u64) else { return };
        let units = dense_units(head_dim, heads, Format::F16);
        let (row, rows, slots) = (heads * group * head_dim, 9, 7);
        let queries = values(&mut rng, rows * row);
        let mut observed = values(&mut rng, slots * row);
        let mut expected = observed.clone();
        let scale = 0.3;
        let held: Vec<HeldQuery> = index::sample(&mut rng, rows, 5)
            .iter()
            .zip(index::sample(&mut rng, slots, 5))
            .map(|(row, slot)| HeldQuery { row: row as u32, slot: slot as u32 })
            .collect();
        for query in &held {
            let from = &queries[query.row as usize * row..][..row];
            for (to, q) in expected[query.slot as usize * row..].iter_mut().zip(from) {
                *to = q * scale;
            }
        }
        let memory = [View::of_host(&queries), View::of_host_mut(&mut observed)];
        observe(&device, (&units, group), memory, scale, &held).unwrap();
        assert!(observed == expected, "case {case}");

        let mut order: Vec<u32> = (0..slots as u32).collect();
        order.shuffle(&mut rng);
        order.truncate(rng.random_range(0..=slots));
        let held: Vec<&[f32]> = order.iter().map(|slot| &observed[*slot as usize * row..][..row]).collect();
        for statistic in [QueryStatistic::Rms, QueryStatistic::Mean] {
            let mut found = vec![f32::NAN; heads * head_dim];
            let memory = [View::of_host(&observed), View::of_host_mut(&mut found)];
            query_energy(&device, (&units, group), memory, &order, statistic).unwrap();
            for (head, found) in found.chunks_exact(head_dim).enumerate() {
                assert_eq!(
                    found,
                    energy(&held, head_dim, group, head, statistic),
                    "case {case}, {statistic:?}"
                );
            }
        }
    }
}

#[test]
fn rows_and_slots_that_are_not_there_are_refused() {
    let Some(device) = device(0) else { return };
    let units = dense_units(8, 2, Format::F16);
    let queries = vec![1f32; 2 * 32];
    let mut observed = vec![0f32; 3 * 32];
    let mut hold = |held: &[(u32, u32)]| {
        let held: Vec<HeldQuery> = held.iter().map(|&(row, slot)| HeldQuery { row, slot }).collect();
        let memory = [View::of_host(&queries), View::of_host_mut(&mut observed)];
        observe(&device, (&units, 2), memory, 1.0, &held).is_ok()
    };
    assert!(hold(&[(1, 2), (1, 0)]));
    assert!(!hold(&[(2, 0)]) && !hold(&[(0, 3)]) && !hold(&[(0, 1), (1, 1)]) && !hold(&[(u32::MAX, 0)]));
    let read = View::of_host(&queries);
    let held = [HeldQuery { row: 0, slot: 0 }];
    assert!(observe(&device, (&units, 2), [read, read], 1.0, &held).is_err());
    let mut energy = [0f32; 16];
    let mut of = |slots: &[u32], room: usize| {
        let memory = [read, View::of_host_mut(&mut energy[..room])];
        query_energy(&device, (&units, 2), memory, slots, QueryStatistic::Rms).is_ok()
    };
    assert!(of(&[0, 1], 16) && !of(&[2], 16) && !of(&[0], 15));
}
