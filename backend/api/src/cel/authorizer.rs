//! `authorizer`: questions about rights inside expressions.
use super::evaluate::{Evaluation, Failure, Outcome};
use super::value::V;
use std::rc::Rc;

/// Kubernetes' cost of one question.
const CHECK_COST: u64 = 350_000;

/// Answers what the caller, or a service account, may do.
pub trait Authorizer {
    fn decide(&self, question: &Question) -> Decision;
}

/// What is asked, as far as it has been said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    pub stage: Stage,
    /// Namespace and name; None asks about the caller.
    pub service_account: Option<(String, String)>,
    /// For what is no resource.
    pub path: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: String,
    pub label_selector: String,
    pub verb: String,
}

impl Question {
    /// About a resource; only the verb is missing.
    pub fn about(
        group: String,
        resource: String,
        subresource: String,
        namespace: String,
        name: String,
    ) -> Self {
        Self { stage: Stage::Resource, group, resource, subresource, namespace, name, ..Self::default() }
    }
}

/// What may be said next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    #[default]
    Start,
    Path,
    Group,
    Resource,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    /// Empty unless the question could not be answered.
    pub error: String,
}

pub fn question_method<'a>(
    cx: &mut Evaluation<'a>,
    name: &str,
    question: &Question,
    rest: &[V<'a>],
) -> Option<Outcome<'a>> {
    let mut next = question.clone();
    let texts: Vec<&str> = rest
        .iter()
        .map_while(|value| if let V::String(text) = value { Some(&**text) } else { None })
        .collect();
    match (question.stage, name, texts.as_slice()) {
        (Stage::Start, "path", [""]) => return Some(Failure::error("path must not be empty")),
        (Stage::Start, "path", [path]) => {
            next.path = (*path).to_owned();
            next.stage = Stage::Path;
        }
        (Stage::Start, "group", [group]) => {
            next.group = (*group).to_owned();
            next.stage = Stage::Group;
        }
        (Stage::Start, "serviceAccount", [namespace, name]) => {
            next.service_account = Some(((*namespace).to_owned(), (*name).to_owned()));
        }
        (Stage::Group, "resource", [resource]) => {
            next.resource = (*resource).to_owned();
            next.stage = Stage::Resource;
        }
        (Stage::Resource, "subresource", [text]) => next.subresource = (*text).to_owned(),
        (Stage::Resource, "namespace", [text]) => next.namespace = (*text).to_owned(),
        (Stage::Resource, "name", [text]) => next.name = (*text).to_owned(),
        (Stage::Resource, "fieldSelector", [text]) => next.field_selector = (*text).to_owned(),
        (Stage::Resource, "labelSelector", [text]) => next.label_selector = (*text).to_owned(),
        (Stage::Path | Stage::Resource, "check", [verb]) => {
            next.verb = (*verb).to_owned();
            if let Err(spent) = cx.spend(CHECK_COST) {
                return Some(Err(spent));
            }
            return Some(match cx.authorizer() {
                Some(authorizer) => Ok(V::Decision(Rc::new(authorizer.decide(&next)))),
                None => Failure::error("no authorizer is here to be asked"),
            });
        }
        _ => return None,
    }
    Some(Ok(V::Question(Rc::new(next))))
}

pub fn decision_method<'a>(name: &str, decision: &Decision) -> Option<Outcome<'a>> {
    Some(Ok(match name {
        "allowed" => V::Bool(decision.allowed),
        "reason" => V::text(decision.reason.as_str()),
        "errored" => V::Bool(!decision.error.is_empty()),
        "error" => V::text(decision.error.as_str()),
        _ => return None,
    }))
}
