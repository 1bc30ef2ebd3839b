//! From a checked body to its response, the same for every endpoint.

use axum::Json;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::error::ApiError;
use crate::generation::instrumented::InstrumentedEvents;
use crate::generation::reply::{Answers, Delivery, Reply, collect, streamed};
use crate::generation::validate::Checked;
use crate::generation::wire::Piece;

/// Has the engine generate what a body asks for, and writes it; `reply` is made when the answers are on their way.
///
/// # Errors
/// If the engine refuses, or generating fails and nothing was sent; once a stream runs, errors are part of it.
pub(crate) async fn answer<R: Reply>(
    app: &App,
    checked: Checked,
    reply: impl FnOnce(&[InstrumentedEvents]) -> R,
) -> Result<Response, ApiError> {
    let Checked { requests, delivery, parser } = checked;
    let events = app.generate(requests).await?;
    let reply = reply(&events);
    let answers = Answers { events, parser };
    match delivery {
        Delivery::Whole => {
            let (answers, usage) = collect(answers).await?;
            Ok(Json(reply.body(answers, usage)).into_response())
        }
        Delivery::Stream(_) => Ok(R::Piece::respond(streamed(answers, reply))),
    }
}
