//! The parser of answers, as the fuzz targets call it.

use std::time::SystemTime;

use ::http::{HeaderMap, StatusCode};

use super::limits::MAX_BODY;
use super::wire::{Asked, ServerAnswer};
use crate::error::TokenError;
use crate::grant::Grant;

/// What was sent along, and must be seen nowhere.
pub(crate) const SECRET: &str = "s3cr3t-s3cr3t";

pub(crate) fn grant_answer(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Grant, TokenError> {
    answer(status, headers, body).token(Asked::Grant)
}

pub(crate) fn exchange_answer(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Grant, TokenError> {
    answer(status, headers, body).token(Asked::Exchange)
}

pub(crate) fn revocation_answer(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), TokenError> {
    answer(status, headers, body).revocation()
}

fn answer<'a>(status: StatusCode, headers: &'a HeaderMap, body: &'a [u8]) -> ServerAnswer<'a> {
    ServerAnswer {
        status,
        headers,
        body: (body.len() <= MAX_BODY).then_some(body),
        received: SystemTime::UNIX_EPOCH,
        secrets: &[SECRET],
        limits: &[],
        dpop: None,
        address: "https://as.example/token",
    }
}
