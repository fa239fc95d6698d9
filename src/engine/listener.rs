//! Hears what other processes and producers hint at.

use std::{sync::Arc, time::Duration};

use crate::{db, engine::Engine};

/// Listens for hints of other processes, for as long as the process lives.
pub async fn listen(url: String, engine: Arc<Engine>) {
    loop {
        if let Ok(mut listener) = db::pool::Listener::connect(&url, "noshi").await {
            engine.hints.all();
            // A lost connection loses hints, not jobs.
            while let Ok(hint) = listener.hear().await {
                match hint.payload() {
                    // It is about no lane.
                    "reading" => {
                        engine.hints.readings_changed();
                        continue;
                    }
                    "schedule" => engine.hints.schedules_changed(),
                    _ => {}
                }
                engine.hints.all();
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
