//! noshi, with the job `starter`.

fn main() -> std::process::ExitCode {
    starter::app().run()
}
