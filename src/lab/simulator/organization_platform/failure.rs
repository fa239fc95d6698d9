//! What the platform refuses, and how it says so.

use serde_json::json;

use crate::lab::simulator::messages::Reply;

/// (HTTP status, code, message)
pub type Failure = (u16, &'static str, &'static str);
pub const TOKEN: Failure = (401, "unauthorized", "the token is wrong");
pub const NOWHERE: Failure = (404, "not_found", "there is no such resource");
pub const KEY: Failure = (422, "idempotency_key_missing", "Idempotency-Key must have 1 to 255 characters");
pub const BODY: Failure = (422, "body_refused", "public_id and name are required");
pub const PUBLIC_ID: Failure = (422, "public_id_refused", "this public_id cannot be");
pub const NAME: Failure = (422, "name_refused", "this name cannot be");
pub const REUSED: Failure = (422, "idempotency_key_reused", "the key was used with other content");
pub const TAKEN: Failure = (409, "public_id_taken", "a shop of the organization has this public_id");
pub const REFUSED: Failure = (403, "organization_refused", "the organization may not do this");
pub const IN_USE: Failure = (409, "shop_in_use", "the shop is in use");
pub const TOO_MANY: Failure = (429, "too_many_requests", "too many calls");
pub const AWAY: Failure = (503, "unavailable", "try again");
pub const BROKEN: Failure = (500, "internal", "internal error");

/// Answers that a key remembers.
pub const FINAL: [Failure; 4] = [PUBLIC_ID, NAME, TAKEN, REFUSED];

pub fn fail((status, code, message): Failure) -> Reply {
    Reply::json(status, &json!({"code": code, "message": message}))
}
