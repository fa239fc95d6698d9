//! An answer on its way to whoever asked, part by part.

use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::{
    super::{MORE, Part, WHOLE},
    BETWEEN_LOOKS, Reading, Stop,
};
use crate::{
    db::operator::readings::{self, Taken},
    vault::Sealer,
};

/// Bytes of a part of an answer.
const PART: usize = 256 * 1024;
/// For so long nothing is taken of an answer: its place is others' then.
const UNTIL_TAKEN: Duration = Duration::from_secs(5);
/// So long in all a worker waits for one asker while others wait for their place: whoever takes a part now and then does not keep it.
const IN_ALL: Duration = Duration::from_secs(10);

/// The parts of an answer, sealed to whoever asked.
pub(super) struct Parts<'a> {
    pub(super) reading: &'a Reading,
    pub(super) sealer: &'a Sealer,
    pub(super) number: i32,
    /// Waited for the asker so far.
    pub(super) waited: Duration,
}

impl Parts<'_> {
    /// In pieces, each when the asker has room for it.
    pub(super) async fn put(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        for piece in bytes.chunks(PART).chain(bytes.is_empty().then_some(bytes)) {
            let mut marked = Zeroizing::new(Vec::with_capacity(piece.len() + 1));
            marked.push(MORE);
            marked.extend_from_slice(piece);
            self.piece(&marked).await?;
        }
        Ok(())
    }

    /// That this was all of it.
    pub(super) async fn end(&mut self) -> Result<(), Stop> {
        self.piece(&[WHOLE]).await
    }

    async fn piece(&mut self, piece: &[u8]) -> Result<(), Stop> {
        let Reading { engine, pool, held, .. } = self.reading;
        let mut hints = engine.hints.readings();
        self.number += 1;
        let part = Part::of(held.reading, held.take, self.number);
        let sealed = self.sealer.seal_bytes(&part.place(), piece);
        let since = Instant::now();
        hints.mark_unchanged();
        while !readings::put(pool, held, self.number, &sealed).await? {
            if since.elapsed() >= UNTIL_TAKEN {
                let Taken { reading, kind, asked_by, .. } = held;
                tracing::warn!(reading, kind, asked_by, "left, since its asker takes nothing of it");
                return Err(Stop::trouble(
                    "not_taken",
                    "Nothing of the answer was taken for 5 s, so the worker left it. Nothing was changed; ask again.",
                ));
            }
            self.make_way(since.elapsed()).await?;
            let _ = tokio::time::timeout(BETWEEN_LOOKS, hints.changed()).await;
            hints.mark_unchanged();
        }
        self.waited += since.elapsed();
        Ok(())
    }

    /// Leaves a slow asker where another waits for this place. Where nobody does, they may take their time.
    async fn make_way(&self, now: Duration) -> Result<(), Stop> {
        let Reading { pool, held, .. } = self.reading;
        if self.waited + now < IN_ALL || !readings::is_waited_for(pool, held).await? {
            return Ok(());
        }
        tracing::warn!(held.reading, held.kind, held.asked_by, "left, since its asker is slow and others wait");
        Err(Stop::trouble(
            "too_slow",
            "The answer was taken too slowly while others waited for the worker. Nothing was changed; ask again, from nearer to the database.",
        ))
    }
}
