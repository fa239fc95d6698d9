//! noshi, with refunds.

fn main() -> std::process::ExitCode {
    refund::app().run()
}
