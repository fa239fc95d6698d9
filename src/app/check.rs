//! What a program must have before it begins.

use anyhow::ensure;
use noshi_jobs::{Holds, Problem};

use super::App;
use crate::basics::kinds::{AnyKind, HEADINGS};

impl App {
    /// Refuses what would be found out at the first job, or by whoever is paged for it.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.twice.is_empty(), "the kind {} is added twice", self.twice.join(", "));
        let own = || self.kinds.iter().filter(|kind| kind.is_own());
        for kind in own() {
            fit(&**kind)?;
        }
        for problem in own().flat_map(|kind| kind.problems()) {
            page_of(*problem, &self.pages)?;
        }
        for (code, _) in &self.pages {
            let named = own().any(|kind| kind.problems().iter().any(|problem| problem.code() == *code));
            ensure!(named, "the runbook has a page of {code}, which no job names among its problems");
        }
        Ok(())
    }
}

fn fit(kind: &dyn AnyKind) -> anyhow::Result<()> {
    let name = kind.kind();
    ensure!(!kind.states().is_empty(), "{name} has no STATES");
    let fields = kind.fields().unwrap_or_default();
    ensure!(!fields.is_empty(), "{name} has no FIELDS: say what each of its arguments may hold");
    for field in fields {
        let known = match field.holds {
            Holds::Id { .. } | Holds::NoAddress { .. } | Holds::Word { .. } | Holds::Text { .. } => true,
            Holds::Whole { .. } | Holds::Amount | Holds::OneOf(_) | Holds::Texts => true,
            Holds::Phone | Holds::Object(_) | Holds::Nothing | Holds::Sealed(_) | Holds::Contact => false,
        };
        ensure!(known, "the database cannot check what `{}` of {name} holds", field.name);
        let twice = fields.iter().filter(|other| other.name == field.name).count() > 1;
        ensure!(!twice, "{name} has the field `{}` twice", field.name);
    }
    if let Some(id) = kind.id_field() {
        ensure!(fields.iter().any(|field| field.name == id), "{name} has no field `{id}` that could be its id");
    }
    Ok(())
}

fn page_of(problem: Problem, pages: &[(&str, &str)]) -> anyhow::Result<()> {
    let code = problem.code();
    if Problem::ALL.contains(&problem) {
        return Ok(());
    }
    let Some((_, page)) = pages.iter().find(|(of, _)| *of == code) else {
        anyhow::bail!("the problem {code} has no page: add one with `App::runbook`")
    };
    ensure!(page.starts_with(&format!("# {code}\n")), "the page of {code} does not open with `# {code}`");
    for heading in HEADINGS {
        ensure!(page.contains(heading), "the page of {code} lacks `{heading}`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use noshi_jobs::{Problem, probe::Probe};

    use super::*;
    use crate::worlds::probe::ProbeWorld;

    fn refused(app: &App) -> String {
        app.check().expect_err("a refusal").to_string()
    }

    fn with_a_probe(app: App) -> App {
        app.job::<Probe>(|cx| Box::new(ProbeWorld { local: cx.local(), job: cx.job() }))
    }

    #[test]
    fn what_would_be_found_out_later_is_refused() {
        App::builtins().check().unwrap();
        assert!(refused(&with_a_probe(App::builtins())).contains("the kind probe is added twice"));
        assert!(refused(&with_a_probe(App::new())).contains("probe has no FIELDS"));
        const NOBODYS: Problem = Problem::of("nobodys", "Nobody has it.", "ありません。");
        let page = "# nobodys\n";
        assert!(refused(&App::builtins().runbook(NOBODYS, page)).contains("no job names"));
        assert!(page_of(NOBODYS, &[]).unwrap_err().to_string().contains("has no page"));
        assert!(page_of(NOBODYS, &[("nobodys", page)]).unwrap_err().to_string().contains("lacks"));
    }
}
