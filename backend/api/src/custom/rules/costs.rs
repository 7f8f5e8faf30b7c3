//! What the rules of a definition may cost at most, by Kubernetes' estimate: one that may take too long on the largest
//! objects that the schema lets in is refused before there is any.
use super::Rule;
use crate::cel::{MAX_REQUEST, min_bytes};
use crate::custom::schema::{Additional, Schema};
use crate::validation::{FieldErrors, Path};

/// Of one rule, for all places of an object to which it applies.
const RULE_LIMIT: u64 = 10_000_000;
/// Of all rules of a version.
const TOTAL_LIMIT: u64 = 100_000_000;
/// The costliest are named where all together are too much.
const NAMED: usize = 4;

pub fn validate_costs(schema: &Schema, path: &Path, errors: &mut FieldErrors) {
    let mut walk = Walk { total: 0, costly: Vec::new(), errors };
    walk.visit(schema, path, Some(1));
    let Walk { total, mut costly, errors } = walk;
    if total <= TOTAL_LIMIT {
        return;
    }
    costly.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
    for (path, _) in costly.into_iter().take(NAMED) {
        let why = "contributed to estimated rule & messageExpression cost total exceeding cost limit for entire OpenAPIv3 schema";
        errors.forbidden(&path, why);
    }
    let what =
        "x-kubernetes-validations estimated rule & messageExpression cost total for entire OpenAPIv3 schema";
    errors.forbidden(path, exceeded(what, total, TOTAL_LIMIT));
}

struct Walk<'e> {
    total: u64,
    costly: Vec<(Path, u64)>,
    errors: &'e mut FieldErrors,
}

impl Walk<'_> {
    /// `places`: at how many the schema applies at most; None where nothing bounds them but the size of a request.
    fn visit(&mut self, schema: &Schema, path: &Path, places: Option<u64>) {
        for (index, rule) in schema.rules.iter().enumerate() {
            self.rule(rule, schema, &path.child("x-kubernetes-validations").index(index), places);
        }
        let times = |more: Option<u64>| Some(places?.saturating_mul(more?));
        for (name, property) in &schema.properties {
            // Beside additional properties, those that are declared count as they do.
            let more = if schema.additional.is_some() { schema.checks.max_properties } else { Some(1) };
            self.visit(property, &path.child("properties").key(name), times(more));
        }
        if let Some(Additional::Of(of)) = &schema.additional {
            self.visit(of, &path.child("additionalProperties"), times(schema.checks.max_properties));
        }
        if let Some(items) = &schema.items {
            self.visit(items, &path.child("items"), times(schema.checks.max_items));
        }
    }

    fn rule(&mut self, rule: &Rule, schema: &Schema, path: &Path, places: Option<u64>) {
        let places = places.unwrap_or(MAX_REQUEST / (min_bytes(schema) + 1));
        if let Some(program) = &rule.program {
            let cost = program.max_cost(schema).saturating_mul(places);
            self.observe("estimated rule cost", cost, path.child("rule"));
        }
        // A message is made for the first failure alone.
        if let Some(program) = &rule.message_expression {
            let cost = program.max_cost(schema);
            self.observe("estimated messageExpression cost", cost, path.child("messageExpression"));
        }
    }

    fn observe(&mut self, what: &str, cost: u64, path: Path) {
        self.total = self.total.saturating_add(cost);
        if cost > RULE_LIMIT {
            self.errors.forbidden(&path, exceeded(what, cost, RULE_LIMIT));
        }
        if cost >= TOTAL_LIMIT / 100 {
            self.costly.push((path, cost));
        }
    }
}

fn exceeded(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        // Such a rule would never be let in without a limit somewhere.
        factor if factor > 100.0 => "more than 100x".to_owned(),
        // Not "1.0x".
        factor if factor < 1.5 => format!("{factor:.6}x"),
        factor => format!("{factor:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn errors_of(spec: Value) -> Vec<String> {
        let schema = Schema::root(&json!({"type": "object", "properties": {"spec": spec}}));
        let mut errors = FieldErrors::default();
        validate_costs(&schema, &Path::new("s"), &mut errors);
        errors.as_slice().iter().map(ToString::to_string).collect()
    }

    fn rules(rule: &str) -> Value {
        json!([{"rule": rule}])
    }

    #[test]
    fn a_rule_is_measured_by_the_largest_object_that_the_schema_lets_in() {
        let list = |max: Value, length: Value, rule: &str| {
            let mut list = json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": rules(rule)});
            if max.is_u64() {
                list["maxItems"] = max;
            }
            if length.is_u64() {
                list["items"]["maxLength"] = length;
            }
            list
        };
        let rows = [
            (list(json!(null), json!(null), "self.size() < 3"), ""),
            // A comparison of each with a literal, a million times.
            (list(json!(null), json!(null), "self.all(x, x != 'a')"), ""),
            (list(json!(null), json!(null), "self.all(x, self.exists(y, x == y))"), "more than 100x"),
            (list(json!(100), json!(64), "self.all(x, self.exists(y, x == y))"), ""),
            (list(json!(1000), json!(64), "self.all(x, self.exists_one(y, x == y))"), "3.0x"),
            (list(json!(100), json!(null), "self.all(x, x.contains('a'))"), "3.1x"),
            (list(json!(100), json!(null), "self.all(x, x.matches('^[a-z]+$'))"), "6.3x"),
            (list(json!(100), json!(253), "self.all(x, x.matches('^[a-z]+$'))"), ""),
            (list(json!(null), json!(null), "self == oldSelf"), ""),
            (list(json!(null), json!(null), "self.map(x, x + 'b').size() > 0"), "more than 100x"),
        ];
        for (list, factor) in rows {
            let told = errors_of(json!({"type": "object", "properties": {"list": list}}));
            let place = "s.properties[spec].properties[list].x-kubernetes-validations[0].rule";
            let whole = format!(
                "{place}: Forbidden: estimated rule cost exceeds budget by factor of {factor} (try simplifying the rule, or \
                 adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
            );
            match factor {
                "" => assert_eq!(told, Vec::<String>::new(), "{list}"),
                _ => assert_eq!(told.first(), Some(&whole), "{list}"),
            }
        }
    }

    #[test]
    fn a_rule_below_a_list_counts_once_an_item() {
        let item = json!({"type": "string", "maxLength": 500_000, "x-kubernetes-validations": rules("self.contains('keyword')")});
        let entry = json!({"type": "string", "maxLength": 2048, "x-kubernetes-validations": rules("self.contains('keyword')")});
        let spec = json!({"type": "object", "properties": {
            "list": {"type": "array", "items": item},
            "map": {"type": "object", "maxProperties": 10_000, "additionalProperties": entry},
            "number": {"type": "integer", "x-kubernetes-validations": rules("self > 50 && self < 100")},
        }});
        let told = errors_of(spec);
        let list = "s.properties[spec].properties[list].items.x-kubernetes-validations[0].rule";
        let map = "s.properties[spec].properties[map].additionalProperties.x-kubernetes-validations[0].rule";
        let begins = [
            format!("{list}: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try"),
            format!("{list}: Forbidden: contributed to estimated rule & messageExpression cost total exceeding"),
            format!("{map}: Forbidden: contributed to estimated rule & messageExpression cost total exceeding"),
            "s: Forbidden: x-kubernetes-validations estimated rule & messageExpression cost total for entire OpenAPIv3 \
             schema exceeds budget by factor of more than 100x (try"
                .to_owned(),
        ];
        assert_eq!(told.len(), begins.len(), "{told:#?}");
        for (told, begin) in told.iter().zip(begins) {
            assert!(told.starts_with(&begin), "{told}\n{begin}");
        }
    }
}
