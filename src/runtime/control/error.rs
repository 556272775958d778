//! A refused request: a status of the library's table, a text, and the HTTP code that goes with it.

use crate::config::StoreError;
use crate::runtime::rollout::RolloutError;
use crate::runtime::state_transfer::StateError;
use crate::{NodeError, Status};
use hyper::StatusCode;
use serde_json::{Value, json};

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{status}: {message}")]
pub struct ApiError {
    /// The status.
    pub status: Status,
    /// What is wrong, with the offending value.
    pub message: String,
}

impl ApiError {
    /// An error of this status.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// An argument that is refused.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::new(Status::InvalidArgument, message)
    }

    /// As the body of a response.
    pub fn to_json(&self) -> Value {
        json!({ "error": { "status": self.status.name(), "message": self.message } })
    }

    /// The HTTP code.
    pub fn http_code(&self) -> StatusCode {
        match self.status {
            Status::InvalidArgument | Status::Config | Status::BadVersion => {
                StatusCode::BAD_REQUEST
            }
            Status::NotFound => StatusCode::NOT_FOUND,
            Status::Busy | Status::AlreadyExists | Status::BadState => StatusCode::CONFLICT,
            Status::LimitReached => StatusCode::TOO_MANY_REQUESTS,
            Status::Timeout => StatusCode::REQUEST_TIMEOUT,
            Status::Unsupported => StatusCode::NOT_IMPLEMENTED,
            Status::Stopped => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<NodeError> for ApiError {
    fn from(error: NodeError) -> Self {
        Self::new(error.status(), error.to_string())
    }
}

impl From<RolloutError> for ApiError {
    fn from(error: RolloutError) -> Self {
        Self::new(error.status(), error.to_string())
    }
}

impl From<StateError> for ApiError {
    fn from(error: StateError) -> Self {
        Self::new(error.status(), error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::new(error.status(), error.to_string())
    }
}
