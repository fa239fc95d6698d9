//! A file of jobs of one's own: a column a field, by the names that the kind declares. All of it is asked for, or nothing.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::{
    Encoding, Fault, MAX_FAULTS,
    header::{Column, Faults, Header, is_shortened},
    lines::{Lines, Row},
};
use crate::basics::{
    kinds::AnyKind,
    requests::{Field, Holds, LONGEST_KEY, Presence},
    text,
};

/// One transaction holds them all.
pub const MAX_JOBS: usize = 100_000;
const ID: &str = "id";

/// What a file asks for.
pub struct Requests {
    /// Ids and arguments.
    pub rows: Vec<(String, Value)>,
    /// Where each stands.
    pub lines: Vec<u64>,
}

/// The columns of a kind; the sentence says why it has none.
pub fn columns(kind: &dyn AnyKind) -> Result<Vec<Column>, String> {
    let name = kind.kind().name();
    if !kind.is_own() {
        return Err(format!(
            "{name} is asked for by its own files, which somebody else approves, with `noshi batch submit`; a single one with --id and --args"
        ));
    }
    let column = |name, required, longest| Column { name, required, longest, example: "" };
    let mut columns = vec![];
    if kind.id_field().is_none() {
        columns.push(column(ID, true, LONGEST_KEY));
    }
    for Field { name, presence, holds } in kind.fields().unwrap_or_default() {
        let required = *presence == Presence::Needed;
        match is_a_cell(*holds) {
            true if *name == ID && kind.id_field().is_none() => {
                return Err(format!("{name} has a field `id`, and each job an id beside it: no column can be both"));
            }
            true => columns.push(column(name, required, usize::MAX)),
            false if required => {
                return Err(format!("`{name}` of {} is no text and no number, so no column can hold it", kind.kind()));
            }
            false => {}
        }
    }
    Ok(columns)
}

const fn is_a_cell(holds: Holds) -> bool {
    match holds {
        Holds::Id { .. } | Holds::NoAddress { .. } | Holds::Word { .. } | Holds::Text { .. } => true,
        Holds::Phone | Holds::Whole { .. } | Holds::Amount | Holds::OneOf(_) => true,
        Holds::Object(_) | Holds::Texts | Holds::Nothing | Holds::Sealed(_) | Holds::Contact => false,
    }
}

const fn is_a_number(holds: Holds) -> bool {
    matches!(holds, Holds::Whole { .. } | Holds::Amount)
}

/// Reads a whole file. Its faults, by line and column, where it has any.
pub fn read(
    kind: &dyn AnyKind,
    columns: &[Column],
    encoding: Encoding,
    input: impl BufRead,
) -> Result<Requests, Vec<Fault>> {
    let mut lines = Lines::new(input, encoding);
    let (mut requests, mut faults) = (Requests { rows: vec![], lines: vec![] }, vec![]);
    let header = match lines.next() {
        Some(Ok(first)) => Header::read(columns, &first, &mut faults),
        Some(Err(stopped)) => return Err(vec![stopped.fault]),
        None => None,
    };
    let Some(header) = header.filter(|_| faults.is_empty()) else {
        if faults.is_empty() {
            let sentence = "the file is empty; its first line must name the columns".to_owned();
            faults.push(Fault { line: 1, field: None, sentence });
        }
        return Err(faults);
    };
    while faults.len() < MAX_FAULTS {
        let row = match lines.next() {
            None => break,
            Some(Ok(row)) => row,
            Some(Err(stopped)) => {
                faults.push(stopped.fault);
                if stopped.for_good { break } else { continue }
            }
        };
        if let Some(job) = job(kind, &header, &row, &mut Faults::of(row.line, &mut faults)) {
            requests.rows.push(job);
            requests.lines.push(row.line);
        }
        if requests.rows.len() > MAX_JOBS {
            let sentence = format!("the file has more than {MAX_JOBS} rows; split it");
            faults.push(Fault { line: row.line, field: None, sentence });
            break;
        }
    }
    faults.extend(lines.contrary());
    if requests.rows.is_empty() && faults.is_empty() {
        faults.push(Fault { line: 1, field: None, sentence: "no row follows the header".to_owned() });
    }
    if faults.is_empty() { Ok(requests) } else { Err(faults) }
}

fn job(kind: &dyn AnyKind, header: &Header, row: &Row, faults: &mut Faults<'_>) -> Option<(String, Value)> {
    if !header.fits(row, faults) {
        return None;
    }
    let mut args = Map::new();
    for Field { name, holds, .. } in kind.fields().unwrap_or_default().iter().filter(|field| is_a_cell(field.holds)) {
        // An empty cell is a field that is left out.
        let Some(cell) = header.optional(row, name) else { continue };
        if is_shortened(&cell) {
            faults.shortened(name);
        }
        let number = is_a_number(*holds).then(|| cell.parse::<i64>().ok()).flatten();
        args.insert((*name).to_owned(), number.map_or(Value::String(cell), Value::from));
    }
    let args = Value::Object(args);
    if let Some((field, sentence)) = kind.fault(&args) {
        match field.as_str() {
            "." => faults.line(sentence),
            field => faults.add(field, sentence),
        }
    }
    let read = if faults.none() {
        kind.asks_for(&args).and_then(|read| read.start.map(|()| read.id))
    } else {
        Ok(String::new())
    };
    let id = match (read, kind.id_field()) {
        (Err(sentence), _) => {
            faults.line(sentence);
            String::new()
        }
        (Ok(id), Some(_)) => id,
        (Ok(_), None) => header.field(row, ID).to_owned(),
    };
    if faults.none()
        && let Some(sentence) = text::id_fault(&id, LONGEST_KEY)
    {
        faults.add(kind.id_field().unwrap_or(ID), sentence);
    }
    faults.none().then_some((id, args))
}
