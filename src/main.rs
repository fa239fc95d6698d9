//! The program with the built-in jobs, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    noshi::App::builtins().run()
}
