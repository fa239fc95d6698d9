//! What a row of a file asks for.

use noshi_jobs::money::Currency;

use crate::intake::{
    grants,
    header::{self, Column},
    points, stores,
};

/// What a row of a file asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum FileKind {
    /// Gifts for users, registered in one commit or not at all.
    Grants,
    /// Stores on the organisation platform, each for itself.
    Stores,
    /// Points for users, registered in one commit or not at all.
    Points,
}

impl FileKind {
    pub const fn name(self) -> &'static str {
        match self {
            FileKind::Grants => "grants",
            FileKind::Stores => "stores",
            FileKind::Points => "points",
        }
    }

    /// The kind of that stored name; `None` where a newer version wrote it.
    pub fn from_name(name: &str) -> Option<FileKind> {
        [FileKind::Grants, FileKind::Stores, FileKind::Points].into_iter().find(|kind| kind.name() == name)
    }

    /// Rows are grants of offers, which may be announced by mail and issued at once.
    pub const fn brings_gifts(self) -> bool {
        matches!(self, FileKind::Grants)
    }

    /// What the amounts of its rows may be in.
    pub fn units(self) -> Vec<&'static str> {
        match self {
            FileKind::Grants => Currency::ALL.map(Currency::code).to_vec(),
            FileKind::Stores => vec![""],
            FileKind::Points => vec![points::UNIT],
        }
    }

    pub(super) const fn mode(self) -> &'static str {
        match self {
            FileKind::Grants | FileKind::Points => "all_or_nothing",
            FileKind::Stores => "per_row",
        }
    }

    pub(super) const fn columns(self) -> &'static [Column] {
        match self {
            FileKind::Grants => &grants::COLUMNS,
            FileKind::Stores => &stores::COLUMNS,
            FileKind::Points => &points::COLUMNS,
        }
    }

    /// The column that names a row.
    pub(super) const fn unique_column(self) -> &'static str {
        match self {
            FileKind::Grants => "grant_id",
            FileKind::Stores => "public_id",
            FileKind::Points => "source",
        }
    }

    /// A file to fill in (R60): the header and one row.
    pub fn template(self) -> String {
        let examples: Vec<&str> = self.columns().iter().map(|column| column.example).collect();
        format!("{}\n{}\n", header::names(self.columns()), examples.join(","))
    }
}
