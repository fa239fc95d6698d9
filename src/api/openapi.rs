//! The description for callers, OpenAPI 3.1, drawn from the routes and the types that they read and write.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use noshi_jobs::machine::Act;

use super::routes::{ROUTES, Route, Takes};
use crate::{
    basics::{
        kinds::{self, AnyKind},
        schemas,
    },
    db::queue::settle::Status,
};

mod polish;

/// What every route with a token may answer, and why.
const PROBLEMS: [(&str, &str); 9] = [
    ("400", "Malformed, deeper than 32 levels, or not whole."),
    ("401", "No token, or one that is unknown, expired or revoked."),
    ("403", "The token misses the scope (`scope`), or the act is not for its owner."),
    ("404", "There is nothing of that name."),
    ("409", "It is not possible as things stand; for ids, `differences` names each field that differs."),
    ("410", "It was, and is no more."),
    ("422", "A field (`field`) or line of the file (`faults`) will not do."),
    ("429", "The token's pace or the process's capacity is used up; see Retry-After."),
    ("503", "Not known whether it was done, or not now; send it again with the same id."),
];
const OF_BODIES: [(&str, &str); 3] = [
    ("408", "The body took too long."),
    ("413", "The body is too large."),
    ("415", "Another media type, or a Content-Encoding."),
];

pub fn answer() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document().to_string()).into_response()
}

/// The whole description.
pub fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for route in &ROUTES {
        let operation = operation(route, &mut generator);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.name().to_lowercase()] = operation;
    }
    let mut schemas = generator.take_definitions(true);
    schemas.insert("Problem".to_owned(), problem());
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "noshi",
            "version": "1",
            "description": "Jobs, batches and gifts. An id of a job is percent-encoded in a path. ops/http.md has more.",
            "contact": {"name": "Whoever operates this noshi"},
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:8080", "description": "Where `noshi api run` listens unless it is told otherwise."}],
        "tags": tags(),
        "paths": paths,
        "x-arguments": arguments(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "Made by `noshi token create`."}},
        },
    });
    let sets = polish::Sets {
        kinds: kinds::names().to_vec(),
        statuses: Status::ALL.map(Status::name).to_vec(),
        acts: Act::ALL.map(Act::name).to_vec(),
    };
    polish::polish(&mut document, &sets);
    document
}

/// What each kind that a producer may name is asked for with, as JSON Schema. Which one `args` has is told by `kind` beside it, which no schema can say.
fn arguments() -> Map<String, Value> {
    let of = |kind: &dyn AnyKind| Some((kind.kind().name().to_owned(), schemas::of(kind.fields()?)));
    kinds::all().iter().filter(|kind| kind.is_for_producers()).filter_map(|kind| of(&**kind)).collect()
}

/// What a route is about: the first part of its path.
fn tag(route: &Route) -> &'static str {
    route.path.trim_start_matches("/v1/").split('/').find(|part| !part.is_empty()).unwrap_or_default()
}

fn tags() -> Vec<Value> {
    let mut names: Vec<&str> = vec![];
    for name in ROUTES.iter().map(tag) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.into_iter().map(|name| json!({"name": name, "description": format!("What is below `{name}`.")})).collect()
}

/// Such as `get_jobs_by_kind_by_id`.
fn operation_id(route: &Route) -> String {
    let parts = route.path.trim_start_matches("/v1/").split('/').filter(|part| !part.is_empty());
    let words = parts.map(|part| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        Some(name) => format!("by_{name}"),
        None => part.replace('.', "_"),
    });
    std::iter::once(route.method.name().to_lowercase()).chain(words).collect::<Vec<_>>().join("_")
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457. Further members say more, as each status has them.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "field": {"type": "string"},
            "scope": {"type": "string"},
            "allowed": {"type": "array", "items": {"type": "string"}},
            "faults": {"type": "array", "items": {"$ref": "#/components/schemas/FileFault"}},
            "differences": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["field"],
                    "properties": {"field": {"type": "string"}, "recorded": {}, "now": {}, "row": {"type": "integer"}, "id": {"type": "string"}},
                },
            },
        },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "description": "Needs no token.",
        "tags": [tag(route)],
        "security": [],
    });
    let mut parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": of_path(name)}))
        .collect();
    if let Some(draw) = route.query {
        parameters.extend(query(draw, generator));
    }
    if route.path == "/v1/jobs" && matches!(route.takes, Takes::Json { .. }) {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "schema": {"type": "string"},
            "description": "The job's id, where the body has none. Both, and different: 422.",
        }));
    }
    if route.scope == Some("enqueue") {
        parameters.push(json!({
            "name": "traceparent", "in": "header", "schema": {"type": "string"},
            "description": "The trace that the jobs belong to, as W3C has it; ignored where it is malformed.",
        }));
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    match route.takes {
        Takes::Json { draw, .. } => {
            let schema = draw(generator);
            operation["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": schema}}});
        }
        Takes::Csv => {
            operation["requestBody"] =
                json!({"required": true, "content": {"text/csv": {"schema": {"type": "string", "format": "binary"}}}});
        }
        Takes::Nothing | Takes::File => {}
    }
    operation["responses"] = responses(route, generator);
    if let Some(scope) = route.scope {
        operation["security"] = json!([{"token": []}]);
        operation["description"] = format!("Needs a token with the scope `{scope}`.").into();
    }
    operation
}

fn of_path(name: &str) -> Value {
    match name {
        "batch" => json!({"type": "integer", "format": "int64", "minimum": 1}),
        _ => json!({"type": "string"}),
    }
}

fn responses(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let (status, draw) = route.answers;
    let content = match (draw, route.takes) {
        (Some(draw), _) => json!({"application/json": {"schema": draw(generator)}}),
        (None, Takes::File) => json!({"text/csv": {"schema": {"type": "string", "format": "binary"}}}),
        (None, Takes::Nothing | Takes::Json { .. } | Takes::Csv) => {
            json!({"application/json": {"schema": {"type": "object"}}})
        }
    };
    let mut responses = json!({status.to_string(): {"description": "Done.", "content": content}});
    let of_bodies = if route.takes.media_type().is_some() { &OF_BODIES[..] } else { &[] };
    let of_all = || PROBLEMS.iter().filter(|(status, _)| *status == "429");
    let problems: Vec<_> = if route.scope.is_some() { PROBLEMS.iter().collect() } else { of_all().collect() };
    for (status, why) in problems.into_iter().chain(of_bodies) {
        let schema = json!({"$ref": "#/components/schemas/Problem"});
        responses[*status] = json!({"description": why, "content": {"application/problem+json": {"schema": schema}}});
    }
    responses
}

/// The fields of a type as parameters of a query.
fn query(draw: super::routes::Draw, generator: &mut SchemaGenerator) -> Vec<Value> {
    let schema = draw(generator);
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    let drawn = generator.definitions().get(name).cloned().unwrap_or_default();
    let fields = drawn.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    fields.into_iter().map(|(name, schema)| json!({"name": name, "in": "query", "schema": schema})).collect()
}
