//! One trace for each job, over all its steps and processes, below its producer's.
//!
//! Which trace that is follows from the job's row, so processes agree without telling each other: the producer's (`traceparent`), or one
//! computed from the job's number. The job's own span is computed too; every step's is below it, and it is told when the job is over.
//!
//! Spans carry the job's number, kind and state, never its id, arguments or anything that a partner said. And no call to a partner
//! carries a `traceparent`: partners get no ids of ours but those that their contracts ask for.

#[cfg(feature = "otlp")]
mod otlp;

use sha2::{Digest, Sha256};
use tracing::Span;
#[cfg(feature = "otlp")]
use tracing::field::Empty;

use crate::db::queue::claim::Claimed;

/// The target of the spans that give log lines their job; they are not exported.
pub const IN_FLIGHT: &str = "noshi::in_flight";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    pub id: [u8; 16],
    /// The job's own span.
    pub span: [u8; 8],
    /// The producer's span, or that of the job which this one follows.
    pub parent: Option<[u8; 8]>,
    /// The producer keeps this trace; without a producer it is kept.
    pub sampled: bool,
}

impl Trace {
    pub fn of(claimed: &Claimed) -> Trace {
        Trace::from_row(claimed.id, &claimed.kind, &claimed.key, claimed.traceparent.as_deref())
    }

    fn from_row(job: i64, kind: &str, key: &str, traceparent: Option<&str>) -> Trace {
        let own = Sha256::new().chain_update(job.to_be_bytes()).chain_update(kind).chain_update([0]).chain_update(key);
        let own: [u8; 32] = own.finalize().into();
        let (head, rest) = own.split_first_chunk::<16>().expect("32 bytes hold 16");
        let span = *rest.first_chunk::<8>().expect("16 bytes hold 8");
        match traceparent.and_then(read) {
            Some((id, parent, sampled)) => Trace { id, span, parent: Some(parent), sampled },
            None => Trace { id: *head, span, parent: None, sampled: true },
        }
    }

    /// What a job that follows this one keeps.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-0{}", hex::encode(self.id), hex::encode(self.span), u8::from(self.sampled))
    }
}

/// As the database has checked it (`noshi.traceparent`).
fn read(traceparent: &str) -> Option<([u8; 16], [u8; 8], bool)> {
    let mut parts = traceparent.split('-').skip(1);
    let (mut id, mut parent) = ([0; 16], [0; 8]);
    hex::decode_to_slice(parts.next()?, &mut id).ok()?;
    hex::decode_to_slice(parts.next()?, &mut parent).ok()?;
    Some((id, parent, parts.next()? == "01"))
}

/// For as long as a worker has the job in its hands: what is logged meanwhile says which job it is about.
pub fn in_flight(claimed: &Claimed) -> Span {
    let trace = hex::encode(Trace::of(claimed).id);
    let Claimed { id, kind, at, lease, .. } = claimed;
    // At the level of errors, so that no filter that lets a line through takes its job away.
    tracing::error_span!(target: IN_FLIGHT, "job", job = id, kind, at, lease, trace)
}

/// The job in flight stands at another state now.
pub fn moved(at: &str) {
    Span::current().record("at", at);
}

/// A step, below its job's span.
#[cfg(feature = "otlp")]
pub fn step(claimed: &Claimed, at: impl FnOnce() -> String, tries: u32) -> Span {
    let at = at();
    let Claimed { id, kind, lease, lane, .. } = claimed;
    let name = format!("{kind} {at}");
    let span = tracing::error_span!(target: otlp::STEP, "step", otel.name = name, job = id, kind, at, lease, lane, tries, outcome = Empty);
    otlp::put_below(&span, &Trace::of(claimed));
    span
}

/// A call to a partner, below the step that makes it.
#[cfg(feature = "otlp")]
pub fn call(provider: &'static str, op: &'static str) -> Span {
    let name = format!("{provider} {op}");
    tracing::error_span!(target: otlp::CALL, "call", otel.name = name, otel.kind = "client", provider, op, outcome = Empty)
}

#[cfg(not(feature = "otlp"))]
pub fn step(_: &Claimed, _: impl FnOnce() -> String, _: u32) -> Span {
    Span::none()
}

#[cfg(not(feature = "otlp"))]
pub const fn call(_: &'static str, _: &'static str) -> Span {
    Span::none()
}

/// What came of a step or a call.
pub fn came_to(span: &Span, outcome: &'static str) {
    span.record("outcome", outcome);
}

#[cfg(feature = "otlp")]
pub use self::otlp::{Export, layer, over};

#[cfg(not(feature = "otlp"))]
pub use without::{Export, layer, over};

/// The same, for builds that export nothing.
#[cfg(not(feature = "otlp"))]
mod without {
    use std::time::Duration;

    use super::Claimed;

    pub struct Export;

    impl Export {
        pub async fn finish(self) {}
    }

    pub fn layer() -> anyhow::Result<(tracing_subscriber::layer::Identity, Export)> {
        let named = std::env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("OTEL_EXPORTER_OTLP_"));
        if named {
            crate::basics::terminal::note!(
                "noshi: this build exports no traces: OTEL_EXPORTER_OTLP_… is for builds with `--features otlp`"
            );
        }
        Ok((tracing_subscriber::layer::Identity::new(), Export))
    }

    pub const fn over(_: &Claimed, _: Duration, _: &'static str, _: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_has_the_trace_of_its_producer_or_one_of_its_own_everywhere() {
        let own = Trace::from_row(7, "probe", "p", None);
        assert_eq!(own, Trace::from_row(7, "probe", "p", None));
        for other in [Trace::from_row(8, "probe", "p", None), Trace::from_row(7, "prob", "ep", None)] {
            assert!(other.id != own.id && other.span != own.span);
        }
        let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let theirs = Trace::from_row(7, "probe", "p", Some(given));
        assert_eq!(hex::encode(theirs.id), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(theirs.parent.map(hex::encode).as_deref(), Some("b7ad6b7169203331"));
        assert!(!theirs.sampled && theirs.span == own.span && own.sampled && own.parent.is_none());
        // A job that follows is below this one's span, in the same trace.
        let next = Trace::from_row(9, "email", "e", Some(&theirs.traceparent()));
        assert_eq!((next.id, next.parent, next.sampled), (theirs.id, Some(theirs.span), false));
        assert_eq!(Trace::from_row(9, "email", "e", Some(&own.traceparent())).id, own.id);
    }
}
