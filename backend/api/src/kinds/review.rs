//! Reviews: questions that are answered, not stored: who am I, may they, is this token good. And Binding, which is a
//! request to the scheduler's writing hand.
use crate::kind::{Kind, Verb};
use k8s_openapi::api::{
    authentication::v1 as authentication, authorization::v1 as authorization, core::v1 as core,
};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

/// Kinds that can only be created and whose answer is the response.
macro_rules! asked {
    ($($name:ident: $type:ty = $singular:literal;)*) => {$(
        pub struct $name;
        impl Kind for $name {
            type Object = $type;
            const SINGULAR: &'static str = $singular;
            const VERBS: &'static [Verb] = &[Verb::Create];
            const KEEPS_STATUS_AT_CREATION: bool = true;
            fn validate_name(_name: &str) -> Result<(), String> {
                Ok(())
            }
            fn cells(_object: &$type, _now: Timestamp) -> Vec<Value> {
                vec!["".into(), "<unknown>".into()]
            }
        }
    )*};
}

asked! {
    TokenReview: authentication::TokenReview = "tokenreview";
    SelfSubjectReview: authentication::SelfSubjectReview = "selfsubjectreview";
    SubjectAccessReview: authorization::SubjectAccessReview = "subjectaccessreview";
    LocalSubjectAccessReview: authorization::LocalSubjectAccessReview = "localsubjectaccessreview";
    SelfSubjectAccessReview: authorization::SelfSubjectAccessReview = "selfsubjectaccessreview";
    SelfSubjectRulesReview: authorization::SelfSubjectRulesReview = "selfsubjectrulesreview";
    Binding: core::Binding = "binding";
}
