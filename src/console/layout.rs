//! The frame of every page, and the pages of those who are not signed in.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

use super::{
    html::{part, plain},
    visit::Visit,
    words::Language,
};

pub const STYLE: &str = include_str!("console.css");
pub const SCRIPT: &str = include_str!("console.js");

/// A file that never changes under its name.
pub struct Asset {
    pub path: String,
    pub text: &'static str,
    pub media: &'static str,
}

pub static ASSETS: LazyLock<[Asset; 2]> = LazyLock::new(|| {
    [("css", STYLE, "text/css; charset=utf-8"), ("js", SCRIPT, "text/javascript; charset=utf-8")]
        .map(|(end, text, media)| Asset { path: format!("/assets/{}.{end}", digest(text)), text, media })
});

fn digest(text: &str) -> String {
    hex::encode(&Sha256::digest(text)[..12])
}

fn shell(language: Language, title: &str, head: Markup, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang=(language.code()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                meta name="color-scheme" content="light dark";
                title { (plain(title)) " · noshi" }
                link rel="stylesheet" href=(ASSETS[0].path);
                script src=(ASSETS[1].path) defer {}
            }
            body { (head) (body) }
        }
    }
}

/// A page of somebody who is signed in; nothing but its number where the browser has it already.
pub fn page(visit: &Visit, title: &str, body: &Markup) -> Response {
    let mark = format!("\"{}-{}\"", visit.language.code(), digest(&format!("{}{}", visit.session.id, body.0)));
    let tag = HeaderValue::try_from(&mark).unwrap_or(HeaderValue::from_static("\"\""));
    if visit.has.as_deref() == Some(&mark) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    let main = html! { main id="main" tabindex="-1" { (body) } (foot(visit)) };
    ([(header::ETAG, tag)], shell(visit.language, title, top(visit), main)).into_response()
}

fn top(visit: &Visit) -> Markup {
    let w = visit.words;
    let path = visit.address.split('?').next().unwrap_or("/");
    let pages = [
        ("/", w.overview, "o"),
        ("/doubt", w.doubt, "d"),
        ("/jobs", w.jobs, "j"),
        ("/lanes", w.lanes, "l"),
        ("/batches", w.batches, "b"),
        ("/proposals", w.proposals, "p"),
        ("/schedules", w.schedules, "s"),
        ("/workers", w.workers, "w"),
        ("/audit", w.audit, "a"),
    ];
    let other = if visit.language == Language::English { "ja" } else { "en" };
    html! {
        a.skip href="#main" { (w.skip) }
        header.top {
            a.brand href="/" { "noshi" span aria-hidden="true" { " 熨斗" } }
            nav aria-label="noshi" { @for (to, name, key) in pages {
                a href=(to) data-go=(key) aria-current=[(path == to).then_some("page")] { (name) }
            } }
            form.find action="/find" method="get" role="search" {
                input type="search" name="of" placeholder=(w.find) aria-label=(w.find) maxlength="200" id="find";
                button { (w.find_short) }
            }
            div.me {
                span.who { (plain(&visit.session.owner)) }
                form method="post" action="/language" {
                    input type="hidden" name="language" value=(other);
                    input type="hidden" name="next" value=(visit.address);
                    button.quiet lang=(other) { (w.other_language) }
                }
                form method="post" action="/sign-out" { button.quiet { (w.sign_out) } }
            }
        }
        p.live data-stale=(w.stale) data-pause=(w.pause_live) data-go-on=(w.go_live) hidden {
            span { (w.as_of) " " } output id="as-of" {} " " button.quiet type="button" id="live" { (w.pause_live) }
        }
    }
}

fn foot(visit: &Visit) -> Markup {
    let w = visit.words;
    html! { footer { details { summary { (w.shortcuts) } p { (w.shortcuts_list) } } } }
}

pub fn sign_in(language: Language, next: &str, said: Option<&str>) -> Markup {
    let w = language.words();
    let other = if language == Language::English { "ja" } else { "en" };
    let body = html! {
        main.alone id="main" {
            h1 { "noshi" span aria-hidden="true" { " 熨斗" } }
            @if let Some(said) = said { p.said role="alert" { (said) } }
            form method="post" action="/sign-in" {
                input type="hidden" name="next" value=(next);
                label for="token" { (w.token) }
                input type="password" id="token" name="token" required autocomplete="off" spellcheck="false" autofocus aria-describedby="hint";
                p.hint id="hint" { (w.token_hint) }
                button.main { (w.sign_in) }
            }
            form method="post" action="/language" {
                input type="hidden" name="language" value=(other);
                input type="hidden" name="next" value=(format!("/sign-in?next={}", part(next)));
                button.quiet lang=(other) { (w.other_language) }
            }
        }
    };
    shell(language, w.sign_in, html! {}, body)
}

/// Of whoever it is: in the words of the database or of the interface.
pub fn trouble(status: StatusCode, sentence: &str) -> Markup {
    let title = status.canonical_reason().unwrap_or("Refused");
    let body = html! {
        main.alone id="main" {
            h1 { (status.as_u16()) " " (title) }
            p.said role="alert" { (plain(sentence)) }
            p { a href="/" { "noshi" } }
        }
    };
    shell(Language::English, title, html! {}, body)
}
