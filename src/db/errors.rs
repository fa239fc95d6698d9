//! What an error of the database means: an answer, a refusal of ours, or something that may pass.

use super::connection;

/// Classes of SQLSTATE that may pass by themselves: a lost connection, a server that is read-only or in another state for a time, a conflict
/// with others, a lack of resources, an operator who stepped in, a shutdown, a fault of the system or of a pooler.
const PASSING: [&str; 11] = ["08", "25", "26", "40", "53", "55", "57", "58", "72", "F0", "XX"];

/// Whether the database understood and refused, so that no repetition helps: a rule of ours, a value, a constraint, a right, a name that is
/// not there, a feature that this server or its settings refuse. What is in no list is such: a job must not be tried for ever.
pub fn is_answer(error: &sqlx::Error) -> bool {
    match error.as_database_error().and_then(sqlx::error::DatabaseError::code) {
        Some(code) => !PASSING.iter().any(|class| code.starts_with(class)),
        None => {
            matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_))
        }
    }
}

/// Which of the database's rules refused. Our own rules speak for themselves; others' words may hold what was refused.
pub fn said(error: &sqlx::Error) -> Option<String> {
    let error = error.as_database_error()?;
    let code = error.code()?;
    Some(match (code.starts_with("NS"), error.constraint()) {
        (true, _) => error.message().to_owned(),
        (false, Some(constraint)) => format!("SQLSTATE {code}, {constraint}"),
        (false, None) => format!("SQLSTATE {code}"),
    })
}

/// The failure may pass: the connection was lost, the server restarts or is not the one to write to, or a transaction lost a race.
pub fn is_transient(error: &sqlx::Error) -> bool {
    let Some(database) = error.as_database_error() else {
        return !matches!(error, sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Encode(_));
    };
    let code = database.code().unwrap_or_default();
    // 40: rolled back by a race; 53: out of resources; 55P03, 57014: a lock or a statement took too long. What ends the connection ends
    // with it: another one leads to a server that is up, and writable.
    ["40", "53", "57"].iter().any(|class| code.starts_with(class))
        || code == "55P03"
        || connection::ends_connection(error)
}

/// Somebody else holds the row for longer than this one may wait.
pub fn is_locked(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "55P03")
}

/// The server says that it is broken inside. One that crashes says so for a moment; a page or an index that is broken, for ever.
pub fn is_internal(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code.starts_with("XX"))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    #[derive(Debug)]
    struct Said(&'static str);

    impl std::fmt::Display for Said {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Said {}

    impl sqlx::error::DatabaseError for Said {
        fn message(&self) -> &str {
            self.0
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }

        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> sqlx::error::ErrorKind {
            sqlx::error::ErrorKind::Other
        }
    }

    /// Appendix A of PostgreSQL's manual, and ours: a job is tried again only where that can help.
    #[test]
    fn every_class_that_no_repetition_helps_is_an_answer() {
        const ANSWERS: [&str; 33] = [
            "0A000", "0B000", "0F000", "0L000", "0P000", "0Z002", "20000", "21000", "22001", "23505", "24000", "27000",
            "28000", "2B000", "2D000", "2F005", "34000", "38000", "39000", "3B000", "3D000", "3F000", "42P01", "42501",
            "44000", "54001", "HV000", "P0001", "P0002", "NS400", "NS403", "NS404", "NS409",
        ];
        const PASSING: [&str; 16] = [
            "08006", "25006", "25P02", "26000", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "57P03",
            "58030", "72000", "F0000", "XX000",
        ];
        let answers = |code| is_answer(&sqlx::Error::Database(Box::new(Said(code))));
        for code in ANSWERS {
            assert!(answers(code), "{code}");
        }
        for code in PASSING {
            assert!(!answers(code), "{code}");
        }
    }
}
