//! The way of an answer to its caller: whole, slow, cut off, or never.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;

use super::{context::Inner, messages::Reply, wire::Caller};

/// A slow body takes about this long.
const SLOW: Duration = Duration::from_secs(1);
const SLOW_PIECES: u32 = 20;

/// What becomes of an answer on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Whole,
    Slow,
    Half,
    Reset,
    Hang,
}

impl How {
    /// No answer reaches the caller.
    pub fn lost(self) -> bool {
        matches!(self, How::Reset | How::Hang)
    }
}

pub async fn deliver(inner: &Inner, caller: &Caller, reply: Option<Reply>, how: How) -> Response {
    let Some(reply) = reply.filter(|_| !how.lost()) else {
        if how == How::Hang {
            // A client that gives up closes the connection, which ends this future.
            tokio::select! {
                () = tokio::time::sleep(inner.config.hang) => {}
                () = inner.closed() => {}
            }
        }
        caller.reset();
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let length = reply.body.len();
    let body = match how {
        How::Slow => slowly(reply.body),
        How::Half => {
            caller.cut(length / 2);
            Body::from(reply.body)
        }
        How::Whole | How::Reset | How::Hang => Body::from(reply.body),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    headers.insert(header::CONTENT_LENGTH, length.into());
    if let Some(error_type) = reply.error_type {
        headers.insert("x-amzn-errortype", HeaderValue::from_static(error_type));
    }
    if let Some(after) = reply.retry_after.and_then(|after| HeaderValue::try_from(after).ok()) {
        headers.insert(header::RETRY_AFTER, after);
    }
    response
}

/// The body in pieces, with pauses between them.
fn slowly(body: Vec<u8>) -> Body {
    let size = body.len().div_ceil(SLOW_PIECES as usize).max(1);
    let pieces: Vec<Vec<u8>> = body.chunks(size).map(<[u8]>::to_vec).collect();
    Body::from_stream(stream::unfold(pieces.into_iter(), |mut pieces| async {
        let piece = pieces.next()?;
        tokio::time::sleep(SLOW / SLOW_PIECES).await;
        Some((Ok::<_, Infallible>(piece), pieces))
    }))
}
