//! Admission policies, made ready to be asked: their expressions, the names these may use, and what they cost.
//! Follows Kubernetes' "Validating Admission Policy" and "Mutating Admission Policy".
mod expressions;
mod mutating;
mod type_check;
mod validating;

pub use expressions::{validate_conditions, validate_mutating, validate_validating};
pub use mutating::MutatingPolicy;
pub use type_check::warnings;
pub use validating::{Denial, ValidatingPolicy, Verdict};

use crate::cel::{Authorizer, Evaluation, Failure, Program, Question, Scope, Type, V};
use crate::custom::schema::Schema;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// Kubernetes' limits of runtime cost: of one policy for one request, of all its match conditions, of one expression.
const POLICY_BUDGET: u64 = 10_000_000;
const CONDITIONS_BUDGET: u64 = POLICY_BUDGET / 4;
const CALL_BUDGET: u64 = 1_000_000;

/// What expressions may look at. Null stands for what is not there.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub object: &'a Value,
    pub old: &'a Value,
    /// The AdmissionReview's request, without the objects.
    pub request: &'a Value,
    /// None where the policy has no `paramKind`.
    pub params: Option<&'a Value>,
    /// The namespace that the request is in.
    pub namespace: &'a Value,
    pub authorizer: &'a dyn Authorizer,
}

impl<'a> Inputs<'a> {
    fn evaluation(&self, budget: u64, variables: &'a [Variable]) -> Evaluation<'a> {
        let mut evaluation = Evaluation::new(budget);
        for (name, value) in [
            ("object", self.object),
            ("oldObject", self.old),
            ("request", self.request),
            ("namespaceObject", self.namespace),
        ] {
            evaluation.bind(name, V::of(value, None));
        }
        if let Some(params) = self.params {
            evaluation.bind("params", V::of(params, None));
        }
        evaluation.ask(self.authorizer, self.resource());
        for variable in variables {
            if let Ok(program) = &variable.program {
                evaluation.compose(&variable.name, program);
            }
        }
        evaluation
    }

    /// What the request is about, as a question about rights.
    fn resource(&self) -> Question {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (request, resource) = (self.request, &self.request["resource"]);
        Question::about(
            text(&resource["group"]),
            text(&resource["resource"]),
            text(&request["subResource"]),
            text(&request["namespace"]),
            text(&request["name"]),
        )
    }
}

/// `spec.variables`: what `variables.name` leads to.
struct Variable {
    name: String,
    program: Compiled,
}

/// A stored expression was checked when it came; one that cannot be read any more fails when it is asked.
type Compiled = Result<Program, String>;

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn variables(spec: &Value) -> Vec<Variable> {
    let all = list(&spec["variables"]);
    all.map(|of| Variable {
        name: text(of, "name").to_owned(),
        program: Program::parse(text(of, "expression")),
    })
    .collect()
}

/// Why an expression has no value.
enum Stop {
    Error(String),
    /// The whole budget is spent: nothing more can be asked.
    Budget,
}

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

impl Stop {
    fn message(self) -> String {
        match self {
            Self::Error(why) => why,
            Self::Budget => OUT_OF_BUDGET.into(),
        }
    }
}

fn evaluate<'a>(evaluation: &mut Evaluation<'a>, program: &Compiled) -> Result<V<'a>, Stop> {
    let program = program.as_ref().map_err(|why| Stop::Error(format!("compilation error: {why}")))?;
    let failed =
        |why: &str| Err(Stop::Error(format!("expression '{}' resulted in error: {why}", program.source())));
    match evaluation.run_within(CALL_BUDGET, program) {
        Ok(value) => Ok(value),
        Err(Failure::Error(why)) => failed(&why),
        Err(Failure::Spent) if evaluation.left() == 0 => Err(Stop::Budget),
        Err(Failure::Spent) => failed("operation cancelled: actual cost limit exceeded"),
    }
}

/// `matchConditions`: expressions that narrow requests further than rules can.
pub struct Conditions(Vec<Compiled>);

impl Conditions {
    pub fn new(conditions: &Value) -> Self {
        Self(list(conditions).map(|condition| Program::parse(text(condition, "expression"))).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold. One that does not counts more than one that cannot be judged. Errors: why one cannot.
    pub fn hold(&self, inputs: &Inputs<'_>) -> Result<bool, String> {
        let mut evaluation = inputs.evaluation(CONDITIONS_BUDGET, &[]);
        let mut failures = Vec::new();
        for program in &self.0 {
            match evaluate(&mut evaluation, program) {
                Ok(V::Bool(true)) => {}
                Ok(V::Bool(false)) => return Ok(false),
                Ok(_) => failures.push("expression must evaluate to bool".to_owned()),
                Err(stop @ Stop::Budget) => return Err(stop.message()),
                Err(stop) => failures.push(stop.message()),
            }
        }
        match failures.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

/// `request`, without what it is about.
static REQUEST: LazyLock<Schema> = LazyLock::new(|| {
    let texts = |names: &[&str]| {
        let fields = names.iter().map(|name| ((*name).to_owned(), json!({"type": "string"})));
        json!({"type": "object", "properties": fields.collect::<serde_json::Map<_, _>>()})
    };
    let (kind, resource) = (texts(&["group", "version", "kind"]), texts(&["group", "version", "resource"]));
    let strings = json!({"type": "array", "items": {"type": "string"}});
    let mut user = texts(&["username", "uid"]);
    user["properties"]["groups"] = strings.clone();
    user["properties"]["extra"] = json!({"type": "object", "additionalProperties": strings});
    let mut request = texts(&["uid", "subResource", "requestSubResource", "name", "namespace", "operation"]);
    for (name, schema) in [
        ("kind", kind.clone()),
        ("requestKind", kind),
        ("resource", resource.clone()),
        ("requestResource", resource),
        ("userInfo", user),
        ("dryRun", json!({"type": "boolean"})),
        ("options", json!({})),
    ] {
        request["properties"][name] = schema;
    }
    Schema::new(&request)
});

/// `namespaceObject`: what is shown of a namespace.
static NAMESPACE: LazyLock<Schema> = LazyLock::new(|| {
    let map = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let strings = json!({"type": "array", "items": {"type": "string"}});
    let time = json!({"type": "string", "format": "date-time"});
    Schema::new(&json!({"type": "object", "properties": {
        "metadata": {"type": "object", "properties": {
            "name": {"type": "string"}, "generateName": {"type": "string"}, "namespace": {"type": "string"},
            "uid": {"type": "string"}, "resourceVersion": {"type": "string"}, "generation": {"type": "integer"},
            "creationTimestamp": time, "deletionTimestamp": time, "deletionGracePeriodSeconds": {"type": "integer"},
            "labels": map, "annotations": map, "finalizers": strings}},
        "spec": {"type": "object", "properties": {"finalizers": strings}},
        "status": {"type": "object", "properties": {"phase": {"type": "string"}, "conditions": {"type": "array",
            "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}},
    }}))
});

/// The namespace as `namespaceObject` shows it; Null where there is none.
pub fn namespace_object(namespace: &Value) -> Value {
    let mut shown = json!({});
    for part in ["metadata", "spec", "status"] {
        if let Some(value) = namespace.get(part) {
            shown[part] = value.clone();
        }
    }
    if let Some(metadata) = shown.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        metadata.remove("ownerReferences");
    }
    if namespace.is_object() { shown } else { Value::Null }
}

/// The names that a policy's expressions may use.
struct Names<'s> {
    object: Type<'s>,
    params: Option<Type<'s>>,
}

impl<'s> Names<'s> {
    fn untyped(has_params: bool) -> Self {
        Self { object: Type::Dyn, params: has_params.then_some(Type::Dyn) }
    }

    fn scope(&self) -> Scope<'s> {
        let mut scope = Scope::default();
        scope.declare("object", self.object.clone());
        scope.declare("oldObject", self.object.clone());
        scope.declare("request", Type::of(&REQUEST));
        scope.declare("namespaceObject", Type::of(&NAMESPACE));
        if let Some(params) = &self.params {
            scope.declare("params", params.clone());
        }
        scope
    }

    /// With the right to ask about rights, which messages do not have.
    fn scope_with_authorizer(&self) -> Scope<'s> {
        let mut scope = self.scope();
        scope.declare("authorizer", Type::named("kubernetes.authorization.Authorizer"));
        scope
    }
}

#[cfg(test)]
mod tests;
