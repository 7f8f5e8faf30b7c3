//! What a client is told when a request fails: Kubernetes' `Status` (meta/v1), with code, reason and causes.
use crate::validation::FieldErrors;
use serde_json::{Value, json};
use std::fmt;

/// `status.reason`, machine-readable. The variants are Kubernetes' `StatusReason` constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

impl Reason {
    /// The HTTP status code that goes with the reason.
    pub fn code(self) -> u16 {
        match self {
            Reason::Unauthorized => 401,
            Reason::Forbidden => 403,
            Reason::NotFound => 404,
            Reason::MethodNotAllowed => 405,
            Reason::NotAcceptable => 406,
            Reason::AlreadyExists | Reason::Conflict => 409,
            Reason::Gone | Reason::Expired => 410,
            Reason::RequestEntityTooLarge => 413,
            Reason::UnsupportedMediaType => 415,
            Reason::Invalid => 422,
            Reason::TooManyRequests => 429,
            Reason::InternalError => 500,
            Reason::ServiceUnavailable => 503,
            Reason::Timeout | Reason::ServerTimeout => 504,
            Reason::BadRequest => 400,
        }
    }
}

/// One entry of `status.details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// A failed request, as every layer reports it and as the client reads it.
#[derive(Clone, Debug)]
pub struct Status {
    pub reason: Reason,
    pub message: String,
    pub details: Box<Details>,
}

/// `status.details`: what the failure is about.
#[derive(Clone, Debug, Default)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// For errors about an object this is the plural resource, for validation errors the kind, as Kubernetes does.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: Option<u32>,
}

impl Status {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), details: Box::default() }
    }

    fn about(reason: Reason, resource: &str, name: &str, message: String) -> Self {
        let (kind, group) = resource.split_once('.').unwrap_or((resource, ""));
        let details =
            Details { name: name.into(), group: group.into(), kind: kind.into(), ..Details::default() };
        Self { reason, message, details: Box::new(details) }
    }

    /// `resource` is `plural` or `plural.group`, as in [`crate::Key`].
    pub fn not_found(resource: &str, name: &str) -> Self {
        Self::about(Reason::NotFound, resource, name, format!("{resource} {name:?} not found"))
    }

    pub fn already_exists(resource: &str, name: &str) -> Self {
        Self::about(Reason::AlreadyExists, resource, name, format!("{resource} {name:?} already exists"))
    }

    pub fn conflict(resource: &str, name: &str, why: impl fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
        Self::about(Reason::Conflict, resource, name, message)
    }

    /// The object moved on since the client read it.
    pub fn stale(resource: &str, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    pub fn forbidden(resource: &str, name: &str, why: impl fmt::Display) -> Self {
        let message = match name {
            "" => format!("{resource} is forbidden: {why}"),
            name => format!("{resource} {name:?} is forbidden: {why}"),
        };
        Self::about(Reason::Forbidden, resource, name, message)
    }

    pub fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(Reason::InternalError, format!("Internal error occurred: {message}"))
    }

    /// A dependency is away for now; the client should come again.
    pub fn unavailable(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(Reason::ServiceUnavailable, message);
        status.details.retry_after_seconds = Some(retry_after_seconds);
        status
    }

    /// A watch or a continue token points before the oldest change still kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// A client asks for a revision that there is not yet: clients know the cause by its name and try again.
    pub fn ahead(asked: u64, reached: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {reached}");
        let mut status = Self::new(Reason::Timeout, message);
        status.details.retry_after_seconds = Some(1);
        status.details.causes = vec![Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        }];
        status
    }

    /// Validation failed: every wrong field is a cause. `kind` and `group` name the object's type.
    pub fn invalid(kind: &str, group: &str, name: &str, errors: &FieldErrors) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let text = match errors.as_slice() {
            [one] => one.to_string(),
            many => {
                let all: Vec<String> = many.iter().map(ToString::to_string).collect();
                format!("[{}]", all.join(", "))
            }
        };
        let causes = errors
            .as_slice()
            .iter()
            .map(|e| Cause { reason: e.kind.reason().into(), message: e.message(), field: e.field.clone() })
            .collect();
        Self {
            reason: Reason::Invalid,
            message: format!("{qualified} {name:?} is invalid: {text}"),
            details: Box::new(Details {
                name: name.into(),
                group: group.into(),
                kind: kind.into(),
                causes,
                ..Details::default()
            }),
        }
    }

    pub fn code(&self) -> u16 {
        self.reason.code()
    }

    /// The body sent to the client.
    pub fn to_json(&self) -> Value {
        let mut details = serde_json::Map::new();
        for (field, text) in [
            ("name", &self.details.name),
            ("group", &self.details.group),
            ("kind", &self.details.kind),
            ("uid", &self.details.uid),
        ] {
            if !text.is_empty() {
                details.insert(field.into(), json!(text));
            }
        }
        if !self.details.causes.is_empty() {
            let causes = self.details.causes.iter();
            let causes: Vec<Value> =
                causes.map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field})).collect();
            details.insert("causes".into(), causes.into());
        }
        if let Some(seconds) = self.details.retry_after_seconds {
            details.insert("retryAfterSeconds".into(), json!(seconds));
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": format!("{:?}", self.reason), "code": self.code(),
        });
        if !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_object_is_named_as_kubectl_prints_it() {
        let body = Status::not_found("deployments.apps", "web").to_json();
        assert_eq!(body["message"], "deployments.apps \"web\" not found");
        assert_eq!(body["code"], 404);
        assert_eq!(body["details"], json!({"name": "web", "group": "apps", "kind": "deployments"}));
    }
}
