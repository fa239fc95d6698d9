//! How the bytes of a file are text.

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Encoding {
    #[default]
    #[value(name = "utf-8")]
    Utf8,
    #[value(name = "shift_jis")]
    ShiftJis,
}

impl Encoding {
    pub const fn name(self) -> &'static str {
        match self {
            Encoding::Utf8 => "utf-8",
            Encoding::ShiftJis => "shift_jis",
        }
    }

    pub fn from_name(name: &str) -> Encoding {
        if name == Encoding::ShiftJis.name() { Encoding::ShiftJis } else { Encoding::Utf8 }
    }
}
