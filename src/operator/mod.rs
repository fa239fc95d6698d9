//! What a person may do, from the state tables: acts on one job and on many, why a job is not moving, and what is sealed, opened for whoever may
//! see it.

pub mod acts;
pub mod doctor;
pub mod explain;
pub mod readings;
pub mod redrive;
