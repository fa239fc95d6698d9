//! Configuration: one file, and above it the environment.

pub mod configuration;
mod effects;
pub mod environment;
pub mod keys;
pub mod process;
pub mod section;

pub use configuration::Settings;
pub use process::{ApiSettings, ConsoleSettings, WorkerSettings};
pub use section::Section;
