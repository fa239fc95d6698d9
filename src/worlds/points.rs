//! The world of the jobs of points: one operation each, in the transaction of its transition.

use noshi_jobs::{
    machine::Call,
    point_exchange,
    point_expiry::{self, Page},
    point_grant,
    point_reversal::{self, Returning},
    point_withdrawal,
    points::Booked,
};

use crate::{
    basics::chaos::crash_point,
    db::{domain::point_jobs, local::Local},
};

/// What one claimed job of points meets in our own database.
pub struct PointWorld {
    pub local: Local,
    pub job: i64,
}

/// Runs the operation of that name for this job.
macro_rules! booked {
    ($world:expr, $operation:ident) => {
        Box::pin(async move {
            crash_point("points.before");
            let job = $world.job;
            let booked = $world.local.run(async |connection| point_jobs::$operation(connection, job).await).await;
            crash_point("points.in_transaction");
            booked
        })
    };
}

impl point_grant::World for PointWorld {
    fn grant(&self) -> Call<'_, Booked> {
        booked!(self, grant)
    }
}

impl point_exchange::World for PointWorld {
    fn use_points(&self) -> Call<'_, Booked> {
        booked!(self, use_points)
    }
}

impl point_reversal::World for PointWorld {
    fn return_points(&self) -> Call<'_, Returning> {
        booked!(self, return_points)
    }
}

impl point_withdrawal::World for PointWorld {
    fn withdraw(&self) -> Call<'_, i64> {
        booked!(self, withdraw)
    }
}

impl point_expiry::World for PointWorld {
    fn expire_page(&self) -> Call<'_, Page> {
        booked!(self, expire_page)
    }
}
