//! `matchConditions`: CEL expressions that narrow a webhook's requests further than its rules can.
use cel::{Context, Program, Value as Cel};
use serde_json::Value;
use std::collections::HashMap;

/// The conditions of one webhook, by name.
pub struct Conditions(Vec<(String, Result<Program, String>)>);

impl Conditions {
    pub fn new(list: &Value) -> Self {
        let all = list.as_array().into_iter().flatten().map(|condition| {
            let text = |field: &str| condition[field].as_str().unwrap_or_default();
            let program = Program::compile(text("expression")).map_err(|error| error.to_string());
            (text("name").to_owned(), program)
        });
        Self(all.collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold for the request of a review. One that does not counts more than one that cannot be judged.
    /// Errors: why one cannot.
    pub fn hold(&self, asked: &Value) -> Result<bool, String> {
        let mut context = Context::default();
        for (name, value) in
            [("object", &asked["object"]), ("oldObject", &asked["oldObject"]), ("request", asked)]
        {
            context.add_variable_from_value(name, to_cel(value));
        }
        let mut failure = None;
        for (name, program) in &self.0 {
            let outcome = match program {
                Ok(program) => program.execute(&context).map_err(|error| error.to_string()),
                Err(error) => Err(error.clone()),
            };
            match outcome {
                Ok(Cel::Bool(true)) => {}
                Ok(Cel::Bool(false)) => return Ok(false),
                Ok(_) => failure = Some(format!("matchCondition {name:?}: expression must evaluate to bool")),
                Err(error) => failure = Some(format!("matchCondition {name:?}: {error}")),
            }
        }
        failure.map_or(Ok(true), Err)
    }
}

/// Whole numbers are `int`, as in Kubernetes' schemas.
fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Cel::Int(number),
            (None, Some(number)) => Cel::Float(number),
            (None, None) => Cel::Null,
        },
        Value::String(text) => Cel::from(text.as_str()),
        Value::Array(items) => Cel::from(items.iter().map(to_cel).collect::<Vec<_>>()),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (key.clone(), to_cel(value)));
            Cel::from(fields.collect::<HashMap<String, Cel>>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_see_the_object_and_the_request() {
        let asked = json!({"operation": "CREATE", "userInfo": {"username": "jane", "groups": ["dev"]},
            "object": {"metadata": {"name": "a", "labels": {"app": "web"}}, "spec": {"replicas": 3}}, "oldObject": null});
        let of = |expressions: &[&str]| {
            let list: Vec<Value> =
                expressions.iter().map(|e| json!({"name": "c", "expression": e})).collect();
            Conditions::new(&list.into()).hold(&asked)
        };
        for (expression, holds) in [
            ("object.spec.replicas > 2", true),
            ("request.userInfo.username == 'joe'", false),
            ("'dev' in request.userInfo.groups", true),
            ("oldObject == null", true),
            ("has(object.metadata.labels.app) && object.metadata.labels['app'] == 'web'", true),
            ("!('system:nodes' in request.userInfo.groups)", true),
        ] {
            assert_eq!(of(&[expression]), Ok(holds), "{expression}");
        }
        assert!(of(&["object.spec.nothing > 2"]).is_err());
        assert!(of(&["1 +"]).is_err());
        assert!(of(&["1 + 1"]).is_err());
        assert_eq!(of(&["object.spec.nothing > 2", "false"]), Ok(false));
        assert_eq!(of(&[]), Ok(true));
    }
}
