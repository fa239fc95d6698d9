//! The grants of the demo: the example file of the repository, cut or repeated to the number asked for.

use anyhow::Context;

/// 1,000 grants in four categories; twelve of an amount that the simulated provider refuses.
const EXAMPLE: &str = include_str!("../../../ops/examples/grants.csv");

/// A CSV file of the first `count` grants; beyond the last the file begins again, with `-2`, `-3` … behind the ids.
pub fn csv(count: usize) -> anyhow::Result<String> {
    let mut reader = csv::Reader::from_reader(EXAMPLE.as_bytes());
    let header = reader.headers()?.clone();
    let id = header.iter().position(|name| name == "grant_id").context("the example has no column grant_id")?;
    let rows = reader.records().collect::<Result<Vec<_>, _>>()?;
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&header)?;
    for number in 0..count {
        let (round, row) = (number / rows.len() + 1, &rows[number % rows.len()]);
        let fields = row.iter().enumerate().map(|(at, field)| match round {
            2.. if at == id => format!("{field}-{round}"),
            _ => field.to_owned(),
        });
        writer.write_record(fields)?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_file_is_cut_or_repeated_with_ids_of_its_own() {
        let all = csv(1000).unwrap();
        assert_eq!(all, EXAMPLE);
        assert_eq!(csv(2).unwrap(), EXAMPLE.lines().take(3).map(|line| format!("{line}\n")).collect::<String>());
        let more = csv(2001).unwrap();
        let ids: HashSet<&str> = more.lines().skip(1).map(|line| line.split(',').next().unwrap()).collect();
        assert_eq!(ids.len(), 2001);
        let first = EXAMPLE.lines().nth(1).unwrap().split(',').next().unwrap();
        assert!(ids.contains(format!("{first}-2").as_str()) && ids.contains(format!("{first}-3").as_str()));
    }
}
