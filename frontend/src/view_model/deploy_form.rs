//! The form that deploys an image: what it makes, and which of its fields an error of the server is about.
use super::names::{Shape, problem_of_name};
use crate::api::ApiError;
use crate::api::error::brief;
use serde_json::{Map, Value, json};

/// Where a variable's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Value,
    Secret,
    ConfigMap,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    pub name: String,
    pub from: From,
    /// The value itself, or the Secret's or ConfigMap's name.
    pub value: String,
    /// Only for a Secret or ConfigMap.
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// As typed.
    pub container: String,
    /// As typed; empty is the container's.
    pub service: String,
    pub protocol: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    pub namespace: String,
    pub name: String,
    pub image: String,
    pub replicas: String,
    pub command: String,
    pub ports: Vec<Port>,
    /// Empty makes no Service; else its type.
    pub service_type: String,
    pub variables: Vec<Variable>,
    pub cpu_request: String,
    pub cpu_limit: String,
    pub memory_request: String,
    pub memory_limit: String,
}

impl Default for Form {
    fn default() -> Self {
        let empty = String::new;
        Self {
            namespace: empty(),
            name: empty(),
            image: empty(),
            replicas: "1".into(),
            command: empty(),
            ports: Vec::new(),
            service_type: "ClusterIP".into(),
            variables: Vec::new(),
            cpu_request: empty(),
            cpu_limit: empty(),
            memory_request: empty(),
            memory_limit: empty(),
        }
    }
}

/// A field of the form and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `name`, `image`, `port-0`, `env-2`, `memory-limit`; empty for the whole form.
    pub field: String,
    pub message: String,
}

impl Form {
    /// What can't even be sent. Everything else the server judges.
    pub fn problems(&self) -> Vec<Problem> {
        let mut out = Vec::new();
        let mut add = |field: String, message: &str| out.push(Problem { field, message: message.into() });
        // A Service of that name is made too where ports are offered, and its name has no dots.
        let shape = if self.ports.is_empty() { Shape::Subdomain } else { Shape::Label };
        if let Some(problem) = problem_of_name(&self.name, shape) {
            add("name".into(), problem);
        }
        if self.image.is_empty() {
            add("image".into(), "which image should run?");
        }
        if self.replicas.parse::<u32>().is_err() {
            add("replicas".into(), "a whole number, 0 or more");
        }
        for (index, port) in self.ports.iter().enumerate() {
            if port.container.parse::<u16>().is_err()
                || (!port.service.is_empty() && port.service.parse::<u16>().is_err())
            {
                add(format!("port-{index}"), "a port is a number from 1 to 65535");
            }
        }
        for (index, variable) in self.variables.iter().enumerate() {
            if variable.name.is_empty() {
                add(format!("env-{index}"), "a variable has a name");
            } else if variable.from != From::Value && (variable.value.is_empty() || variable.key.is_empty()) {
                add(format!("env-{index}"), "say which object and which of its keys");
            }
        }
        out
    }

    /// The Deployment and, where ports are offered, the Service.
    pub fn objects(&self) -> Vec<Value> {
        let labels = json!({"app": self.name});
        let mut container = json!({"name": container_name(&self.name), "image": self.image});
        let command = words(&self.command);
        if !command.is_empty() {
            container["command"] = command.into();
        }
        if !self.ports.is_empty() {
            let port =
                |port: &Port| json!({"containerPort": numeric(&port.container), "protocol": port.protocol});
            container["ports"] = self.ports.iter().map(port).collect();
        }
        if !self.variables.is_empty() {
            container["env"] = self.variables.iter().map(variable).collect();
        }
        if let Some(resources) = self.resources() {
            container["resources"] = resources;
        }
        let deployment = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": labels},
            "spec": {
                "replicas": numeric(&self.replicas),
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        });
        let mut objects = vec![deployment];
        if !self.ports.is_empty() && !self.service_type.is_empty() {
            objects.push(self.service(&labels));
        }
        objects
    }

    fn service(&self, labels: &Value) -> Value {
        let port = |(index, port): (usize, &Port)| {
            let own = if port.service.is_empty() { &port.container } else { &port.service };
            let mut out = json!({"port": numeric(own), "targetPort": numeric(&port.container), "protocol": port.protocol});
            if self.ports.len() > 1 {
                out["name"] = format!("port-{index}").into();
            }
            out
        };
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": labels},
            "spec": {
                "type": self.service_type,
                "selector": labels,
                "ports": self.ports.iter().enumerate().map(port).collect::<Vec<_>>(),
            },
        })
    }

    fn resources(&self) -> Option<Value> {
        let amounts = |cpu: &str, memory: &str| {
            let filled =
                [("cpu", cpu), ("memory", memory)].into_iter().filter(|(_, amount)| !amount.is_empty());
            filled.map(|(name, amount)| (name.to_owned(), Value::from(amount))).collect::<Map<_, _>>()
        };
        let mut out = Map::new();
        for (name, amounts) in [
            ("requests", amounts(&self.cpu_request, &self.memory_request)),
            ("limits", amounts(&self.cpu_limit, &self.memory_limit)),
        ] {
            if !amounts.is_empty() {
                out.insert(name.into(), amounts.into());
            }
        }
        (!out.is_empty()).then(|| out.into())
    }
}

/// A container's name may have 63 characters and no dots; a Deployment's may have more.
fn container_name(name: &str) -> String {
    let name: String = name.chars().map(|c| if c == '.' { '-' } else { c }).take(63).collect();
    name.trim_end_matches('-').to_owned()
}

/// What was typed, as a number where it is one, so that a preview shows what was typed.
fn numeric(text: &str) -> Value {
    text.trim().parse::<u32>().map_or_else(|_| Value::from(text), Value::from)
}

fn variable(variable: &Variable) -> Value {
    let reference = json!({"name": variable.value, "key": variable.key});
    match variable.from {
        From::Value => json!({"name": variable.name, "value": variable.value}),
        From::Secret => json!({"name": variable.name, "valueFrom": {"secretKeyRef": reference}}),
        From::ConfigMap => json!({"name": variable.name, "valueFrom": {"configMapKeyRef": reference}}),
    }
}

/// Splits a command as a shell would, quotes respected; nothing is expanded.
pub fn words(line: &str) -> Vec<String> {
    let (mut out, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => out.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    out
}

/// The server's complaints, each at the field it is about; what fits no field stands at the form.
pub fn problems_of(error: &ApiError) -> Vec<Problem> {
    let mut out: Vec<Problem> = error
        .causes
        .iter()
        .map(|cause| Problem { field: field_of(&cause.field), message: brief(&cause.message) })
        .collect();
    if out.iter().all(|problem| problem.field.is_empty()) {
        out = vec![Problem { field: String::new(), message: error.message.clone() }];
        if error.reason == "AlreadyExists" {
            out[0].field = "name".into();
        }
    }
    out
}

fn field_of(path: &str) -> String {
    let index = |after: &str| {
        let (_, rest) = path.split_once(after)?;
        rest.split_once(']').map(|(index, _)| index.to_owned())
    };
    let resource = |what: &str| match (path.contains("limits"), path.contains("requests")) {
        (true, _) => format!("{what}-limit"),
        (_, true) => format!("{what}-request"),
        _ => String::new(),
    };
    match path {
        _ if path.contains("resources") && path.contains("cpu") => resource("cpu"),
        _ if path.contains("resources") && path.contains("memory") => resource("memory"),
        _ if path.contains(".env[") => index(".env[").map(|i| format!("env-{i}")).unwrap_or_default(),
        _ if path.contains("ports[") => index("ports[").map(|i| format!("port-{i}")).unwrap_or_default(),
        _ if path.ends_with(".image") => "image".into(),
        _ if path.ends_with(".command") => "command".into(),
        "spec.replicas" => "replicas".into(),
        "metadata.namespace" => "namespace".into(),
        // The name is also the label and the container's name.
        _ if path.starts_with("metadata.") || path.ends_with(".name") || path.contains("abels") => {
            "name".into()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error::Cause;

    fn form() -> Form {
        Form { namespace: "n".into(), name: "web.v1".into(), image: "nginx".into(), ..Form::default() }
    }

    #[test]
    fn the_smallest_form_makes_one_deployment() {
        let objects = form().objects();
        assert_eq!(objects.len(), 1);
        assert_eq!(
            objects[0],
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web.v1", "namespace": "n", "labels": {"app": "web.v1"}},
                "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web.v1"}}, "template": {"metadata": {"labels": {"app": "web.v1"}},
                "spec": {"containers": [{"name": "web-v1", "image": "nginx"}]}}}})
        );
        assert_eq!(form().problems(), []);
    }

    #[test]
    fn everything_filled_in_reaches_the_objects() {
        let form = Form {
            command: "sh -c 'echo hi'".into(),
            ports: vec![Port { container: "8080".into(), service: "80".into(), protocol: "TCP" }],
            variables: vec![
                Variable { name: "A".into(), from: From::Value, value: "1".into(), key: String::new() },
                Variable { name: "B".into(), from: From::Secret, value: "s".into(), key: "k".into() },
            ],
            memory_limit: "1Gi".into(),
            ..form()
        };
        let objects = form.objects();
        let container = &objects[0]["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["command"], json!(["sh", "-c", "echo hi"]));
        assert_eq!(container["env"][1]["valueFrom"]["secretKeyRef"], json!({"name": "s", "key": "k"}));
        assert_eq!(container["resources"], json!({"limits": {"memory": "1Gi"}}));
        assert_eq!(objects[1]["spec"]["ports"], json!([{"port": 80, "targetPort": 8080, "protocol": "TCP"}]));
    }

    #[test]
    fn what_is_missing_is_said_at_its_field() {
        let form = Form {
            replicas: "many".into(),
            ports: vec![Port { container: "x".into(), service: String::new(), protocol: "TCP" }],
            ..Form::default()
        };
        let fields: Vec<_> = form.problems().into_iter().map(|problem| problem.field).collect();
        assert_eq!(fields, ["name", "image", "replicas", "port-0"]);
        let form = Form { name: "Bad_Name".into(), image: "a".into(), ..Form::default() };
        assert_eq!(form.problems()[0].field, "name");
    }

    #[test]
    fn the_servers_complaints_land_at_the_field_they_are_about() {
        for (path, field) in [
            ("metadata.name", "name"),
            ("spec.replicas", "replicas"),
            ("spec.template.spec.containers[0].image", "image"),
            ("spec.template.spec.containers[0].env[2].name", "env-2"),
            ("spec.template.spec.containers[0].ports[1].containerPort", "port-1"),
            ("spec.ports[0].nodePort", "port-0"),
            ("spec.template.spec.containers[0].resources.limits[memory]", "memory-limit"),
            ("spec.template.spec.containers[0].resources.requests", ""),
            ("spec.template.labels", "name"),
            ("spec.strategy", ""),
        ] {
            assert_eq!(field_of(path), field, "{path}");
        }
    }

    #[test]
    fn a_complaint_about_no_field_is_shown_whole() {
        let mut error = ApiError::local("quota exceeded");
        assert_eq!(
            problems_of(&error)[0],
            Problem { field: String::new(), message: "quota exceeded".into() }
        );
        error.causes = vec![Cause { field: "spec.replicas".into(), message: "too many".into() }];
        assert_eq!(problems_of(&error)[0].field, "replicas");
        let taken = ApiError { reason: "AlreadyExists".into(), ..ApiError::local("taken") };
        assert_eq!(problems_of(&taken)[0].field, "name");
    }

    #[test]
    fn a_command_is_split_as_a_shell_would() {
        assert_eq!(words(r#"  a "b c"  d'e f'g '' "#), ["a", "b c", "de fg", ""]);
    }
}
