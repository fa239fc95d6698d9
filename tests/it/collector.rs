//! An OpenTelemetry collector as far as an exporter sees it: OTLP over HTTP, its protobuf decoded by the project's own definitions.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, http::HeaderMap, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{AnyValue, KeyValue, any_value::Value},
};
use prost::Message;
use tokio::net::TcpListener;

/// A span with what it came with, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedSpan {
    /// `service.instance.id` of its process.
    pub process: String,
    pub service: String,
    pub name: String,
    pub trace: String,
    pub span: String,
    /// Empty where it has none.
    pub parent: String,
    pub kind: i32,
    pub begun: u64,
    pub ended: u64,
    pub attributes: Vec<(String, String)>,
}

impl ReceivedSpan {
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Clone, Default)]
struct Kept {
    spans: Arc<Mutex<Vec<ReceivedSpan>>>,
    bytes: Arc<Mutex<Vec<u8>>>,
}

pub struct Collector {
    pub address: SocketAddr,
    kept: Kept,
}

impl Collector {
    pub async fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let kept = Kept::default();
        let ours = kept.clone();
        let take = post(async move |headers: HeaderMap, body: Bytes| {
            assert_eq!(headers["content-type"], "application/x-protobuf");
            ours.take(&body);
            ([("content-type", "application/x-protobuf")], ExportTraceServiceResponse::default().encode_to_vec())
        });
        let app = Router::new().route("/v1/traces", take);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Collector { address, kept }
    }

    /// What a process is told, so that it exports here, soon.
    pub fn environment(&self, process: &str) -> Vec<(&'static str, String)> {
        vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", self.address)),
            ("OTEL_RESOURCE_ATTRIBUTES", format!("service.instance.id={process}")),
            ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
        ]
    }

    pub fn spans(&self) -> Vec<ReceivedSpan> {
        self.kept.spans.lock().expect("the spans").clone()
    }

    /// Everything that was sent here, as it was sent.
    pub fn bytes(&self) -> Vec<u8> {
        self.kept.bytes.lock().expect("the bytes").clone()
    }
}

impl Kept {
    fn take(&self, body: &[u8]) {
        self.bytes.lock().expect("the bytes").extend_from_slice(body);
        let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
        let mut spans = self.spans.lock().expect("the spans");
        for resource in request.resource_spans {
            let of = attributes(resource.resource.map(|resource| resource.attributes).unwrap_or_default());
            let named = |name: &str| of.iter().find(|(key, _)| key == name).map(|(_, v)| v.clone()).unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                assert!(span.events.is_empty() && span.links.is_empty(), "only spans of ours are exported: {span:?}");
                spans.push(ReceivedSpan {
                    process: named("service.instance.id"),
                    service: named("service.name"),
                    name: span.name,
                    trace: hex::encode(span.trace_id),
                    span: hex::encode(span.span_id),
                    parent: hex::encode(span.parent_span_id),
                    kind: span.kind,
                    begun: span.start_time_unix_nano,
                    ended: span.end_time_unix_nano,
                    attributes: attributes(span.attributes),
                });
            }
        }
    }
}

fn attributes(pairs: Vec<KeyValue>) -> Vec<(String, String)> {
    let text = |value: AnyValue| match value.value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    pairs.into_iter().map(|pair| (pair.key, pair.value.map(text).unwrap_or_default())).collect()
}
