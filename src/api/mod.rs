//! The interface over HTTP: its server, its routes, and what each of them does.

pub mod answer;
pub mod backend;
pub mod batches;
pub mod body;
pub mod gifts;
pub mod jobs;
pub mod openapi;
pub mod points;
pub mod proposals;
pub mod refusal;
pub mod router;
pub mod routes;
pub mod schedules;
pub mod server;
pub mod strict;
pub mod tokens;
pub mod webhooks;
