//! What every request passes before it is answered: the audit log, its flow's turn, its caller's rights; in the order of
//! Kubernetes' own handler chain.
use super::reply;
use super::resources::read_body;
use crate::admission::Notes;
use crate::audit;
use crate::auth::{Attributes, Caller, Proof};
use crate::flow_control::{Flow, Permit};
use crate::objects::Actor;
use crate::state::AppState;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use pilothouse_api::Status;

/// Set by every browser, and by no page's script.
const BROWSER: &str = "sec-fetch-site";

/// Whether a request stays open for as long as its client likes.
pub fn is_long_running(wanted: &Attributes) -> bool {
    matches!(&*wanted.verb, "watch" | "proxy")
        || matches!(&*wanted.subresource, "attach" | "exec" | "proxy" | "log" | "portforward")
}

/// One request on its way.
pub struct Passage {
    audit: Option<audit::Entry>,
    flow: Option<Flow>,
    /// Held until the answer begins: of a watch only the start counts.
    permit: Option<Permit>,
    /// What the audit log is told of the caller's rights.
    decision: Option<&'static str>,
    /// A browser without a session is told to sign in, and not what nobody in particular may not do.
    may_sign_in: bool,
}

impl Passage {
    pub fn begin(app: &AppState, caller: &Caller, wanted: &Attributes, parts: &Parts) -> Self {
        let stays_open = is_long_running(wanted);
        // Streams have no seats, or a few of them would keep everybody else out.
        let has_turn = wanted.verb == "watch" || !stays_open;
        Self {
            audit: app.audit.begin(caller, wanted, parts, stays_open),
            flow: if has_turn { app.flow_control.classify(&caller.actor, wanted) } else { None },
            permit: None,
            decision: None,
            may_sign_in: caller.proof == Proof::Nothing && is_browser(&parts.headers),
        }
    }

    /// Waits for the request's turn, then asks whether the caller may.
    pub async fn enter(
        &mut self,
        app: &AppState,
        actor: &Actor,
        wanted: &Attributes,
        width: u32,
    ) -> Result<(), Status> {
        if let Some(flow) = &self.flow {
            self.permit = Some(flow.enter(width).await?);
        }
        let allowed = app.auth.authorize(actor, wanted);
        self.decision = Some(if allowed.is_ok() { "allow" } else { "forbid" });
        allowed.map_err(|refusal| if self.may_sign_in { Status::unauthorized() } else { refusal })
    }

    /// The body, which the audit log may want as well.
    pub async fn body(&mut self, body: Body) -> Result<Body, Status> {
        let Some(audit) = self.audit.as_mut().filter(|audit| audit.wants_request()) else { return Ok(body) };
        let bytes = read_body(body).await?;
        audit.request(&bytes);
        Ok(Body::from(bytes))
    }

    pub async fn finish(self, answer: Result<Response, Status>, notes: &Notes) -> Response {
        drop(self.permit);
        let (mut response, refusal) = match answer {
            Ok(response) => (response, None),
            Err(status) => (reply::status(&status), Some(status)),
        };
        if let Some(flow) = &self.flow {
            flow.mark(response.headers_mut());
        }
        reply::warn(&mut response, &notes.warnings());
        let Some(audit) = self.audit else { return response };
        let mut annotations = notes.annotations();
        if let Some(decision) = self.decision {
            annotations.insert("authorization.k8s.io/decision".into(), decision.into());
            annotations.insert("authorization.k8s.io/reason".into(), String::new());
        }
        audit.finish(response, refusal.as_ref(), annotations).await
    }
}

fn is_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(BROWSER)
}

/// Stands before every path that is no resource.
pub async fn paths(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let caller = match app.auth.caller(&parts.headers, parts.uri.path()).await {
        Ok(caller) => caller,
        Err(refused) => return reply::status(&refused),
    };
    let wanted = Attributes {
        verb: parts.method.as_str().to_ascii_lowercase(),
        path: parts.uri.path().to_owned(),
        ..Attributes::default()
    };
    let mut passage = Passage::begin(&app, &caller, &wanted, &parts);
    let answer = match passage.enter(&app, &caller.actor, &wanted, 1).await {
        Ok(()) => Ok(next.run(Request::from_parts(parts, body)).await),
        Err(refused) => Err(refused),
    };
    passage.finish(answer, &Notes::default()).await
}
