//! `noshi effect test`: a contract held against a partner over real HTTP, through something on the way that loses answers.

mod way;

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use clap::Args;
use noshi_jobs::effect::Rule;
use rand::Rng;
use reqwest::Url;
use secrecy::ExposeSecret;
use serde::Serialize;

use self::way::{Fault, Way};
use crate::{
    basics::terminal,
    partners::{
        Gate,
        effects::{Client, Contract, Effects, Means, Said},
    },
};

/// Whether what a contract says of its partner holds: over real HTTP, with answers lost on the way. It has real effects there.
#[derive(Args)]
pub struct TestArgs {
    #[arg(value_name = "NAME")]
    name: String,
    /// The partner's sandbox, such as `https://sandbox.shop.example`: what is called has its effects.
    #[arg(long, value_name = "URL")]
    against: Url,
    /// What is given for an input, as `name=value`; may be repeated. Left out: a value of its kind.
    #[arg(long = "input", value_name = "NAME=VALUE", value_parser = pair)]
    input: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is written name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[derive(Serialize)]
struct Held {
    what: &'static str,
    holds: bool,
    found: String,
}

/// Prints what holds; an error where something does not.
pub async fn run(args: TestArgs, effects: Effects, as_json: bool) -> anyhow::Result<()> {
    let contract = Contract::read(&effects.file(&args.name)?)?;
    // A dot at the end names the same host.
    let host = |url: &Url| url.host_str().map(|host| host.trim_end_matches('.').to_owned());
    let own = Url::parse(&contract.perform.url).ok().and_then(|url| host(&url));
    ensure!(["http", "https"].contains(&args.against.scheme()), "{} is no address of HTTP", args.against);
    ensure!(
        own.is_none() || own != host(&args.against) || own.as_deref() == Some("127.0.0.1"),
        "{} is where the contract's effects are real, and this test makes a dozen of them; name the partner's sandbox",
        args.against
    );
    let way = Way::to(&args.against).await.context("the way to the partner cannot be made")?;
    let client = effects.through(contract, &way.address())?;
    let mut input: BTreeMap<String, String> = client.usual_input();
    input.extend(args.input);
    if let Some(misfit) = client.misfit(&input) {
        bail!("{misfit}; say what it is with --input");
    }
    let trial = Trial {
        client,
        way,
        input,
        run: format!("noshi-test-{:08x}", rand::rng().random::<u32>()),
        gate: Gate::open(),
    };
    let held = trial.all().await;
    if as_json {
        terminal::print(&(serde_json::to_string_pretty(&held)? + "\n"));
    } else {
        for Held { what, holds, found } in &held {
            terminal::print(&format!("{} {what}: {found}\n", if *holds { "holds " } else { "FAILS " }));
        }
    }
    match held.iter().filter(|held| !held.holds).count() {
        0 => Ok(()),
        fails => bail!(
            "{fails} of {} do not hold: with this contract and this partner an effect could be made twice, or be lost sight of; do not use it before they do",
            held.len()
        ),
    }
}

struct Trial {
    client: Client,
    way: Way,
    input: BTreeMap<String, String>,
    run: String,
    gate: Gate,
}

/// What was said, and what was kept of it.
struct Heard {
    said: &'static str,
    kept: Option<BTreeMap<String, String>>,
}

impl Heard {
    fn is(&self, means: Means) -> bool {
        self.said == means.name()
    }
}

impl Trial {
    async fn all(&self) -> Vec<Held> {
        let mut held = vec![self.usual().await];
        held.extend(self.unclear().await);
        match self.client.contract.doubt.rule {
            Rule::Repeat => held.extend(self.repeats().await),
            Rule::Inquire => held.extend(self.inquires().await),
            Rule::AskAPerson => held.push(Held {
                what: "in doubt a person is asked",
                holds: true,
                found: "nothing that could be tried: the contract says that nothing can be known".to_owned(),
            }),
        }
        if self.client.contract.cancel.is_some() {
            held.push(self.cancels().await);
        }
        held
    }

    async fn ask(&self, key: &'static str, what: &str, fault: Fault) -> Heard {
        self.way.next(fault);
        let id = format!("{}-{what}", self.run);
        let said = self.client.ask(key, &id, &self.input, &self.gate).await;
        self.way.next(Fault::None);
        match said {
            Said::NotSent => Heard { said: "not sent", kept: None },
            Said::Unknown => Heard { said: Means::Unknown.name(), kept: None },
            Said::Means(means, reply) => {
                let kept = self.client.kept(&reply);
                let plain = |(name, value): (String, secrecy::SecretString)| (name, value.expose_secret().to_owned());
                Heard { said: means.name(), kept: kept.map(|kept| kept.into_iter().map(plain).collect()) }
            }
        }
    }

    async fn usual(&self) -> Held {
        let heard = self.ask("perform", "usual", Fault::None).await;
        let whole = heard.kept.is_some();
        let found = if heard.is(Means::Done) && !whole {
            "done, but what is to be kept is not in the answer"
        } else {
            heard.said
        };
        Held { what: "a call on a good day is done", holds: heard.is(Means::Done) && whole, found: found.to_owned() }
    }

    /// Whatever comes in the partner's place is no answer of its.
    async fn unclear(&self) -> Vec<Held> {
        let unclear = [
            ("an answer that is lost is not known", "unheard", Fault::Lost),
            ("a 502 on the way is not known", "gateway", Fault::Status(502)),
            ("a 500 on the way is not known", "broken", Fault::Status(500)),
            ("no answer in time is not known", "late", Fault::Late),
            ("an answer that is too large is not known", "large", Fault::Large),
            ("a redirection is not followed, and not known", "elsewhere", Fault::Redirect),
        ];
        let mut held = vec![];
        for (what, name, fault) in unclear {
            let heard = self.ask("perform", name, fault).await;
            held.push(Held { what, holds: heard.is(Means::Unknown), found: heard.said.to_owned() });
        }
        let heard = self.ask("perform", "throttled", Fault::Status(429)).await;
        let holds = heard.is(Means::Throttled) || heard.is(Means::Unknown);
        held.push(Held { what: "a 429 is throttled, or not known", holds, found: heard.said.to_owned() });
        held
    }

    async fn repeats(&self) -> Vec<Held> {
        let first = self.ask("perform", "twice", Fault::None).await;
        let again = self.ask("perform", "twice", Fault::None).await;
        let same = first.kept.is_some() && first.kept == again.kept;
        let found = match (again.is(Means::Done), same) {
            (true, true) => "done, with the same answer".to_owned(),
            (true, false) => "done, with another answer than the first: a second effect".to_owned(),
            (false, _) => again.said.to_owned(),
        };
        let proves = !self.client.contract.keep.is_empty();
        let found = if proves {
            found
        } else {
            format!("{found}; keep a number of the partner's, so that a second effect can be told from the first")
        };
        let mut held =
            vec![Held { what: "the same id again is the same effect", holds: again.is(Means::Done) && same, found }];
        for (what, name, fault) in [
            ("after a lost answer the same call is done", "unheard", Fault::None),
            ("a call that never arrived is made by the next", "absent", Fault::Swallowed),
        ] {
            if fault == Fault::Swallowed {
                self.ask("perform", name, fault).await;
            }
            let heard = self.ask("perform", name, Fault::None).await;
            held.push(Held { what, holds: heard.is(Means::Done), found: heard.said.to_owned() });
        }
        held
    }

    async fn inquires(&self) -> Vec<Held> {
        let mut held = vec![];
        let lost = self.ask("inquire", "unheard", Fault::None).await;
        let holds = lost.is(Means::Happened) && lost.kept.is_some();
        held.push(Held {
            what: "after a lost answer the inquiry says that it happened",
            holds,
            found: lost.said.to_owned(),
        });
        self.ask("perform", "absent", Fault::Swallowed).await;
        let never = self.ask("inquire", "absent", Fault::None).await;
        let holds = never.is(Means::DidNotHappen) || never.is(Means::NotYet);
        held.push(Held {
            what: "of a call that never arrived it does not say so",
            holds,
            found: never.said.to_owned(),
        });
        let broken = self.ask("inquire", "unheard", Fault::Status(502)).await;
        held.push(Held {
            what: "a 502 to an inquiry says nothing",
            holds: broken.is(Means::Unknown),
            found: broken.said.to_owned(),
        });
        held
    }

    async fn cancels(&self) -> Held {
        let heard = self.ask("cancel", "usual", Fault::None).await;
        Held { what: "what was done can be taken back", holds: heard.is(Means::Done), found: heard.said.to_owned() }
    }
}
