//! Events on their way to a subscriber: in order for one subject, each until its subscriber has taken it with 2xx,
//! possibly late and possibly twice, as such events are in the world. What has not arrived when the process ends is lost.

use std::sync::Arc;
use std::time::Duration;

use super::{
    context::Inner,
    faults::roll,
    ledger::{Event, Line},
    partner::Partner,
};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub type Sign = fn(&Inner, &str) -> Vec<(&'static str, String)>;

/// One event, ready to be posted.
pub struct Notice {
    pub partner: Partner,
    /// What the ledger calls the subject.
    pub trade: Option<String>,
    /// The event's kind and id, for the ledger.
    pub kind: &'static str,
    pub message: String,
    pub url: String,
    pub headers: Vec<(&'static str, String)>,
    /// Headers that each delivery has of its own.
    pub signed: Option<Sign>,
    pub body: String,
}

impl Inner {
    /// What just happened and is in the ledger is told to its subscriber once it is on disk.
    pub fn publish(self: &Arc<Self>, notices: Vec<Notice>) {
        if notices.is_empty() {
            return;
        }
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = inner.deliver_all(&notices) => {}
                () = inner.closed() => {}
            }
        });
    }

    async fn deliver_all(&self, notices: &[Notice]) {
        if self.ledger.flushed().await.is_err() {
            return;
        }
        for notice in notices {
            let mut publishing = self.publishing.subscribe();
            let Ok(ordered) = publishing.wait_for(|publishing| !publishing.held).await.map(|ordered| *ordered) else {
                return;
            };
            let luck = roll(self.config.seed, &[notice.partner.name(), "published", &notice.message]);
            let late = if self.config.faults { Duration::from_millis(luck % 5 * 20) } else { Duration::ZERO };
            tokio::time::sleep(Duration::from_millis(ordered.delay_ms) + late).await;
            let again = u32::from(self.config.faults && luck.is_multiple_of(7));
            for _ in 0..ordered.copies + again {
                self.deliver_one(notice).await;
            }
        }
    }

    async fn deliver_one(&self, notice: &Notice) {
        let mut pause = FIRST_PAUSE;
        loop {
            let mut request = self.http.post(&notice.url).body(notice.body.clone());
            let signed = notice.signed.map(|sign| sign(self, &notice.body)).unwrap_or_default();
            for (name, value) in notice.headers.iter().chain(&signed) {
                request = request.header(*name, value);
            }
            if request.send().await.is_ok_and(|answer| answer.status().is_success()) {
                self.ledger.append(Line {
                    event: Event::Published,
                    provider: Some(notice.partner),
                    trade: notice.trade.clone(),
                    reason: Some(notice.kind.to_owned()),
                    message: Some(notice.message.clone()),
                    ..Line::default()
                });
                return;
            }
            // The subscriber is away or refuses; nothing tells when it is back.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
