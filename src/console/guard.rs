//! What holds for every request and every answer, before anybody looks at who it is.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{layout, server::Console};

const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
         frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types noshi",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    // With `no-referrer` a form's Origin would be `null`.
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

pub async fn guard(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let probe = ["/livez", "/readyz"].contains(&request.uri().path());
    let mut response = if !probe && named != Some(console.host.as_str()) {
        refused(
            StatusCode::MISDIRECTED_REQUEST,
            "This address goes by another name. Ask under the one that console.origin says.",
        )
    } else if !matches!(*request.method(), Method::GET | Method::HEAD)
        && !is_of_ours(request.headers(), &console.origin)
    {
        refused(StatusCode::FORBIDDEN, "This request came from another site. Nothing was done.")
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn refused(status: StatusCode, sentence: &str) -> Response {
    (status, layout::trouble(status, sentence)).into_response()
}

/// Whether a request that may change something was sent by a page of ours. A browser says so itself, or names the origin.
fn is_of_ours(headers: &HeaderMap, origin: &str) -> bool {
    match headers.get("sec-fetch-site") {
        Some(site) => site == "same-origin",
        None => headers.get(header::ORIGIN).is_some_and(|of| of == origin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_pages_change_anything() {
        let ours = |pairs: &[(&'static str, &'static str)]| {
            let headers =
                pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            is_of_ours(&headers.collect(), "https://noshi.example")
        };
        assert!(ours(&[("sec-fetch-site", "same-origin")]));
        assert!(ours(&[("origin", "https://noshi.example")]));
        for site in ["cross-site", "same-site", "none"] {
            assert!(!ours(&[("sec-fetch-site", site), ("origin", "https://noshi.example")]), "{site}");
        }
        assert!(!ours(&[]) && !ours(&[("origin", "null")]) && !ours(&[("origin", "https://noshi.example.evil")]));
    }
}
