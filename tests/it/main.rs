mod dump;
mod engine;
mod fleet;
mod private_postgres;
mod processes;
mod support;
