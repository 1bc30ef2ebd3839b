//! Clients that go away, and a line that is full.
use std::time::Duration;

use sparkv_engine::{Load, RequestError};
use sparkv_models::fake::{CHUNK, FakeConfig};

use crate::support::{answer, eventually, ids, ids_of, request, start};

#[test]
fn a_waiting_request_gives_up_its_place_at_once() {
    let fake = FakeConfig::default();
    let (engine, probe) = start(&fake, 1);
    probe.gate().close();
    let running = engine.submit(request(1, 10, 10)).unwrap();
    eventually("the first request runs", || probe.steps() == 1);
    let waiting = engine.submit(request(2, 10, 10)).unwrap();
    assert_eq!(engine.submit(request(3, 10, 10)).unwrap_err(), RequestError::QueueFull { max_queue: 1 });
    assert_eq!(engine.load(), Load { running: 1, waiting: 1 });
    drop(waiting);
    assert_eq!(engine.load(), Load { running: 1, waiting: 0 });
    let next = engine.submit(request(4, 10, 10)).unwrap();
    probe.gate().open();
    assert_eq!(ids(running), answer(&fake, &request(1, 10, 10)));
    assert_eq!(ids(next), answer(&fake, &request(4, 10, 10)));
    // Request 2 never reached the model: two prompts of two chunks, and the tokens.
    let tokens = answer(&fake, &request(1, 10, 10)).len() + answer(&fake, &request(4, 10, 10)).len();
    assert_eq!(probe.steps(), 2 * 10usize.div_ceil(CHUNK) + tokens - 2);
}

#[test]
fn the_bound_counts_those_that_wait() {
    // The thread may take up the first request at any moment; the number that fits must not depend on it.
    for wait in [0, 20] {
        let (engine, probe) = start(&FakeConfig::default(), 3);
        probe.gate().close();
        let taken: Vec<_> = (0..4)
            .map(|i| {
                std::thread::sleep(Duration::from_millis(wait));
                engine.submit(request(i, 10, 10)).unwrap()
            })
            .collect();
        let full = RequestError::QueueFull { max_queue: 3 };
        assert_eq!(engine.submit(request(9, 10, 10)).unwrap_err(), full);
        probe.gate().open();
        drop(taken);
        eventually("there is room again", || engine.submit(request(9, 10, 10)).is_ok());
    }
}

#[test]
fn a_prompt_is_given_up_between_two_chunks() {
    let (engine, probe) = start(&FakeConfig::default(), 4);
    probe.gate().close();
    let stream = engine.submit(request(1, 10 * CHUNK, 10)).unwrap();
    probe.gate().allow(2);
    eventually("the third chunk waits", || probe.steps() == 3);
    assert_eq!(probe.live_caches(), 1);
    drop(stream);
    probe.gate().allow(1);
    eventually("the cache is freed", || probe.live_caches() == 0 && engine.load() == Load::default());
    assert_eq!(probe.steps(), 3, "the prompt went on");
}

#[test]
fn an_answer_is_given_up_between_two_tokens() {
    let fake = FakeConfig::default();
    let (engine, probe) = start(&fake, 4);
    probe.gate().close();
    let mut stream = engine.submit(request(1, CHUNK, 100)).unwrap();
    let other = engine.submit(request(2, CHUNK, 10)).unwrap();
    probe.gate().allow(3);
    let expected = answer(&fake, &request(1, CHUNK, 100));
    for id in &expected[..3] {
        assert_eq!(ids_of(&[stream.blocking_next().unwrap().unwrap()]), [*id]);
    }
    eventually("the fourth step waits", || probe.steps() == 4);
    drop(stream);
    probe.gate().allow(1);
    // The next step is the other request's: its prompt.
    eventually("the other's prompt waits", || probe.steps() == 5);
    assert_eq!(probe.live_caches(), 1);
    assert_eq!(engine.load(), Load { running: 1, waiting: 0 });
    probe.gate().open();
    assert_eq!(ids(other), answer(&fake, &request(2, CHUNK, 10)));
    assert_eq!(probe.live_caches(), 0);
}
