//! What people read and ask for, over HTTP and on the command line.

pub mod api;
pub mod audit;
pub mod doctor;
pub mod jobs;
pub mod proposals;
pub mod readings;
pub mod reconcile;
pub mod redrive;
pub mod restore;
pub mod snapshot;
pub mod stand;
pub mod tokens;
