mod engine;
mod intake;
mod private_postgres;
mod support;
