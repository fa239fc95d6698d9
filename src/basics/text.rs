//! What an id may hold, and what a text may hold: one definition, by the properties of Unicode. The database has the same as functions
//! that a test draws from here (`tests/it/requests.rs`), so that files, HTTP and SQL take and refuse the same.

use icu_normalizer::ComposingNormalizerBorrowed;
use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{BidiControl, DefaultIgnorableCodePoint, GeneralCategory, NoncharacterCodePoint, WhiteSpace},
};

/// Signs that print nothing, or a mere box, and that no property names: the empty pattern of Braille, fillers and blanks of notations, and
/// what stands for text that was lost.
const BLANKS: [char; 7] = ['\u{2800}', '\u{fffc}', '\u{fffd}', '\u{13441}', '\u{13442}', '\u{16fe4}', '\u{1d159}'];

/// Moves what stands beside it, hides, or makes text stand where it was not written: terminals, viewers and browsers obey these.
pub fn moves(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// No id holds it: it cannot be seen, is taken for a space or for nothing, or means nothing (yet).
pub fn is_unseen(c: char) -> bool {
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    let nothing = [
        GeneralCategory::Control,
        GeneralCategory::Format,
        GeneralCategory::LineSeparator,
        GeneralCategory::ParagraphSeparator,
        GeneralCategory::PrivateUse,
        GeneralCategory::Surrogate,
        GeneralCategory::Unassigned,
    ];
    nothing.contains(&category)
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
        || (c != ' ' && CodePointSetData::new::<WhiteSpace>().contains(c))
        || BLANKS.contains(&c)
}

/// No text holds it, such as a person's name: it would end a line, turn the direction of what follows, or it was lost in some conversion.
/// Joiners and variants, which names are written with, are let through.
pub fn is_unfit(c: char) -> bool {
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    let ends = [GeneralCategory::Control, GeneralCategory::LineSeparator, GeneralCategory::ParagraphSeparator];
    ends.contains(&category)
        || CodePointSetData::new::<BidiControl>().contains(c)
        || CodePointSetData::new::<NoncharacterCodePoint>().contains(c)
        || matches!(c, '\u{fffc}' | '\u{fffd}' | '\u{feff}')
}

/// What others wrote, for a line of ours: what would end the line, or turn it, is shown and not obeyed.
pub fn in_one_line(text: &str) -> String {
    text.chars().flat_map(|c| if is_unfit(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Why it is no id of at most so many bytes. The sentence repeats nothing of it but the number of a character.
pub fn id_fault(text: &str, most: usize) -> Option<String> {
    if text.is_empty() {
        return Some("this must not be empty".to_owned());
    }
    if text.len() > most {
        return Some(format!("this has {} bytes; at most {most} fit", text.len()));
    }
    if text.trim() != text {
        return Some("this begins or ends with a space".to_owned());
    }
    if let Some(unseen) = text.chars().find(|c| is_unseen(*c)) {
        let number = u32::from(unseen);
        return Some(format!(
            "this holds a character that cannot be seen, U+{number:04X}; ids hold no control characters, and none that cannot be seen or that mean nothing"
        ));
    }
    if !ComposingNormalizerBorrowed::new_nfc().is_normalized(text) {
        return Some(
            "this is not in the composed form (Unicode NFC), so that two ids would look alike; write it composed"
                .to_owned(),
        );
    }
    matches!(text, "." | "..").then(|| "an id is not . or ..: this cannot be part of an address".to_owned())
}

/// Why it is no text of at most so many bytes that can be shown.
pub fn text_fault(text: &str, most: usize) -> Option<String> {
    if text.len() > most {
        return Some(format!("this has {} bytes; at most {most} fit", text.len()));
    }
    if let Some(unfit) = text.chars().find(|c| is_unfit(*c)) {
        let number = u32::from(unfit);
        return Some(format!(
            "this holds a control character, such as a tab, or one that no text may hold: U+{number:04X}"
        ));
    }
    text.chars().all(|c| c == ' ' || is_unseen(c)).then(|| "this must not be empty".to_owned())
}

/// The ranges of those code points, without the surrogates, which no text can hold.
pub fn ranges(of: impl Fn(char) -> bool) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = vec![];
    for c in '\u{1}'..=char::MAX {
        let at = u32::from(c);
        if !of(c) {
            continue;
        }
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == at => *last = at,
            // Across the surrogates, which stand in no text.
            Some((_, last)) if *last == 0xd7ff && at == 0xe000 => *last = at,
            Some(_) | None => ranges.push((at, at)),
        }
    }
    ranges
}
