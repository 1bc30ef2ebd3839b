//! The n-th step fails, for every n; and a request that fails whenever it runs. Whoever is not at fault is served.
use std::num::NonZeroUsize;

use sparkv_engine::{EngineConfig, GenerateError, Load, core::TokenRequest};
use sparkv_models::{
    ModelError,
    fake::{BOS, FakeConfig, Fault, FaultAt, FaultKind},
};

use crate::support::{answer, collect, config, ids, ids_of, request, start_with};

const KINDS: [FaultKind; 3] = [FaultKind::Error, FaultKind::Panic, FaultKind::Nan];

fn check(error: &GenerateError, kind: FaultKind) {
    match kind {
        FaultKind::Error => assert!(matches!(error, GenerateError::Model(ModelError::Candle(_)))),
        FaultKind::Panic => {
            assert!(matches!(error, GenerateError::Panicked(text) if text.contains("fault at")))
        }
        FaultKind::Nan => assert!(matches!(error, GenerateError::Logits)),
    }
}

/// Runs a few requests with a fault at `step`; tells whether the model came that far, and how many failed.
fn run(kind: FaultKind, step: usize, at_once: usize) -> (bool, usize) {
    let fault = Fault { at: FaultAt::Step(step), kind };
    let fake = FakeConfig { fault: Some(fault), ..FakeConfig::default() };
    let max_running = NonZeroUsize::new(at_once).unwrap();
    let (engine, probe) = start_with(&fake, EngineConfig { max_running, ..config(8) });
    // All come before the first runs.
    probe.gate().close();
    let requests = [request(1, 20, 4), request(2, 3, 6), request(3, 9, 1)];
    let streams: Vec<_> = requests.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
    probe.gate().open();
    let mut failed = 0;
    for (request, stream) in requests.iter().zip(streams) {
        match collect(stream) {
            Ok(tokens) => {
                let ids: Vec<u32> = ids_of(&tokens);
                assert_eq!(ids, answer(&fake, request), "{kind:?} at step {step} changed another's tokens");
            }
            Err(error) => {
                failed += 1;
                check(&error, kind);
            }
        }
        assert!(engine.is_alive(), "{kind:?} at step {step} ended the engine");
    }
    assert_eq!(engine.load(), Load::default());
    assert_eq!((probe.live_caches(), probe.held_bytes()), (0, 0), "{kind:?} at step {step} leaked a cache");
    // And whoever comes later is served.
    let later = request(4, 5, 5);
    let struck = probe.steps() >= step;
    if struck {
        assert_eq!(ids(engine.submit(later.clone()).unwrap()), answer(&fake, &later));
    }
    (struck, failed)
}

#[test]
fn a_fault_at_any_step_ends_the_request_that_is_alone() {
    for kind in KINDS {
        let clean = (1..)
            .find(|&step| {
                let (struck, failed) = run(kind, step, 1);
                assert_eq!(failed, usize::from(struck), "{kind:?} at step {step}");
                !struck
            })
            .unwrap();
        // Prompts of 3, 1 and 2 chunks and 11 tokens, of which the first of each comes from its prompt.
        assert_eq!(clean, 3 + 1 + 2 + 11 - 3 + 1, "{kind:?}");
    }
}

#[test]
fn a_fault_in_a_batch_that_does_not_come_again_ends_nobody() {
    for kind in KINDS {
        let mut survived = 0;
        for step in 1.. {
            let (struck, failed) = run(kind, step, 8);
            // Logits that are no numbers are one sequence's own.
            assert!(failed <= 1 && (struck || failed == 0), "{kind:?} at step {step}: {failed}");
            survived += usize::from(struck && failed == 0);
            if !struck {
                break;
            }
        }
        assert!(kind == FaultKind::Nan || survived > 3, "{kind:?}: {survived}");
    }
}

/// It fails in every batch, wherever in its prompt the fault is.
#[test]
fn the_one_at_fault_ends_and_the_others_go_on() {
    for kind in KINDS {
        for place in [0, 10, 29] {
            let fault = Fault { at: FaultAt::Token(BOS), kind };
            let fake = FakeConfig { fault: Some(fault), ..FakeConfig::default() };
            let max_running = NonZeroUsize::new(8).unwrap();
            let (engine, probe) = start_with(&fake, EngineConfig { max_running, ..config(8) });
            probe.gate().close();
            let mut requests: Vec<TokenRequest> =
                (0..5).map(|i| TokenRequest { ignore_eos: true, ..request(i, 30, 10) }).collect();
            requests[2].prompt[place] = BOS;
            let streams: Vec<_> = requests.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
            probe.gate().open();
            for (index, (request, stream)) in requests.iter().zip(streams).enumerate() {
                match collect(stream) {
                    Ok(tokens) => {
                        let ids: Vec<u32> = ids_of(&tokens);
                        assert_eq!(ids, answer(&fake, request), "{kind:?} at {place} changed {index}");
                    }
                    Err(error) => {
                        assert_eq!(index, 2, "{error}");
                        check(&error, kind);
                    }
                }
            }
            assert_eq!((engine.load(), probe.held_bytes()), (Load::default(), 0));
        }
    }
}
