//! What was found.

pub const I1: &str = "I1";
pub const I1B: &str = "I1b";
pub const I2: &str = "I2";
pub const I2B: &str = "I2b";
pub const I3: &str = "I3";
pub const I4: &str = "I4";
pub const I5: &str = "I5";
pub const I5B: &str = "I5b";
pub const I6: &str = "I6";
pub const I7: &str = "I7";
pub const I8: &str = "I8";
pub const I9: &str = "I9";
pub const I10: &str = "I10";
pub const I11: &str = "I11";
pub const I13: &str = "I13";
pub const I14: &str = "I14";
pub const I18: &str = "I18";
pub const I20: &str = "I20";
pub const M1: &str = "M1";
pub const M2: &str = "M2";
pub const M3: &str = "M3";
pub const P1: &str = "P1";
pub const P2: &str = "P2";
pub const P3: &str = "P3";
pub const R11: &str = "R11";

pub const ALWAYS: &[&str] =
    &[I1, I1B, I2B, I3, I4, I5, I6, I7, I8, I9, I10, I11, I13, I14, I18, I20, R11, M1, M2, M3, P1, P2, P3];
pub const QUIESCENT: &[&str] = &[I2];
pub const RETRY_AFTER: &[&str] = &[I5B];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub evidence: String,
}

#[derive(Debug, Default)]
pub struct Report {
    pub violations: Vec<Violation>,
}

impl Report {
    pub fn add(&mut self, invariant: &'static str, evidence: String) {
        self.violations.push(Violation { invariant, evidence });
    }

    /// By invariant, in the order in which they are numbered; within one as found.
    pub fn sort(&mut self) {
        let number = |name: &str| {
            let digits: String = name.chars().filter(char::is_ascii_digit).collect();
            (name.starts_with('R'), digits.parse::<u32>().unwrap_or(u32::MAX), name.ends_with('b'))
        };
        self.violations.sort_by_key(|violation| number(violation.invariant));
    }
}
