//! The builder of a program.

use std::{collections::HashMap, marker::PhantomData, sync::Arc};

use anyhow::{Context as _, anyhow};
use noshi_jobs::{
    KindName, Problem,
    machine::{Call, Job},
};
use sqlx::migrate::Migrator;

use crate::{
    basics::kinds::{self, AnyKind},
    db::{domain::facts::Fact, own},
    engine::{
        Engine, executor,
        registry::{Context, Made, Resources, Work},
    },
    partners::Partner,
    settings::{Section, Settings, keys},
};

/// A program that runs jobs: the whole of noshi for its kinds. Worker, API, metrics, doctor, re-drive and every command know them by what they
/// say of themselves.
///
/// ```no_run
/// use noshi::{App, Context, Fact, Job, Problem, Section};
///
/// /// The built-in jobs, and one more.
/// fn program<J: Job, S: Section>(world: fn(&Context<'_>) -> Box<J::World>, stuck: Problem) -> std::process::ExitCode
/// where
///     Fact: From<J::Fact>,
/// {
///     App::builtins().settings::<S>("mine").job::<J>(world).runbook(stuck, "# stuck\n…").run()
/// }
/// ```
#[derive(Default)]
#[must_use]
pub struct App {
    pub(super) kinds: Vec<Box<dyn AnyKind>>,
    pub(super) jobs: HashMap<&'static str, Arc<dyn Run>>,
    pub(super) sections: Vec<OwnSection>,
    pub(super) pages: Vec<(&'static str, &'static str)>,
    pub(super) twice: Vec<&'static str>,
    pub(super) is_builtin: bool,
    migrations: Option<&'static Migrator>,
}

/// Runs a claimed job of one kind.
pub(super) trait Run: Send + Sync {
    fn run<'a>(&'a self, engine: &'a Engine, resources: &'a Resources, work: &'a Work) -> Call<'a, ()>;
}

struct Of<J, F>(F, PhantomData<fn() -> J>);

impl<J: Job, F> Run for Of<J, F>
where
    Fact: From<J::Fact>,
    F: Fn(&Context<'_>) -> Box<J::World> + Send + Sync,
{
    fn run<'a>(&'a self, engine: &'a Engine, resources: &'a Resources, work: &'a Work) -> Call<'a, ()> {
        Box::pin(async move { executor::execute::<J>(engine, &Made(&self.0, resources), work).await })
    }
}

/// A section of the settings, and how it is opened.
pub(super) struct OwnSection {
    pub name: &'static str,
    declare: fn(&'static str),
    open: fn(&'static str, &Settings, &mut Resources) -> anyhow::Result<Vec<Partner>>,
}

fn open<T: Section>(
    name: &'static str,
    settings: &Settings,
    resources: &mut Resources,
) -> anyhow::Result<Vec<Partner>> {
    let section = settings.section::<T>(name).map_err(|error| anyhow!(error));
    let opened =
        section.and_then(T::open).with_context(|| format!("the section [{name}] of the settings cannot be used"))?;
    let partners = opened.partners();
    resources.put(opened);
    Ok(partners)
}

impl App {
    /// A program without jobs.
    pub fn new() -> App {
        App::default()
    }

    /// The kinds that were added to it.
    pub fn kinds(&self) -> Vec<KindName> {
        self.kinds.iter().map(|kind| kind.kind()).collect()
    }

    pub(super) fn with<J: Job>(mut self, world: impl Fn(&Context<'_>) -> Box<J::World> + Send + Sync + 'static) -> App
    where
        Fact: From<J::Fact>,
    {
        if self.jobs.insert(J::KIND.name(), Arc::new(Of::<J, _>(world, PhantomData))).is_some() {
            self.twice.push(J::KIND.name());
        }
        self
    }

    /// Adds a kind of job. `world` makes what one step of it meets outside; it is asked anew for each step.
    pub fn job<J: Job>(self, world: impl Fn(&Context<'_>) -> Box<J::World> + Send + Sync + 'static) -> App
    where
        Fact: From<J::Fact>,
    {
        let mut app = self.with::<J>(world);
        app.kinds.push(kinds::own::<J>());
        app
    }

    /// Adds a section of noshi.toml. Its keys are set by the environment too, as `NOSHI_MINE__KEY`, and unknown ones are refused.
    pub fn settings<T: Section>(mut self, name: &'static str) -> App {
        self.sections.push(OwnSection { name, declare: keys::declare::<T>, open: open::<T> });
        self
    }

    /// The runbook's page of a problem: what it means for the money, how to look, what to do, and what never to do.
    pub fn runbook(mut self, problem: Problem, page: &'static str) -> App {
        self.pages.push((problem.code(), page));
        self
    }

    /// Tables of one's own, in a schema of one's own: `sqlx::migrate!()`. `noshi migrate up` runs them after noshi's, with a history of their own.
    pub fn migrations(mut self, migrations: &'static Migrator) -> App {
        self.migrations = Some(migrations);
        self
    }

    /// Makes this the program of the process: from here on its kinds, problems, pages and tables are what every command knows.
    pub fn begin(mut self) -> anyhow::Result<Begun> {
        self.check()?;
        self.sections.iter().for_each(|section| (section.declare)(section.name));
        let kinds = std::mem::take(&mut self.kinds);
        for kind in &kinds {
            let declared = Problem::declare(kind.problems());
            declared.map_err(|code| anyhow!("the problem {code} of {} means something else already", kind.kind()))?;
        }
        anyhow::ensure!(
            kinds::close(kinds, std::mem::take(&mut self.pages)),
            "a process is one program, and this one has begun"
        );
        if let Some(migrations) = self.migrations {
            own::add(migrations);
        }
        Ok(Begun(Arc::new(self)))
    }
}

/// The program of this process.
#[derive(Clone)]
pub struct Begun(pub(super) Arc<App>);

impl Begun {
    /// What its jobs find, opened from the settings, and whom they call.
    pub(super) fn open(&self, settings: &Settings) -> anyhow::Result<(Resources, Vec<Partner>)> {
        let mut resources = Resources::default();
        let mut partners = vec![];
        for section in &self.0.sections {
            partners.extend((section.open)(section.name, settings, &mut resources)?);
        }
        Ok((resources, partners))
    }
}
