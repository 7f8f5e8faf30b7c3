//! What a request wants to do, as the authorizers see it.
use pilothouse_api::Status;

/// Kubernetes' `authorizer.Attributes`, without the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create` …; for paths the HTTP method in lower case.
    pub verb: String,
    pub group: String,
    pub version: String,
    /// The plural; empty for a path that is no resource.
    pub resource: String,
    pub subresource: String,
    /// Empty: all namespaces, or cluster scope.
    pub namespace: String,
    /// Empty where the request names none.
    pub name: String,
    /// `/version`, for requests that are no resource.
    pub path: String,
    /// The field selector of a list, watch or deletecollection: a node may watch only its own pods.
    pub field_selector: String,
}

impl Attributes {
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    /// `pods/log`, as rules name it.
    pub fn full_resource(&self) -> String {
        match &*self.subresource {
            "" => self.resource.clone(),
            subresource => format!("{}/{subresource}", self.resource),
        }
    }

    /// `pods`, `deployments.apps`.
    pub fn group_resource(&self) -> String {
        match &*self.group {
            "" => self.resource.clone(),
            group => format!("{}.{group}", self.resource),
        }
    }

    /// The refusal, worded as apiserver's `responsewriters.Forbidden` words it.
    pub fn forbidden(&self, user: &str, reason: &str) -> Status {
        let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        if !self.is_resource() {
            let why = format!("User {user:?} cannot {} path {:?}{because}", self.verb, self.path);
            return Status::new(pilothouse_api::Reason::Forbidden, format!("forbidden: {why}"));
        }
        let scope = match &*self.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        let why = format!(
            "User {user:?} cannot {} resource {:?} in API group {:?} {scope}{because}",
            self.verb,
            self.full_resource(),
            self.group
        );
        Status::forbidden(&self.group_resource(), &self.name, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_in_kubernetes() {
        let pods = Attributes {
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "y".into(),
            ..Default::default()
        };
        assert_eq!(
            pods.forbidden("x", "").message,
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "y""#
        );
        let scale = Attributes {
            verb: "patch".into(),
            group: "apps".into(),
            resource: "deployments".into(),
            subresource: "scale".into(),
            name: "web".into(),
            ..Default::default()
        };
        assert_eq!(
            scale.forbidden("x", "").message,
            r#"deployments.apps "web" is forbidden: User "x" cannot patch resource "deployments/scale" in API group "apps" at the cluster scope"#
        );
        let path = Attributes { verb: "get".into(), path: "/metrics".into(), ..Default::default() };
        assert_eq!(path.forbidden("x", "").message, r#"forbidden: User "x" cannot get path "/metrics""#);
    }
}
