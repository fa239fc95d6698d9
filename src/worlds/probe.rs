//! The world of the probe: nothing but what its arguments script.

use noshi_jobs::{
    machine::Call,
    probe::{self, Answer, TakenBack, Tally},
};

use crate::db::{domain::facts, local::Local};

/// The probe's world: nothing but what its arguments script.
pub struct ProbeWorld {
    pub local: Local,
    pub job: i64,
}

impl probe::World for ProbeWorld {
    fn call<'a>(&'a self, args: &'a probe::Args, turn: u32) -> Call<'a, Answer> {
        let answer = args.answers.get(turn as usize).copied().unwrap_or(Answer::Ok);
        Box::pin(async move {
            match answer {
                Answer::Panic if cfg!(debug_assertions) => panic!("the probe was told to panic"),
                Answer::Hang if cfg!(debug_assertions) => std::future::pending().await,
                Answer::Block if cfg!(debug_assertions) => {
                    tokio::task::block_in_place(|| std::thread::sleep(std::time::Duration::from_secs(30)));
                    Answer::Unknown
                }
                #[cfg(all(debug_assertions, feature = "lab"))]
                Answer::Die => crate::basics::chaos::die(),
                Answer::Ok
                | Answer::Refused
                | Answer::Busy
                | Answer::NotSent
                | Answer::Unknown
                | Answer::Ask
                | Answer::Panic
                | Answer::Hang
                | Answer::Block => answer,
                #[cfg(not(all(debug_assertions, feature = "lab")))]
                Answer::Die => answer,
            }
        })
    }

    fn tally<'a>(&'a self, name: &'a str) -> Call<'a, Tally> {
        Box::pin(async move {
            match self.local.run(async |connection| facts::tally(connection, name, self.job).await).await {
                true => Tally::Inserted,
                false => Tally::Taken,
            }
        })
    }

    fn take_back<'a>(&'a self, _: &'a probe::Args) -> Call<'a, TakenBack> {
        Box::pin(async { TakenBack::Ok })
    }
}
