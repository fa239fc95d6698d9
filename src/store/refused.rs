//! What the database's own functions refuse, in their own sentences.

/// Why an act was not done. Nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// What the database refused, in its own sentence.
    #[error("{sentence}")]
    Refused { code: String, sentence: String },
    #[error("the database did not answer; whether it was done is not known, and doing it again is safe: {0}")]
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
        let Some(database) = error.as_database_error() else { return ActError::Database(error) };
        let hint = database.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().and_then(|e| e.hint());
        let code = database.code().unwrap_or_default().into_owned();
        let sentence = match code.as_str() {
            "42501" => format!("this login may not do that: {}", database.message()),
            "NS400" | "NS401" | "NS403" | "NS404" | "NS409" | "NS410" => {
                hint.map_or_else(|| database.message().to_owned(), |hint| format!("{}. {hint}", database.message()))
            }
            _ => return ActError::Database(error),
        };
        ActError::Refused { code, sentence }
    }
}
