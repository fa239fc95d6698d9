//! The commands of the laboratory. A build without it, such as the shipped image, says so.

#[cfg(feature = "lab")]
pub use crate::lab::{bench, demo, dev, effects, simulator, starter};
#[cfg(not(feature = "lab"))]
pub use absent::{bench, demo, dev, effects, simulator, starter};

#[cfg(not(feature = "lab"))]
mod absent {
    use std::ffi::OsString;

    use anyhow::bail;
    use clap::Args;

    /// Whatever is said to it.
    #[derive(Args)]
    #[command(hide = true, disable_help_flag = true)]
    pub struct Anything {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        words: Vec<OsString>,
    }

    fn absent<T>(command: &str) -> anyhow::Result<T> {
        bail!(
            "this build has no `noshi {command}`: it was made without the laboratory (Cargo's feature `lab`), as what serves in earnest is; \
             build one with `cargo build --release --bin noshi`, and try things on a machine of your own"
        )
    }

    pub mod demo {
        pub use super::Anything as DemoArgs;

        #[expect(dead_code, reason = "it ends before it begins")]
        pub enum End {
            Sound,
            Interrupted,
        }

        pub async fn run(_: DemoArgs, _: bool, _: impl Future<Output = ()>) -> anyhow::Result<End> {
            super::absent("demo")
        }
    }

    pub mod bench {
        pub use super::Anything as BenchArgs;

        pub async fn run(_: BenchArgs) -> anyhow::Result<()> {
            super::absent("bench")
        }
    }

    pub mod dev {
        pub use super::Anything as DevArgs;

        pub async fn run(_: DevArgs, _: impl Future<Output = ()>) -> anyhow::Result<()> {
            super::absent("dev")
        }
    }

    pub mod effects {
        pub use super::Anything as TestArgs;
        use crate::partners::effects::Effects;

        pub async fn run(_: TestArgs, _: Effects, _: bool) -> anyhow::Result<()> {
            super::absent("effect test")
        }
    }

    pub mod starter {
        pub use super::Anything as NewArgs;

        pub fn run(_: &NewArgs) -> anyhow::Result<String> {
            super::absent("new")
        }
    }

    pub mod simulator {
        pub use super::Anything as SimulateArgs;

        pub async fn run(_: SimulateArgs) -> anyhow::Result<()> {
            super::absent("simulate")
        }
    }
}
