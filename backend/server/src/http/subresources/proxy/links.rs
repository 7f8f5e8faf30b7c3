//! Links in what a proxied pod answers: those that start at its root lead below the proxy's path, so that its pages work
//! in a browser (Kubernetes' `proxy.Transport`).
use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures::StreamExt;
use futures::stream;

/// A page that is larger goes on as it is.
const MOST_BYTES: usize = 4 << 20;
/// Attributes of HTML that hold a URL.
const ATTRIBUTES: &[&str] = &[
    "action",
    "background",
    "cite",
    "classid",
    "codebase",
    "data",
    "formaction",
    "href",
    "icon",
    "longdesc",
    "manifest",
    "poster",
    "profile",
    "src",
    "usemap",
];
/// Elements whose text is not HTML.
const RAW: &[&str] = &["script", "style", "textarea", "title"];
/// A pod does not say who may read the API server's answers.
const CORS: &[&str] = &[
    "access-control-allow-origin",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-expose-headers",
];

/// Where the proxied paths begin: `/api/v1/namespaces/a/pods/p/proxy`, and the host that the client asked.
pub struct Place {
    pub prefix: String,
    pub host: String,
}

impl Place {
    /// `path`: what of the request's follows the proxy's.
    pub fn of(parts: &Parts, path: &str) -> Self {
        let named = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = named.or(parts.uri.authority().map(Authority::as_str));
        let prefix = parts.uri.path().strip_suffix(path);
        Self { prefix: prefix.unwrap_or_default().to_owned(), host: host.unwrap_or_default().to_owned() }
    }

    /// What tells the pod where it is seen.
    pub fn forwarded(&self, parts: &Parts) -> HeaderMap {
        let path = HeaderValue::from_str(parts.uri.path()).ok();
        path.map(|path| (HeaderName::from_static("x-forwarded-uri"), path)).into_iter().collect()
    }

    pub async fn answer(&self, response: Response) -> Response {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return response;
        }
        let (mut head, body) = response.into_parts();
        let body = self.body(&mut head.headers, body).await;
        self.headers(&mut head.headers);
        Response::from_parts(head, body)
    }

    /// Relative links and those of other hosts stay.
    fn link(&self, link: &str) -> Option<String> {
        let scheme = ["http://", "https://"].into_iter().find(|scheme| link.starts_with(scheme));
        let before = scheme.map(|scheme| format!("{scheme}{}", self.host)).unwrap_or_default();
        let path = link.strip_prefix(&before)?;
        let below_root = path.starts_with('/') && !path.starts_with("//");
        let there = path == self.prefix || path.starts_with(&format!("{}/", self.prefix));
        (below_root && !there).then(|| format!("{before}{}{path}", self.prefix))
    }

    /// What to say instead of an answer's headers.
    fn headers(&self, headers: &mut HeaderMap) {
        for name in CORS {
            headers.remove(HeaderName::from_static(name));
        }
        let moved = headers.get(header::LOCATION).and_then(|to| self.link(to.to_str().ok()?));
        if let Some(to) = moved.and_then(|to| HeaderValue::from_str(&to).ok()) {
            headers.insert(header::LOCATION, to);
        }
    }

    /// A page with its links, where it is one.
    async fn body(&self, headers: &mut HeaderMap, body: Body) -> Body {
        let says = |name: HeaderName, what: &str| {
            headers
                .get(name)
                .and_then(|v| v.to_str().ok())
                .is_some_and(|v| v.to_ascii_lowercase().starts_with(what))
        };
        let encoded =
            headers.contains_key(header::CONTENT_ENCODING) && !says(header::CONTENT_ENCODING, "identity");
        if !says(header::CONTENT_TYPE, "text/html") || encoded || headers.contains_key(header::LOCATION) {
            return body;
        }
        let mut page = Vec::new();
        let mut parts = body.into_data_stream();
        while let Some(part) = parts.next().await {
            let part = match part {
                Ok(part) => part,
                // The client is told as far as it got, and that it broke off.
                Err(error) => {
                    let told = stream::iter([Ok(Bytes::from(page)), Err(error)]);
                    return Body::from_stream(told);
                }
            };
            page.extend_from_slice(&part);
            if page.len() > MOST_BYTES {
                return Body::from_stream(stream::iter([Ok(Bytes::from(page))]).chain(parts));
            }
        }
        let page = match String::from_utf8(page) {
            Ok(page) => self.page(&page).into_bytes(),
            Err(other) => other.into_bytes(),
        };
        headers.insert(header::CONTENT_LENGTH, page.len().into());
        page.into()
    }

    fn page(&self, html: &str) -> String {
        let mut result = String::with_capacity(html.len());
        let mut rest = html;
        while let Some(at) = rest.find('<') {
            let (text, tag) = rest.split_at(at);
            result.push_str(text);
            if tag[1..].starts_with(|c: char| c.is_ascii_alphabetic()) {
                rest = self.tag(tag, &mut result);
            } else {
                result.push('<');
                rest = &tag[1..];
            }
        }
        result + rest
    }

    /// Writes one opening tag; what follows it.
    fn tag<'a>(&self, tag: &'a str, result: &mut String) -> &'a str {
        let end_of_name = |text: &str| text.find(|c: char| c.is_whitespace() || matches!(c, '=' | '>' | '/'));
        let length = 1 + end_of_name(&tag[1..]).unwrap_or(tag.len() - 1);
        let (opened, mut rest) = tag.split_at(length);
        result.push_str(opened);
        while let Some(next) = rest.chars().next().filter(|next| *next != '>') {
            if next.is_whitespace() || matches!(next, '/' | '=') {
                result.push(next);
                rest = &rest[next.len_utf8()..];
                continue;
            }
            let (name, after) = rest.split_at(end_of_name(rest).unwrap_or(rest.len()));
            result.push_str(name);
            rest = after;
            let value = rest.trim_start().strip_prefix('=').map(str::trim_start);
            let Some(value) = value else { continue };
            let at = rest.len() - value.len();
            result.push_str(&rest[..at]);
            let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
            let (value, length) = match quote {
                Some(quote) => {
                    result.push(quote);
                    let value = value[1..].split(quote).next().unwrap_or_default();
                    (value, value.len() + 1)
                }
                None => {
                    let value =
                        value.split(|c: char| c.is_whitespace() || c == '>').next().unwrap_or_default();
                    (value, value.len())
                }
            };
            let is_link = ATTRIBUTES.contains(&name.to_ascii_lowercase().as_str());
            match self.link(value).filter(|_| is_link) {
                Some(link) => result.push_str(&link),
                None => result.push_str(value),
            }
            rest = &rest[at + length..];
        }
        let raw = RAW.iter().find(|raw| opened[1..].eq_ignore_ascii_case(raw));
        let Some(raw) = raw else { return rest };
        let closing = format!("</{raw}");
        let end = rest.to_ascii_lowercase().find(&closing).unwrap_or(rest.len());
        let (text, rest) = rest.split_at(end);
        result.push_str(text);
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { prefix: "/p/proxy".into(), host: "api:6443".into() }
    }

    #[test]
    fn links_from_the_root_lead_below_the_proxy() {
        let rows = [
            (r#"<a href="/x">t</a>"#, r#"<a href="/p/proxy/x">t</a>"#),
            (r#"<A class=c HREF = '/x?y#z' >"#, r#"<A class=c HREF = '/p/proxy/x?y#z' >"#),
            ("<img src=/i.png><br/>", "<img src=/p/proxy/i.png><br/>"),
            (
                r#"<a href="x"><a href="//other/x"><a href="https://other/x">"#,
                r#"<a href="x"><a href="//other/x"><a href="https://other/x">"#,
            ),
            (r#"<a href="https://api:6443/x">"#, r#"<a href="https://api:6443/p/proxy/x">"#),
            (
                r#"<a href="/p/proxy/x"><p title="/x">a < b "/x""#,
                r#"<a href="/p/proxy/x"><p title="/x">a < b "/x""#,
            ),
            (
                r#"<script>"<a href='/x'>"</script><form action="/">"#,
                r#"<script>"<a href='/x'>"</script><form action="/p/proxy/">"#,
            ),
            (r#"<a href="/x"#, r#"<a href="/p/proxy/x"#),
            ("<a href=", "<a href="),
        ];
        for (html, expected) in rows {
            assert_eq!(place().page(html), expected, "{html}");
        }
    }

    #[test]
    fn a_redirect_stays_below_the_proxy_and_a_pod_grants_no_origin_anything() {
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, HeaderValue::from_static("/login"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        place().headers(&mut headers);
        assert_eq!(headers[header::LOCATION], "/p/proxy/login");
        assert_eq!(headers.len(), 1);
    }
}
