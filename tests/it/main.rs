mod engine;
mod fleet;
mod intake;
mod private_postgres;
mod processes;
mod support;
