mod crash;
mod dump;
mod engine;
mod fleet;
mod lanes;
mod private_postgres;
mod processes;
mod support;
