//! A MutatingAdmissionPolicy: what it makes of one object.
use super::{Compiled, Conditions, Inputs, POLICY_BUDGET, Variable, evaluate, list, text, variables};
use crate::apply;
use crate::cel::{Program, V};
use crate::kind::KindEntry;
use crate::patch::{PatchType, patch};
use serde_json::{Map, Value};

pub struct MutatingPolicy {
    pub has_params: bool,
    /// Whether it wants to see what others changed after it.
    pub is_reinvoked: bool,
    ignores_failure: bool,
    variables: Vec<Variable>,
    conditions: Conditions,
    mutations: Vec<Mutation>,
}

enum Mutation {
    ApplyConfiguration(Compiled),
    JsonPatch(Compiled),
}

impl MutatingPolicy {
    pub fn new(policy: &Value) -> Self {
        let spec = &policy["spec"];
        let mutations = list(&spec["mutations"]).map(|of| match of["patchType"].as_str() {
            Some("JSONPatch") => Mutation::JsonPatch(Program::parse(text(&of["jsonPatch"], "expression"))),
            _ => Mutation::ApplyConfiguration(Program::parse(text(&of["applyConfiguration"], "expression"))),
        });
        Self {
            has_params: spec["paramKind"].is_object(),
            is_reinvoked: spec["reinvocationPolicy"] == "IfNeeded",
            ignores_failure: spec["failurePolicy"] == "Ignore",
            variables: variables(spec),
            conditions: Conditions::new(&spec["matchConditions"]),
            mutations: mutations.collect(),
        }
    }

    pub fn ignores_failure(&self) -> bool {
        self.ignores_failure
    }

    /// Changes `object`, which is in the shape of `entry`; each mutation sees what those before it did. `inputs` hold
    /// everything else. Gives what went wrong.
    pub fn mutate(&self, entry: &KindEntry, inputs: &Inputs<'_>, object: &mut Value) -> Vec<String> {
        let seen = object.clone();
        match self.conditions.hold(&Inputs { object: &seen, ..*inputs }) {
            Ok(true) => {}
            Ok(false) => return Vec::new(),
            Err(why) => return vec![why],
        }
        let mut failures = Vec::new();
        for mutation in &self.mutations {
            let seen = object.clone();
            match self.change(mutation, entry, &Inputs { object: &seen, ..*inputs }) {
                Ok(changed) => *object = changed,
                Err(why) => failures.push(why),
            }
        }
        failures
    }

    fn change(&self, mutation: &Mutation, entry: &KindEntry, inputs: &Inputs<'_>) -> Result<Value, String> {
        let mut evaluation = inputs.evaluation(POLICY_BUDGET, &self.variables);
        match mutation {
            Mutation::ApplyConfiguration(program) => {
                let value = evaluate(&mut evaluation, program).map_err(super::Stop::message)?;
                match &value {
                    V::Struct(name, _) if &**name == "Object" => {}
                    other => return Err(format!("must evaluate to Object, not {}", other.type_name())),
                }
                let applied = value.to_json().ok_or("what is applied is no JSON")?;
                apply::configure(entry, inputs.object, &applied)
            }
            Mutation::JsonPatch(program) => {
                let value = evaluate(&mut evaluation, program).map_err(super::Stop::message)?;
                let items = value.items().ok_or("must evaluate to list(JSONPatch)")?;
                let operations = items.iter().map(operation).collect::<Result<Vec<_>, _>>()?;
                let changed = patch(PatchType::Json, entry, inputs.object, &Value::Array(operations));
                changed.map_err(|status| format!("JSON Patch: {}", status.message))
            }
        }
    }
}

fn operation(item: &V<'_>) -> Result<Value, String> {
    let V::Struct(name, fields) = item else { return Err("must evaluate to list(JSONPatch)".into()) };
    if &**name != "JSONPatch" {
        return Err("must evaluate to list(JSONPatch)".into());
    }
    let mut operation = Map::new();
    for (field, value) in fields.iter() {
        let value = value.to_json().ok_or_else(|| format!("{field} of a JSONPatch is no JSON"))?;
        operation.insert(field.to_string(), value);
    }
    Ok(Value::Object(operation))
}
