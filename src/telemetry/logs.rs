//! Log lines: one event, one line, on standard error. JSON for programs, text for people.
//!
//! What is logged may quote others, so control characters never reach the line as they are, and no field is longer than it may be.
//! While a worker has a job in its hands, each line says which job that is: number, kind, state, lease, trace.

use std::{
    fmt::{self, Write as _},
    io::{IsTerminal, Write},
};

use chrono::{SecondsFormat, Utc};
use clap::ValueEnum;
use serde_json::{Map, Value};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use crate::{basics::text::moves, telemetry::traces::IN_FLIGHT};

/// Of one field; a statement of the database driver is the longest that is met.
const MAX_BYTES: usize = 2048;
const MAX_FIELDS: usize = 48;
/// What says which job a line is about stands beside its fields, not among them.
const OF_THE_JOB: [&str; 5] = ["job", "kind", "at", "lease", "trace"];

/// Libraries that hold keys and tokens, and whose own words are not to be trusted with them: the one that looks for AWS credentials warns with the
/// metadata service's token in clear. What they come to, we say ourselves.
const INDISCREET: [&str; 5] = ["reqsign", "aws_", "lettre", "h2", "hyper"];

/// Nothing that such a library writes reaches a log or a trace, at any level.
pub fn is_indiscreet(target: &str) -> bool {
    INDISCREET.iter().any(|library| target.starts_with(library))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For programs.
    Json,
    /// For people.
    Text,
}

impl Format {
    /// A terminal is read by a person; a file, a pipe or a journal by a program.
    pub fn usual() -> Format {
        if std::io::stderr().is_terminal() { Format::Text } else { Format::Json }
    }
}

/// Writes the lines, each in one piece.
pub struct Lines {
    format: Format,
    write: fn(&str),
}

/// The fields of a span or an event, in order, each once.
#[derive(Debug, Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let (name, has_room) = (field.name(), self.0.len() < MAX_FIELDS);
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.0.extend(has_room.then_some((name, value))),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = Capped::default();
        // Writing to it cannot fail; what formats itself badly is cut there.
        let _ = write!(text, "{value:?}");
        self.put(field, Value::String(text.end()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let mut text = Capped::default();
        let _ = text.write_str(value);
        self.put(field, Value::String(text.end()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

/// Keeps the beginning of what is written to it, and counts the rest.
#[derive(Default)]
struct Capped {
    text: String,
    left_out: usize,
}

impl fmt::Write for Capped {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let mut room = MAX_BYTES.saturating_sub(self.text.len()).min(more.len());
        if self.left_out > 0 {
            room = 0;
        }
        while !more.is_char_boundary(room) {
            room -= 1;
        }
        self.text.push_str(&more[..room]);
        self.left_out += more.len() - room;
        Ok(())
    }
}

impl Capped {
    fn end(mut self) -> String {
        if self.left_out > 0 {
            let _ = write!(self.text, "… and {} bytes more", self.left_out);
        }
        self.text
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match moves(c) {
            true => _ = write!(escaped, "\\u{:04x}", u32::from(c)),
            false => escaped.push(c),
        }
    }
    escaped
}

impl Lines {
    pub fn to_standard_error(format: Format) -> Lines {
        // Nobody can be told that nobody listens.
        Lines { format, write: |line| _ = std::io::stderr().lock().write_all(line.as_bytes()) }
    }

    fn line(&self, about: &Metadata<'_>, job: &Fields, event: Fields) -> String {
        let mut of_the_job = Map::new();
        for (name, value) in &job.0 {
            of_the_job.insert((*name).to_owned(), value.clone());
        }
        let mut fields = Map::new();
        for (name, value) in event.0 {
            // Where no job is in flight, an event may name one itself.
            let place = if OF_THE_JOB.contains(&name) && job.0.is_empty() { &mut of_the_job } else { &mut fields };
            place.insert(name.to_owned(), value);
        }
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
        match self.format {
            Format::Json => {
                let mut line = Map::new();
                line.insert("timestamp".to_owned(), time.into());
                line.insert("level".to_owned(), about.level().as_str().into());
                line.append(&mut of_the_job);
                line.insert("fields".to_owned(), fields.into());
                line.insert("target".to_owned(), about.target().into());
                // serde_json has escaped what JSON asks for; the rest of them stand inside of strings only.
                escaped(&Value::Object(line).to_string())
            }
            Format::Text => {
                let message = fields.remove("message").unwrap_or_default();
                let mut line = format!("{time} {:>5} {}", about.level(), message.as_str().unwrap_or_default());
                for (name, value) in fields.iter().chain(&of_the_job).filter(|(name, _)| *name != "trace") {
                    let _ = match value.as_str() {
                        Some(text) if text.contains(char::is_whitespace) => write!(line, " {name}={text:?}"),
                        Some(text) => write!(line, " {name}={text}"),
                        None => write!(line, " {name}={value}"),
                    };
                }
                escaped(&line)
            }
        }
    }
}

impl<S> Layer<S> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id).filter(|span| span.metadata().target() == IN_FLIGHT) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        // What comes by way of the `log` crate has its library's name in a field.
        let by_name =
            |(name, value): &(&str, Value)| *name == "log.target" && value.as_str().is_some_and(is_indiscreet);
        if is_indiscreet(event.metadata().target()) || fields.0.iter().any(by_name) {
            return;
        }
        let in_flight =
            context.event_scope(event).into_iter().flatten().find(|span| span.metadata().target() == IN_FLIGHT);
        let mut line = match &in_flight {
            Some(span) => {
                self.line(event.metadata(), span.extensions().get::<Fields>().unwrap_or(&Fields::default()), fields)
            }
            None => self.line(event.metadata(), &Fields::default(), fields),
        };
        line.push('\n');
        (self.write)(&line);
    }
}

#[cfg(test)]
mod tests;
