//! What other systems tell us: changes of shops, and what became of mails.

pub mod organization;
pub mod ses;
pub mod sns;
