//! Why a request failed, in words that can be shown.
use serde_json::Value;

/// One wrong field, as the server's `Status` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub field: String,
    pub message: String,
}

/// `ApiError::reason` where no answer came.
const UNREACHABLE: &str = "Unreachable";

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status; 0 where no answer came.
    pub code: u16,
    /// `Status.reason`, empty where the answer was no `Status`.
    pub reason: String,
    pub message: String,
    pub causes: Vec<Cause>,
}

impl ApiError {
    pub fn unreachable() -> Self {
        Self {
            reason: UNREACHABLE.into(),
            ..Self::local("The server did not answer. If this was a change, look whether it happened.")
        }
    }

    /// A failure on this side: unreadable input, a broken answer.
    pub fn local(message: impl Into<String>) -> Self {
        Self { code: 0, reason: String::new(), message: message.into(), causes: Vec::new() }
    }

    /// From an answer's HTTP status and body; also from the object of a watch's ERROR event.
    pub fn from_status(code: u16, status: Option<&Value>) -> Self {
        let text = |name: &str| status.and_then(|s| s[name].as_str()).unwrap_or_default().to_owned();
        let causes = status.and_then(|s| s["details"]["causes"].as_array());
        let cause = |cause: &Value| Cause {
            field: cause["field"].as_str().unwrap_or_default().to_owned(),
            message: cause["message"].as_str().unwrap_or_default().to_owned(),
        };
        let message = match text("message") {
            empty if empty.is_empty() => format!("The server answered {code}."),
            message => message,
        };
        let code =
            status.and_then(|s| s["code"].as_u64()).and_then(|c| u16::try_from(c).ok()).unwrap_or(code);
        Self {
            code,
            reason: text("reason"),
            message,
            causes: causes.into_iter().flatten().map(cause).collect(),
        }
    }

    /// Without what only programs read: the regular expressions behind each rule, the same rule said of several fields.
    pub fn brief(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        for cause in &self.causes {
            let said = brief(&cause.message);
            let part = if cause.field.is_empty() { said } else { format!("{}: {said}", cause.field) };
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        match parts.is_empty() {
            true => self.message.clone(),
            false => parts.join("; "),
        }
    }

    pub fn is_broken_connection(&self) -> bool {
        self.reason == UNREACHABLE
    }

    /// The state a watch continued from is gone: list again.
    pub fn is_expired(&self) -> bool {
        self.code == 410
    }

    pub fn is_conflict(&self) -> bool {
        self.code == 409 && self.reason == "Conflict"
    }

    /// Asking again won't help until rights or kinds change.
    pub fn is_final(&self) -> bool {
        matches!(self.code, 400 | 401 | 403 | 404 | 405)
    }
}

/// A rule without its example and its regular expression.
pub fn brief(message: &str) -> String {
    message.split(" (e.g. ").next().unwrap_or(message).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_brief_error_says_each_rule_once_and_no_regular_expression() {
        let rule = "must be lower case (e.g. 'my-name', regex used for validation is '[a-z]([a-z]*)')";
        let status = json!({"code": 422, "message": "long", "details": {"causes": [
            {"field": "metadata.name", "message": rule}, {"field": "metadata.name", "message": rule}]}});
        assert_eq!(ApiError::from_status(422, Some(&status)).brief(), "metadata.name: must be lower case");
        assert_eq!(ApiError::local("taken").brief(), "taken");
    }

    #[test]
    fn a_status_keeps_its_causes() {
        let status = json!({"kind": "Status", "code": 422, "reason": "Invalid", "message": "no",
            "details": {"causes": [{"field": "spec.replicas", "message": "must be positive"}]}});
        let error = ApiError::from_status(422, Some(&status));
        assert_eq!(error.causes[0].field, "spec.replicas");
        assert!(!error.is_final());
    }

    #[test]
    fn an_answer_that_is_no_status_still_says_something() {
        assert_eq!(ApiError::from_status(502, None).message, "The server answered 502.");
        assert!(ApiError::from_status(200, Some(&json!({"code": 410}))).is_expired());
    }
}
