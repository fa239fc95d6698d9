mod private_postgres;
mod support;
