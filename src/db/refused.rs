//! What the database refuses: our own functions in their own sentences, everything else by a table from SQLSTATE to a sentence.

use sqlx::postgres::PgDatabaseError;

/// Why an act was not done. Nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// What the database refused, in its own sentence.
    #[error("{sentence}")]
    Refused { code: String, sentence: String },
    #[error("{}", sentence(.0))]
    Database(#[source] sqlx::Error),
}

impl ActError {
    /// Refused before the database was asked.
    pub fn refused(sentence: String) -> ActError {
        ActError::Refused { code: "NS400".to_owned(), sentence }
    }
}

impl From<sqlx::Error> for ActError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
        match code.as_str() {
            "42501" | "NS400" | "NS401" | "NS403" | "NS404" | "NS409" | "NS410" => {
                ActError::Refused { sentence: sentence(&error), code }
            }
            _ => ActError::Database(error),
        }
    }
}

/// What happened, what it means, and what to do: without the driver's words and PostgreSQL's source lines.
pub fn sentence(error: &sqlx::Error) -> String {
    let Some(database) = error.as_database_error() else { return unanswered(error) };
    let message = database.message();
    let hint = database.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::hint);
    let code = database.code().unwrap_or_default();
    if code.starts_with("NS") {
        return hint.map_or_else(|| message.to_owned(), |hint| format!("{message}. {hint}"));
    }
    let told = meaning(&code, message);
    format!("{told} ({message}, SQLSTATE {code})")
}

/// By the exact code, or else by its class.
fn meaning(code: &str, message: &str) -> &'static str {
    match code {
        "42501" if message.contains("set role") && message.contains("noshi_owner") => {
            "this takes the login that owns the schema, the one that migrates, and nothing was done: say it as that login. To grant noshi_owner to another lets it change anything"
        }
        "42501" if message.contains("set role") => {
            "this login may not act in that role; grant it the role: ops/roles.md says which each command takes"
        }
        "42501" if message.contains("create role") => {
            "this login may make no roles, and nothing was done: as a superuser, `alter role … createrole` for it, as ops/operating.md says"
        }
        "42501" => {
            "this login may not do that, and nothing was done; ops/roles.md says which login may: caps, `vault rotate` and `migrate` take the one that owns the schema"
        }
        "42P01" | "3F000" | "42883" | "42703" | "42704" => {
            "the schema of this database is not there, or older than this noshi: run `noshi migrate up`; `noshi doctor` tells more"
        }
        "57014" => {
            "the database took too long over it and gave up; nothing of it was done. Do it again when the database is less busy"
        }
        "55P03" if message.starts_with("held by") => {
            "another session holds what this needs; nothing was done. Do it again when that is over; the owner of the database ends it with `select pg_terminate_backend(…)`"
        }
        "55P03" => "another session holds what this needs; nothing was done. Do it again",
        "25006" => {
            "this server takes no writes: it is a standby, or was made read-only; nothing was done. Connect to the primary"
        }
        "53100" => "the disk of the database is full; nothing was done. Make room there first",
        "53300" => {
            "the database has no connection left for this login; nothing was done. Do it again, or raise max_connections"
        }
        "22P05" | "22021" => "the database cannot hold a character of this text; nothing was done",
        _ => by_class(code.get(..2).unwrap_or_default()),
    }
}

fn by_class(class: &str) -> &'static str {
    match class {
        "08" | "57" => {
            "the connection to the database ended; whether it was done is not known, and doing it again is safe"
        }
        "28" | "3D" => "the database does not let this login in",
        "40" => "another session was faster; nothing of it was done. Do it again",
        "53" => "the database is out of resources; nothing was done. Do it again later",
        "22" => "the database cannot read a value as it was given; nothing was done",
        "23" => "a rule of the database forbids it; nothing was done",
        "42" => {
            "the database does not understand this statement: is its schema newer or older than this noshi? `noshi doctor` tells"
        }
        "58" | "XX" => "the database is in trouble; whether it was done is not known. Its own log says more",
        _ => "the database refused it; nothing was done",
    }
}

/// No answer of the database: the connection, the pool, or what it sent cannot be read.
fn unanswered(error: &sqlx::Error) -> String {
    if matches!(error, sqlx::Error::PoolTimedOut) {
        return "no connection to the database was free in time; nothing was done. Do it again".to_owned();
    }
    if let sqlx::Error::Io(cause) = error {
        return format!(
            "the connection to the database broke ({cause}); whether it was done is not known, and doing it again is safe"
        );
    }
    if matches!(error, sqlx::Error::RowNotFound) {
        return "the database has no such row".to_owned();
    }
    if matches!(error, sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_)) {
        return format!("the database's answer cannot be read; is its schema newer than this noshi? ({error})");
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_its_own_sentence_and_codes_come_first() {
        assert!(meaning("42501", "permission denied for table sealed").contains("owns the schema"));
        assert!(meaning("42501", "permission denied to set role \"noshi_operator\"").contains("grant it the role"));
        let owners = meaning("42501", "permission denied to set role \"noshi_owner\"");
        assert!(owners.contains("that owns the schema") && !owners.contains("grant it the role"), "{owners}");
        assert!(meaning("42501", "permission denied to create role").contains("createrole"));
        assert!(meaning("57014", "").contains("took too long"));
        assert!(meaning("55P03", "held by sato (process 7)").contains("pg_terminate_backend"));
        assert!(meaning("57P01", "").contains("connection"));
        assert!(meaning("40P01", "").contains("another session"));
        assert!(meaning("99999", "").contains("refused"));
    }
}
