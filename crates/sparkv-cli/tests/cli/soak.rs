//! Clients without end, half of which vanish: run by hand, since it takes as long as it is told to.
//!
//! `SOAK_SECONDS=600 cargo test --release -p sparkv-cli --test cli soak -- --ignored --nocapture`

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use reqwest::Client;
use serde_json::json;

use crate::serve::Served;

const CLIENTS: u64 = 64;

const SETTINGS: [&str; 6] = [
    r#"{}"#,
    r#"{"preset": "quality"}"#,
    r#"{"preset": "balanced", "continues": true}"#,
    r#"{"preset": "aggressive"}"#,
    r#"{"eviction": {"policy": "streaming", "max_tokens": 120}}"#,
    r#"{"budget": "40%"}"#,
];

#[derive(Debug, Default)]
struct Counts {
    answered: AtomicUsize,
    vanished: AtomicUsize,
    turned_away: AtomicUsize,
}

/// Asks until the end, and goes away in the middle of every other answer.
async fn ask(url: String, seed: u64, end: Instant, counts: Arc<Counts>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let client = Client::new();
    while Instant::now() < end {
        let facts: usize = rng.random_range(1..40);
        let text: String = (0..facts).map(|fact| format!("The code of Anna is {fact}. ")).collect();
        let vanishes = rng.random_bool(0.5);
        let body = json!({
            "messages": [{ "role": "user", "content": format!("{text}What is the code of Anna?") }],
            "max_tokens": rng.random_range(1..80), "ignore_eos": true, "stream": rng.random_bool(0.7),
            "temperature": if rng.random_bool(0.5) { 0.0 } else { 0.8 },
            "kv_cache": serde_json::from_str::<serde_json::Value>(SETTINGS.choose(&mut rng).unwrap()).unwrap(),
        });
        let whole = async {
            let reply = client.post(format!("{url}/v1/chat/completions")).json(&body).send().await.unwrap();
            let status = reply.status();
            (status, reply.text().await.unwrap())
        };
        if vanishes {
            let patience = Duration::from_millis(rng.random_range(0..1500));
            if tokio::time::timeout(patience, whole).await.is_err() {
                counts.vanished.fetch_add(1, Ordering::Relaxed);
            }
            continue;
        }
        let (status, text) = whole.await;
        match status.as_u16() {
            200 => {
                assert!(!text.contains("\"error\""), "{text}");
                counts.answered.fetch_add(1, Ordering::Relaxed);
            }
            429 => {
                counts.turned_away.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..500))).await;
            }
            _ => panic!("{status}: {text}"),
        }
    }
}

async fn metric(url: &str, name: &str) -> f64 {
    let text = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes ten minutes"]
async fn clients_come_and_vanish_and_nothing_is_left_of_them() {
    let seconds: u64 = std::env::var("SOAK_SECONDS").map_or(600, |seconds| seconds.parse().unwrap());
    // Little enough that requests wait for it, give way, and push out what is kept.
    let server = Served::start(&["--kv-memory", "24MiB", "--max-queue", "40"]);
    let url = server.url().to_owned();
    let (begun, end) = (Instant::now(), Instant::now() + Duration::from_secs(seconds));
    let counts = Arc::new(Counts::default());
    let clients: Vec<_> =
        (0..CLIENTS).map(|seed| tokio::spawn(ask(url.clone(), seed, end, Arc::clone(&counts)))).collect();
    let mut resident = Vec::new();
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_secs(seconds.div_ceil(20))).await;
        let held = metric(&url, "sparkv_kv_cache_active_bytes").await
            + metric(&url, "sparkv_kv_cache_prefix_bytes").await;
        assert!(held <= f64::from(24 << 20), "{held}");
        resident.push(server.resident_bytes());
        println!(
            "{:4} s: {counts:?} {held} bytes held, {:?} resident",
            begun.elapsed().as_secs(),
            resident.last()
        );
    }
    for client in clients {
        client.await.unwrap();
    }
    let idle = Instant::now();
    while metric(&url, "sparkv_kv_cache_active_bytes").await > 0.0
        || metric(&url, "sparkv_requests_running").await > 0.0
        || metric(&url, "sparkv_requests_waiting").await > 0.0
    {
        assert!(idle.elapsed() < Duration::from_secs(10), "something is left at work");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("preemptions: {}", metric(&url, "sparkv_preemptions_total").await);
    println!("prefix hits: {}", metric(&url, "sparkv_prefix_cache_hits_total").await);
    // From a quarter of the time on, when all there is to be touched was.
    let (early, late) = (resident[resident.len() / 4], resident[resident.len() - 1]);
    assert!(late < early + early / 10, "resident memory grew: {resident:?}");
}
