//! What a kind may be asked for with, as JSON Schema: for the description of the interface, and for whoever writes a producer.

use noshi_jobs::{Field, Holds, Presence};
use serde_json::{Map, Value, json};

use super::requests::{MAX_MONEY, wanted};

/// The arguments of a kind. Lengths of texts are in bytes, which JSON Schema cannot say: `description` does.
pub fn of(fields: &[Field]) -> Value {
    // What only noshi itself may set is no argument of a caller's.
    let theirs = || fields.iter().filter(|field| !matches!(field.holds, Holds::Nothing | Holds::Contact));
    let required: Vec<&str> =
        theirs().filter(|field| field.presence == Presence::Needed).map(|field| field.name).collect();
    let properties: Map<String, Value> = theirs().map(|field| (field.name.to_owned(), value(field.holds))).collect();
    json!({"type": "object", "required": required, "properties": properties, "additionalProperties": false})
}

fn value(holds: Holds) -> Value {
    let mut schema = match holds {
        Holds::Id { .. } | Holds::NoAddress { .. } | Holds::Text { .. } | Holds::Phone => {
            json!({"type": "string", "minLength": 1})
        }
        Holds::Word { most } => {
            json!({"type": "string", "minLength": 1, "maxLength": most, "pattern": "^[A-Za-z0-9._-]+$"})
        }
        Holds::Whole { least, most } => {
            json!({"type": "integer", "format": "int64", "minimum": least, "maximum": most})
        }
        Holds::Amount => json!({"type": "integer", "format": "int64", "minimum": 1, "maximum": MAX_MONEY}),
        Holds::OneOf(names) => json!({"type": "string", "enum": names}),
        Holds::Object(fields) => return of(fields),
        Holds::Texts => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        Holds::Sealed(plain) => return value(*plain),
        Holds::Nothing | Holds::Contact => json!({}),
    };
    schema["description"] = wanted(holds).into();
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_and_what_may_be_left_out() {
        const FIELDS: &[Field] = &[
            Field::needed("payment", Holds::Word { most: 60 }),
            Field::optional("note", Holds::Text { most: 9 }),
            Field::needed("value", Holds::Object(&[Field::needed("amount", Holds::Amount)])),
            Field::optional("paid_by", Holds::Nothing),
        ];
        let schema = of(FIELDS);
        assert_eq!(schema["required"], json!(["payment", "value"]));
        assert_eq!(schema["properties"]["note"]["description"], "a text of 1 to 9 bytes");
        assert_eq!(schema["properties"]["value"]["properties"]["amount"]["minimum"], 1);
        assert_eq!(schema["properties"].get("paid_by"), None);
    }
}
