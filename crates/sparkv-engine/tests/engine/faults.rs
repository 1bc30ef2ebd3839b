//! The n-th step fails, for every n: one request ends with an error, nobody else notices.
use sparkv_engine::{GenerateError, Load};
use sparkv_models::{
    ModelError,
    fake::{FakeConfig, Fault, FaultKind},
};

use crate::{answer, collect, ids, request, start};

/// Runs a few requests with a fault at `step`; tells whether it struck.
fn run(kind: FaultKind, step: usize) -> bool {
    let fake = FakeConfig { fault: Some(Fault { step, kind }), ..FakeConfig::default() };
    let (engine, probe) = start(&fake, 8);
    let requests = [request(1, 20, 4), request(2, 3, 6), request(3, 9, 1)];
    let streams: Vec<_> = requests.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
    let mut struck = 0;
    for (request, stream) in requests.iter().zip(streams) {
        match collect(stream) {
            Ok(tokens) => {
                let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
                assert_eq!(ids, answer(&fake, request), "{kind:?} at step {step} changed another's tokens");
            }
            Err(error) => {
                struck += 1;
                match kind {
                    FaultKind::Error => assert!(matches!(error, GenerateError::Model(ModelError::Candle(_)))),
                    FaultKind::Panic => {
                        assert_eq!(
                            error.to_string(),
                            format!("the computation panicked: fault at step {step}")
                        );
                    }
                    FaultKind::Nan => assert!(matches!(error, GenerateError::Logits)),
                }
            }
        }
        assert!(engine.is_alive(), "{kind:?} at step {step} ended the engine");
    }
    assert_eq!(engine.load(), Load::default());
    assert_eq!(probe.live_caches(), 0, "{kind:?} at step {step} leaked a cache");
    // And whoever comes later is served.
    let later = request(4, 5, 5);
    if probe.steps() >= step {
        assert_eq!(struck, 1, "{kind:?} at step {step}");
        assert_eq!(ids(engine.submit(later.clone()).unwrap()), answer(&fake, &later));
    }
    struck == 1
}

#[test]
fn a_fault_at_any_step_ends_one_request() {
    for kind in [FaultKind::Error, FaultKind::Panic, FaultKind::Nan] {
        let clean = (1..).find(|&step| !run(kind, step)).unwrap();
        // Prompts of 3, 1 and 2 chunks and 11 tokens, of which the first of each comes from its prompt.
        assert_eq!(clean, 3 + 1 + 2 + 11 - 3 + 1, "{kind:?}");
    }
}
