mod dump;
mod engine;
mod fleet;
mod intake;
mod lanes;
mod private_postgres;
mod processes;
mod support;
