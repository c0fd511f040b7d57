//! The description of the API (OpenAPI 3.1), as it is served. A test makes it of the routes and of the types of
//! [`crate::control::protocol`], and `docs/api.md` of it; it fails when the files of `docs` say something else.

use axum::http::header;
use axum::response::{IntoResponse, Response};

const DESCRIPTION: &str = include_str!("../../../../docs/openapi.json");

pub(super) fn description() -> Response {
    ([(header::CONTENT_TYPE, "application/vnd.oai.openapi+json;version=3.1")], DESCRIPTION).into_response()
}

#[cfg(test)]
mod operations;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
