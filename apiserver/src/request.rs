//! From an HTTP request to what it asks for: which resource, which options, which form of answer.

pub mod body;
pub mod info;
pub mod negotiate;
pub mod options;

pub use info::RequestInfo;
pub use negotiate::Accepted;
pub use options::Query;

use crate::{
    auth::User,
    error::{ApiError, Result},
};
use axum::extract::Request;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// A request that was let in: what it is about, who makes it, and the request itself, untouched, so that a handler
/// that joins streams still finds its body and its upgrade.
pub struct Incoming {
    pub info: RequestInfo,
    pub user: Arc<User>,
    pub query: Query,
    pub request: Request,
    /// When the request's time is over.
    pub until: Instant,
}

impl Incoming {
    pub fn header(&self, name: http::HeaderName) -> Option<&str> {
        self.request.headers().get(name).and_then(|v| v.to_str().ok())
    }
    pub fn content_type(&self) -> Option<&str> {
        self.header(http::header::CONTENT_TYPE)
    }
    pub fn accepted(&self) -> Result<Accepted> {
        Accepted::of(self.request.headers(), &self.query, self.info.verb == "watch")
    }
    /// The whole body; taken out of the request.
    ///
    /// # Errors
    /// 413 for more than `limit` bytes: told before the first byte is read if the client says how many there are. 504 for a
    /// client that has not sent all when the request's time is over: nobody else would end the wait for it.
    pub async fn body(&mut self, limit: usize) -> Result<Bytes> {
        let too_large = || ApiError::TooLarge(format!("Request entity too large: limit is {limit}"));
        let announced = self.header(http::header::CONTENT_LENGTH).and_then(|v| v.parse::<u64>().ok());
        if announced.is_some_and(|n| n > limit as u64) {
            return Err(too_large());
        }
        let body = std::mem::take(self.request.body_mut());
        match timeout_at(self.until, Limited::new(body, limit).collect()).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(e)) if e.downcast_ref::<LengthLimitError>().is_some() => Err(too_large()),
            Ok(Err(e)) => Err(ApiError::BadRequest(format!("the body could not be read: {e}"))),
            Err(_) => Err(ApiError::timed_out()),
        }
    }
}
