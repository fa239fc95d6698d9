mod engine;
mod private_postgres;
mod support;
