//! The export of spans to an OpenTelemetry collector: OTLP, protobuf over HTTP, where `OTEL_EXPORTER_OTLP_ENDPOINT` says.

use std::{
    cell::Cell,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use opentelemetry::{
    Context, KeyValue,
    trace::{
        Span as _, SpanBuilder, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
        TracerProvider,
    },
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{IdGenerator, RandomIdGenerator, SdkTracer, SdkTracerProvider},
};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::dynamic_filter_fn, registry::LookupSpan};

use super::Trace;
use crate::db::queue::claim::Claimed;

pub const STEP: &str = "noshi::step";
pub const CALL: &str = "noshi::call";

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Everything that is still to be sent.
pub struct Export(Option<SdkTracerProvider>);

impl Export {
    /// Sends what is left. The exporter blocks, so it is not waited for on a thread of the runtime.
    pub async fn finish(self) {
        if let Some(provider) = self.0 {
            // An error was logged by the exporter.
            let _ = tokio::task::spawn_blocking(move || provider.shutdown()).await;
        }
    }
}

/// What takes spans off this process; nothing where no endpoint is named. Of all that is traced it takes our steps and calls alone:
/// events and spans of libraries hold what is not ours to pass on.
pub fn layer<S>() -> anyhow::Result<(Option<impl Layer<S>>, Export)>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let named = |name| std::env::var_os(name).is_some_and(|endpoint| !endpoint.is_empty());
    if !["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"].into_iter().any(named) {
        return Ok((None, Export(None)));
    }
    // An error means that it is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let exporter = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary).build();
    let exporter = exporter.context("OTEL_EXPORTER_OTLP_ENDPOINT cannot be used")?;
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("noshi");
    }
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_id_generator(Ids(RandomIdGenerator::default()))
        .with_resource(resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build())
        .build();
    let tracer = provider.tracer("noshi");
    // There is one subscriber in a process, and it is made once.
    let _ = TRACER.set(tracer.clone());
    // Asked at every span, and never remembered: with `Targets`, whose answer is kept for good, spans of steps were lost in 8 of 14 runs of
    // a_gift_over_two_processes; with this, in none of 30. It seems that another library's look whether something is enabled, with
    // nothing after it, was taken for the answer about the next span on that thread.
    let ours = dynamic_filter_fn(|span, _| [STEP, CALL].contains(&span.target()));
    let layer = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_level(false)
        .with_target(false)
        .with_tracked_inactivity(false);
    Ok((Some(layer.with_filter(ours)), Export(Some(provider))))
}

/// Makes a step's span a child of its job's.
pub fn put_below(span: &Span, trace: &Trace) {
    // An error means that nothing is exported.
    let _ = span.set_parent(context(trace, trace.span));
}

fn context(trace: &Trace, span: [u8; 8]) -> Context {
    let flags = if trace.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let (id, span) = (TraceId::from_bytes(trace.id), SpanId::from_bytes(span));
    Context::new().with_remote_span_context(SpanContext::new(id, span, flags, true, TraceState::NONE))
}

/// The job's own span, once the job is over: from its request to now.
pub fn over(claimed: &Claimed, existed: Duration, outcome: &'static str, at: &str) {
    let Some(tracer) = TRACER.get() else { return };
    let trace = Trace::of(claimed);
    let now = SystemTime::now();
    let attributes = vec![
        KeyValue::new("job", claimed.id),
        KeyValue::new("kind", claimed.kind.clone()),
        KeyValue::new("at", at.to_owned()),
        KeyValue::new("outcome", outcome),
    ];
    let builder = SpanBuilder::from_name(format!("job {}", claimed.kind))
        .with_start_time(now.checked_sub(existed).unwrap_or(now))
        .with_attributes(attributes);
    let parent = trace.parent.map_or_else(Context::new, |parent| context(&trace, parent));
    GIVEN.set(Some((TraceId::from_bytes(trace.id), SpanId::from_bytes(trace.span))));
    let mut span = tracer.build_with_context(builder, &parent);
    GIVEN.set(None);
    span.end_with_timestamp(now);
}

thread_local! {
    /// The ids of the one span that is being made on this thread, where they are computed.
    static GIVEN: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
}

/// Random, but for the spans of jobs.
#[derive(Debug)]
struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        GIVEN.get().map_or_else(|| self.0.new_trace_id(), |(trace, _)| trace)
    }

    fn new_span_id(&self) -> SpanId {
        GIVEN.get().map_or_else(|| self.0.new_span_id(), |(_, span)| span)
    }
}
