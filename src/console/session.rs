//! Signing in and out: a token is exchanged for a session, which is a token of the database's own.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Extension, Form,
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{
    html::part,
    layout,
    server::Console,
    visit::{Trouble, Visit, language},
};
use crate::{
    api::server::Peer,
    db::operator::tokens::{self, Bearer},
};

pub const COOKIE: &str = "__Host-noshi";
pub const LANGUAGE: &str = "noshi-language";

/// Failures within a minute: of one address, and of all.
const FAILURES: (usize, usize) = (5, 50);
const MINUTE: Duration = Duration::from_secs(60);

/// Sign-ins that failed of late.
#[derive(Default)]
pub struct Failures(Mutex<VecDeque<(Instant, IpAddr)>>);

impl Failures {
    fn is_over(&self, from: IpAddr) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while all.front().is_some_and(|(at, _)| at.elapsed() > MINUTE) {
            all.pop_front();
        }
        all.len() >= FAILURES.1 || all.iter().filter(|(_, of)| *of == from).count() >= FAILURES.0
    }

    fn count(&self, from: IpAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back((Instant::now(), from));
    }
}

pub fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|header| header.to_str().ok());
    let mut pairs = all.flat_map(|header| header.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(of, _)| *of == name).map(|(_, value)| value.to_owned())
}

/// Where to go after the sign-in: a page of ours, or the first.
fn page_of_ours(next: &str) -> &str {
    let ours = next.starts_with('/')
        && !next.starts_with("//")
        && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if ours { next } else { "/" }
}

/// The browser asks for this page next.
pub fn see(path: &str) -> Response {
    let to = HeaderValue::try_from(path).unwrap_or(HeaderValue::from_static("/"));
    (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response()
}

pub fn to_sign_in(next: &str) -> Response {
    see(&format!("/sign-in?next={}", part(page_of_ours(next))))
}

#[derive(Deserialize)]
pub struct Next {
    #[serde(default)]
    next: String,
    #[serde(default)]
    again: bool,
}

pub async fn form(Query(Next { next, again }): Query<Next>, headers: HeaderMap) -> Response {
    let words = language(&headers).words();
    let said = again.then_some(words.sign_in_again);
    layout::sign_in(language(&headers), page_of_ours(&next), said).into_response()
}

#[derive(Deserialize)]
pub struct SignIn {
    token: SecretString,
    #[serde(default)]
    next: String,
}

pub async fn sign_in(
    State(console): State<Arc<Console>>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    Form(SignIn { token, next }): Form<SignIn>,
) -> Response {
    let (language, next) = (language(&headers), page_of_ours(&next));
    let refused = |status: StatusCode, said| (status, layout::sign_in(language, next, Some(said))).into_response();
    if console.failures.is_over(peer.ip()) {
        tracing::warn!(address = %peer.ip(), "a sign-in was turned away: too many failed");
        return refused(StatusCode::TOO_MANY_REQUESTS, language.words().too_many);
    }
    let begun = match Bearer::read(token.expose_secret().trim()) {
        Some(shown) => tokens::begin_session(&console.pool, &shown).await,
        None => Ok(None),
    };
    match begun {
        Ok(Some(session)) => {
            tracing::info!(address = %peer.ip(), "somebody signed in");
            let value = format!("{COOKIE}={}; Path=/; HttpOnly; Secure; SameSite=Lax", session.expose_secret());
            let mut response = see(next);
            set_cookie(&mut response, &value);
            response
        }
        Ok(None) => {
            console.failures.count(peer.ip());
            tracing::warn!(address = %peer.ip(), "a sign-in failed");
            refused(StatusCode::FORBIDDEN, language.words().not_signed_in)
        }
        Err(error) => Trouble(error.into()).into_response(),
    }
}

fn set_cookie(response: &mut Response, value: &str) {
    if let Ok(mut value) = HeaderValue::try_from(value) {
        value.set_sensitive(true);
        response.headers_mut().append(header::SET_COOKIE, value);
    }
}

pub async fn sign_out(visit: Visit) -> Result<Response, Trouble> {
    tokens::end_session(visit.pool(), &visit.bearer).await?;
    let mut response = see("/sign-in");
    set_cookie(&mut response, &format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax"));
    Ok(response)
}

#[derive(Deserialize)]
pub struct Choice {
    language: String,
    #[serde(default)]
    next: String,
}

pub async fn choose_language(Form(Choice { language, next }): Form<Choice>) -> Response {
    let mut response = see(page_of_ours(&next));
    if let Some(language) = super::words::Language::from_code(&language) {
        let value = format!("{LANGUAGE}={}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax", language.code());
        set_cookie(&mut response, &value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_sign_in_comes_a_page_of_ours() {
        for (next, goes) in [
            ("/jobs?status=failed", "/jobs?status=failed"),
            ("https://evil.example", "/"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("/a\nb", "/"),
            ("", "/"),
        ] {
            assert_eq!(page_of_ours(next), goes);
        }
    }

    #[test]
    fn who_fails_often_waits_and_holds_up_few() {
        let failures = Failures::default();
        let address = |last| IpAddr::from([10, 0, 0, last]);
        (0..5).for_each(|_| failures.count(address(1)));
        assert!(failures.is_over(address(1)) && !failures.is_over(address(2)));
        (0..45).for_each(|n| failures.count(address(n + 10)));
        assert!(failures.is_over(address(2)));
    }
}
