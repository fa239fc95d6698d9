//! What a row of a file of stores must be.

use noshi_jobs::{
    Kind,
    machine::Job,
    store_creation::{Args, StoreCreation},
};

use super::{
    Fault, Private, Taken,
    header::{Column, Faults, Header, as_asked},
    lines::Row,
};
use crate::{
    basics::requests::is_phone,
    db::domain::batches,
    vault::contact::{CONTACT, Contact},
};

pub const COLUMNS: [Column; 5] = [
    Column { name: "organization_id", required: true, longest: 60, example: "org-001" },
    Column { name: "public_id", required: true, longest: 60, example: "shibuya-01" },
    Column { name: "name", required: true, longest: 400, example: "渋谷本店" },
    Column { name: "address", required: false, longest: 1000, example: "東京都渋谷区1-2-3" },
    Column { name: "phone", required: false, longest: 30, example: "03-0000-0000" },
];

/// The row as a request, or its faults. `request` is the batch's word in the job's id.
pub fn take(header: &Header, row: &Row, request: &str, row_no: i32, faults: &mut Vec<Fault>) -> Option<Taken> {
    let mut faults = Faults::of(row.line, faults);
    if !header.check(row, &mut faults) {
        return None;
    }
    let mut args = Args {
        organization: header.field(row, "organization_id").to_owned(),
        public_id: header.field(row, "public_id").to_owned(),
        name: header.field(row, "name").to_owned(),
        address: header.optional(row, "address"),
        phone: header.optional(row, "phone"),
        contact: None,
        request: request.to_owned(),
    };
    for (field, value) in [("organization_id", &args.organization), ("public_id", &args.public_id)] {
        if !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            faults.add(field, "this may hold letters, digits, `-`, `_` and `.` only");
        }
    }
    if args.phone.as_deref().is_some_and(|phone| !is_phone(phone)) {
        faults.add("phone", "this is not a telephone number");
    }
    if !faults.none() {
        return None;
    }
    let (key, asked) = (StoreCreation::id(&args).0, serde_json::to_value(&args).expect("arguments are plain data"));
    if !as_asked(Kind::StoreCreation, &key, &asked, &mut faults) {
        return None;
    }
    let contact = Contact::of(args.address.take(), args.phone.take());
    args.contact = (!contact.is_empty()).then(|| batches::kept_under(request, row_no));
    Some(Taken {
        line: row.line,
        unique: args.public_id.clone(),
        key,
        args: serde_json::to_string(&args).expect("arguments are plain data"),
        private: args.contact.map(|_| Private { what: CONTACT, of: args.public_id, plain: contact.text() }),
        mailed: false,
    })
}
