//! What generators and linters expect beyond the types: closed sets as enums, limits, objects instead of boolean schemas, nothing unused.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// The longest id of a job, in bytes.
const LONGEST_ID: u64 = 200;

/// Closed sets, by the name of the field that holds one.
pub struct Sets {
    pub kinds: Vec<&'static str>,
    pub statuses: Vec<&'static str>,
    pub acts: Vec<&'static str>,
}

/// Makes the drawn description what callers' tools take without a complaint.
pub fn polish(document: &mut Value, sets: &Sets) {
    // Schemas of the types: those of jobs, not of batches or schedules, have the statuses of jobs.
    for (name, schema) in document["components"]["schemas"].as_object_mut().into_iter().flatten() {
        let of_jobs = [
            "NewJob",
            "NewJobs",
            "Enqueued",
            "EnqueuedMany",
            "Job",
            "JobDetail",
            "NewAct",
            "RequestedAct",
            "ScheduleDetail",
        ];
        let is_of_jobs = of_jobs.contains(&name.as_str());
        schema_of(schema, sets, is_of_jobs);
    }
    for (path, operations) in document["paths"].as_object_mut().into_iter().flatten() {
        for operation in operations.as_object_mut().into_iter().flatten().map(|(_, operation)| operation) {
            for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
                parameter_of(parameter, sets, path.contains("/jobs"));
            }
        }
    }
    remove_unused(document);
}

fn parameter_of(parameter: &mut Value, sets: &Sets, is_of_jobs: bool) {
    let name = parameter["name"].as_str().unwrap_or_default().to_owned();
    let is_path = parameter["in"] == "path";
    let schema = &mut parameter["schema"];
    // An optional parameter is left out; it is never null.
    not_null(schema);
    field(&name, schema, sets, is_of_jobs);
    if is_path && schema["type"] == "string" && schema.get("enum").is_none() {
        schema["minLength"] = 1.into();
    }
    let described = schema.as_object_mut().and_then(|schema| schema.remove("description"));
    if let Some(described) = described {
        parameter["description"] = described;
    }
}

fn schema_of(schema: &mut Value, sets: &Sets, is_of_jobs: bool) {
    for (name, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        if *property == Value::Bool(true) {
            *property = json!({});
        }
        field(name, property, sets, is_of_jobs);
        schema_of(property, sets, is_of_jobs);
    }
    if let Some(items) = schema.get_mut("items") {
        schema_of(items, sets, is_of_jobs);
    }
    // An object that takes everything says so by itself.
    if let Some(schema) = schema.as_object_mut()
        && schema.get("additionalProperties") == Some(&Value::Bool(true))
    {
        schema.remove("additionalProperties");
    }
}

/// What is known of a field by its name.
fn field(name: &str, schema: &mut Value, sets: &Sets, is_of_jobs: bool) {
    let is_text = schema["type"] == "string" || schema["type"].as_array().is_some_and(|types| types[0] == "string");
    match name {
        "args" if schema.get("type").is_none() => schema["type"] = "object".into(),
        "faults" if schema.get("type").is_none() => {
            schema["type"] = json!(["array", "null"]);
            schema["items"] = json!({"type": "object"});
        }
        "kind" if is_text && is_of_jobs => close(schema, &sets.kinds),
        "status" if is_text && is_of_jobs => close(schema, &sets.statuses),
        "act" if is_text => close(schema, &sets.acts),
        "may" => schema["items"] = json!({"type": "string", "enum": sets.acts}),
        "reason" if is_text => schema["minLength"] = 1.into(),
        "id" if is_text && is_of_jobs => {
            schema["minLength"] = 1.into();
            schema["maxLength"] = LONGEST_ID.into();
        }
        "priority" => {
            schema["minimum"] = 0.into();
            schema["maximum"] = 1.into();
        }
        "limit" => {
            let most = if is_of_jobs { 200 } else { 1000 };
            schema["minimum"] = 1.into();
            schema["maximum"] = most.into();
            schema["default"] = 50.into();
        }
        "digest" if is_text => schema["pattern"] = "^[0-9a-fA-F]{64}$".into(),
        _ => {}
    }
}

/// One of these; where it may be left out, or null.
fn close(schema: &mut Value, names: &[&'static str]) {
    let may_be_null = schema["type"].is_array();
    let mut all: Vec<Value> = names.iter().map(|name| Value::from(*name)).collect();
    all.extend(may_be_null.then_some(Value::Null));
    schema["enum"] = all.into();
}

fn not_null(schema: &mut Value) {
    let is_null = |it: &&Value| **it != "null";
    if let Some(only) = schema["type"].as_array().and_then(|types| types.iter().find(is_null)).cloned() {
        schema["type"] = only;
    }
    let choices = schema.get("anyOf").and_then(Value::as_array);
    if let Some(choice) = choices.and_then(|all| all.iter().find(|it| it["type"] != "null")).cloned() {
        *schema = choice;
    }
    if schema.get("default") == Some(&Value::Null) {
        schema.as_object_mut().map(|schema| schema.remove("default"));
    }
}

/// Types that were drawn for the fields of a query only stand nowhere else.
fn remove_unused(document: &mut Value) {
    loop {
        let mut used = BTreeSet::new();
        referred(&document["paths"], &mut used);
        let Some(schemas) = document["components"]["schemas"].as_object() else { return };
        for (name, schema) in schemas {
            let mut below = BTreeSet::new();
            referred(schema, &mut below);
            below.remove(name);
            used.extend(below);
        }
        let kept: Map<String, Value> =
            schemas.iter().filter(|(name, _)| used.contains(*name)).map(|(n, s)| (n.clone(), s.clone())).collect();
        if kept.len() == schemas.len() {
            return;
        }
        document["components"]["schemas"] = kept.into();
    }
}

fn referred(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(name) = fields.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next()) {
                names.insert(name.to_owned());
            }
            fields.values().for_each(|value| referred(value, names));
        }
        Value::Array(values) => values.iter().for_each(|value| referred(value, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
