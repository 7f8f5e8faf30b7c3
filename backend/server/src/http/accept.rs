//! Content negotiation: in which form a client takes the answer.
use super::reply;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use pilothouse_api::{Reason, Status};
use serde_json::Value;

/// What answers are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Also for who would rather have protobuf: clients that do take JSON as well.
    Json,
    Yaml,
}

impl Format {
    /// By the `Accept` header, the first form named that there is. Errors: NotAcceptable.
    pub fn of(accept: &str) -> Result<Self, Status> {
        if accept.is_empty() {
            return Ok(Self::Json);
        }
        let media = |form: &str| form.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        accept
            .split(',')
            .find_map(|form| match media(form).as_str() {
                "application/json" | "application/vnd.kubernetes.protobuf" | "application/*" | "*/*" => {
                    Some(Self::Json)
                }
                "application/yaml" => Some(Self::Yaml),
                _ => None,
            })
            .ok_or_else(not_acceptable)
    }

    /// A JSON answer in this form.
    pub async fn write(self, response: Response) -> Response {
        let is_json =
            response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
        if self == Self::Json || !is_json {
            return response;
        }
        let (mut parts, body) = response.into_parts();
        let Ok(bytes) = to_bytes(body, usize::MAX).await else {
            return reply::status(&Status::internal("the answer could not be read"));
        };
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        match serde_yaml_ng::to_string(&value) {
            Ok(text) => {
                parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/yaml"));
                parts.headers.remove(header::CONTENT_LENGTH);
                Response::from_parts(parts, Body::from(text))
            }
            Err(error) => reply::status(&Status::internal(error)),
        }
    }
}

pub fn not_acceptable() -> Status {
    Status::new(
        Reason::NotAcceptable,
        "only the following media types are accepted: application/json, application/yaml, \
         application/vnd.kubernetes.protobuf",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_there_is_counts() {
        let rows = [
            ("", Some(Format::Json)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Format::Json)),
            ("application/yaml", Some(Format::Yaml)),
            ("text/html, application/json;q=0.8", Some(Format::Json)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io", Some(Format::Json)),
            ("application/cbor", None),
        ];
        for (accept, expected) in rows {
            assert_eq!(Format::of(accept).ok(), expected, "{accept}");
        }
        assert_eq!(Format::of("text/html").unwrap_err().code(), 406);
    }
}
