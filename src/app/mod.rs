//! The program: which jobs it has, what they call, which settings, pages and tables they bring. The only module that knows all of them.

mod builtins;
mod check;
mod program;
mod workers;

pub use program::{App, Begun};
pub use workers::{End, Opened, Worker};
