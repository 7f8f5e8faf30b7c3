//! `authorizer` in expressions: what the caller of a request may do.
use crate::auth::{AUTHENTICATED, Attributes, Auth};
use crate::objects::Actor;
use pilothouse_api::cel::{Authorizer, Decision, Question};

pub struct Rights<'a> {
    pub auth: &'a Auth,
    pub actor: &'a Actor,
}

impl Authorizer for Rights<'_> {
    fn decide(&self, question: &Question) -> Decision {
        let account = question.service_account.as_ref().map(|(namespace, name)| Actor {
            user: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
                AUTHENTICATED.into(),
            ],
            ..Actor::default()
        });
        let wanted = Attributes {
            verb: question.verb.clone(),
            group: question.group.clone(),
            version: "*".into(),
            resource: question.resource.clone(),
            subresource: question.subresource.clone(),
            namespace: question.namespace.clone(),
            name: question.name.clone(),
            path: question.path.clone(),
            field_selector: question.field_selector.clone(),
        };
        match self.auth.decide(account.as_ref().unwrap_or(self.actor), &wanted) {
            Ok(()) => Decision { allowed: true, ..Decision::default() },
            Err(reason) => Decision { reason: reason.to_owned(), ..Decision::default() },
        }
    }
}
