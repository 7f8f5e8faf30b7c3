//! PodSecurity: what the pods of a namespace may do on a node, by the namespace's labels. After
//! <https://kubernetes.io/docs/concepts/security/pod-security-admission/>.
mod checks;

use super::{Context, Operation, Outcome, Request, Rule, done};
use checks::{Finding, Pod};
use pilothouse_api::{FieldErrors, Key, Path, Status, meta};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

const LABEL: &str = "pod-security.kubernetes.io/";
/// The standards are those of the Kubernetes version that the API follows.
const LATEST: u32 = 36;
/// Pods looked at when a namespace's level is raised.
const MOST_PODS: usize = 3000;
/// Subresources that change nothing of what a pod may do.
const HARMLESS: &[&str] = &["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level of the standards in one version; None is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standard {
    level: Level,
    minor: Option<u32>,
}

const ANYTHING: Standard = Standard { level: Level::Privileged, minor: None };

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            Some(minor) => write!(f, "{level}:v1.{minor}"),
            None => write!(f, "{level}:latest"),
        }
    }
}

impl Standard {
    fn findings(&self, pod: &Pod<'_>) -> Vec<Finding> {
        let minor = self.minor.unwrap_or(LATEST).min(LATEST);
        match self.level {
            Level::Privileged => Vec::new(),
            Level::Baseline => checks::baseline(pod, minor),
            Level::Restricted => checks::restricted(pod, minor),
        }
    }

    /// What the standard has against the pod, in one line.
    fn objection(&self, pod: &Pod<'_>) -> Option<String> {
        let findings = self.findings(pod);
        let told = findings.iter().map(|finding| match finding.detail.as_str() {
            "" => finding.reason.to_owned(),
            detail => format!("{} ({detail})", finding.reason),
        });
        let told: Vec<String> = told.collect();
        (!told.is_empty()).then(|| format!("violate PodSecurity \"{self}\": {}", told.join(", ")))
    }
}

/// What a namespace's labels ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    enforce: Standard,
    audit: Standard,
    warn: Standard,
}

impl Policy {
    /// Errors: labels that say nothing. What should enforce then enforces most, what should warn does not.
    fn of(namespace: &Value) -> (Self, FieldErrors) {
        let mut errors = FieldErrors::default();
        let labels = &namespace["metadata"]["labels"];
        let path = Path::new("metadata").child("labels");
        let mut standard = |mode: &str, otherwise: Level| {
            let mut standard = ANYTHING;
            let label = format!("{LABEL}{mode}");
            if let Some(text) = labels[&label].as_str() {
                standard.level = match text {
                    "privileged" => Level::Privileged,
                    "baseline" => Level::Baseline,
                    "restricted" => Level::Restricted,
                    _ => {
                        errors.invalid(
                            &path.key(&label),
                            text,
                            "must be one of privileged, baseline, restricted",
                        );
                        otherwise
                    }
                };
            }
            let label = format!("{label}-version");
            if let Some(text) = labels[&label].as_str().filter(|text| *text != "latest") {
                standard.minor = minor(text);
                if standard.minor.is_none() {
                    errors.invalid(&path.key(&label), text, "must be \"latest\" or \"v1.x\"");
                }
            }
            standard
        };
        let policy = Self {
            enforce: standard("enforce", Level::Restricted),
            audit: standard("audit", Level::Privileged),
            warn: standard("warn", Level::Privileged),
        };
        (policy, errors)
    }
}

/// `v1.25` -> 25.
fn minor(version: &str) -> Option<u32> {
    let digits = version.strip_prefix("v1.")?;
    let plain = digits.bytes().all(|c| c.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|_| plain)
}

/// Where objects of a resource hold what becomes a pod.
fn template<'a>(resource: &str, object: &'a Value) -> Option<&'a Value> {
    let template = match resource {
        "podtemplates" => &object["template"],
        "replicationcontrollers"
        | "replicasets.apps"
        | "deployments.apps"
        | "statefulsets.apps"
        | "daemonsets.apps"
        | "jobs.batch" => &object["spec"]["template"],
        "cronjobs.batch" => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    Some(template).filter(|template| template.is_object())
}

/// Whether an update could make the pod do more than before.
fn matters(new: &Value, old: &Value) -> bool {
    let image = |container: &Value| container["image"].clone();
    let same = |list: &str| {
        let of = |pod: &Value| pod["spec"][list].as_array().cloned().unwrap_or_default();
        let (new, old) = (of(new), of(old));
        new.len() == old.len() && new.iter().zip(&old).all(|(new, old)| image(new) == image(old))
    };
    !["containers", "initContainers", "ephemeralContainers"].into_iter().all(same)
        || new["metadata"]["annotations"] != old["metadata"]["annotations"]
}

pub struct PodSecurity {
    context: Context,
}

impl PodSecurity {
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    fn check(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        let resource = &*request.entry.resource;
        if matches!(request.operation, Operation::Delete | Operation::Connect) {
            return Ok(());
        }
        if resource == "namespaces" && request.subresource.is_empty() {
            return self.check_namespace(request, object);
        }
        let is_pod = resource == "pods";
        let pod = match is_pod {
            true if HARMLESS.contains(&request.subresource) => return Ok(()),
            true => object,
            false if !request.subresource.is_empty() => return Ok(()),
            false => match template(resource, object) {
                Some(template) => template,
                None => return Ok(()),
            },
        };
        if is_pod && request.old.is_some_and(|old| !matters(object, old)) {
            return Ok(());
        }
        let Some(namespace) = self.context.store.get(&Key::new("namespaces", "", request.namespace)) else {
            return Ok(());
        };
        let labelled = namespace.labels.keys().any(|label| label.starts_with(LABEL));
        if !labelled {
            return Ok(());
        }
        let (policy, _) = Policy::of(&namespace.value());
        let pod = Pod { metadata: &pod["metadata"], spec: &pod["spec"] };
        if is_pod && let Some(objection) = policy.enforce.objection(&pod) {
            let why = objection.replacen("violate ", "violates ", 1);
            return Err(Status::forbidden(resource, meta::name(object), why));
        }
        if let Some(objection) = policy.audit.objection(&pod) {
            request.audit("pod-security.kubernetes.io/audit-violations", format!("would {objection}"));
        }
        if let Some(objection) = policy.warn.objection(&pod) {
            request.warn(format!("would {objection}"));
        }
        Ok(())
    }

    fn check_namespace(&self, request: &Request<'_>, namespace: &Value) -> Result<(), Status> {
        let (new, errors) = Policy::of(namespace);
        let (old, old_errors) = match request.old {
            Some(old) => Policy::of(old),
            None => (Policy { enforce: ANYTHING, audit: ANYTHING, warn: ANYTHING }, FieldErrors::default()),
        };
        let told =
            |errors: &FieldErrors| errors.as_slice().iter().map(ToString::to_string).collect::<Vec<_>>();
        if !errors.is_empty() && told(&errors) != told(&old_errors) {
            return Err(Status::invalid("Namespace", "", meta::name(namespace), &errors));
        }
        let relaxed = new.enforce.minor == old.enforce.minor && new.enforce.level <= old.enforce.level;
        if request.operation == Operation::Update && !relaxed && new.enforce.level != Level::Privileged {
            for warning in self.existing_pods(meta::name(namespace), new.enforce) {
                request.warn(warning);
            }
        }
        Ok(())
    }

    /// What a new level would have said to the pods that are there.
    fn existing_pods(&self, namespace: &str, enforce: Standard) -> Vec<String> {
        let pods = self.context.store.list("pods", Some(namespace)).objects;
        let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pod in pods.iter().take(MOST_PODS).map(|pod| pod.value()) {
            let findings = enforce.findings(&Pod { metadata: &pod["metadata"], spec: &pod["spec"] });
            let reasons: Vec<&str> = findings.iter().map(|finding| finding.reason).collect();
            if !reasons.is_empty() {
                by_reason.entry(reasons.join(", ")).or_default().push(meta::name(&pod).to_owned());
            }
        }
        let mut warnings = Vec::new();
        if pods.len() > MOST_PODS {
            warnings.push(format!(
                "new PodSecurity enforce level only checked against the first {MOST_PODS} of {} existing pods",
                pods.len()
            ));
        }
        if !by_reason.is_empty() {
            warnings.push(format!(
                "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\""
            ));
        }
        let mut told: Vec<String> = by_reason
            .into_iter()
            .filter_map(|(reasons, names)| {
                let first = names.iter().min()?;
                Some(match names.len() {
                    1 => format!("{first}: {reasons}"),
                    2 => format!("{first} (and 1 other pod): {reasons}"),
                    count => format!("{first} (and {} other pods): {reasons}", count - 1),
                })
            })
            .collect();
        told.sort();
        warnings.extend(told);
        warnings
    }
}

impl Rule for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn validate<'a>(&'a self, request: &'a Request<'_>, object: &'a Value) -> Outcome<'a> {
        done(self.check(request, object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy(labels: Value) -> (Policy, FieldErrors) {
        let labels: BTreeMap<String, String> = serde_json::from_value(labels).unwrap();
        let labels: BTreeMap<String, String> =
            labels.into_iter().map(|(name, value)| (format!("{LABEL}{name}"), value)).collect();
        Policy::of(&json!({"metadata": {"labels": labels}}))
    }

    #[test]
    fn labels_name_levels_and_versions() {
        let (read, errors) =
            policy(json!({"enforce": "baseline", "enforce-version": "v1.25", "warn": "restricted"}));
        assert!(errors.is_empty());
        let words = [read.enforce, read.audit, read.warn].map(|standard| standard.to_string());
        assert_eq!(words, ["baseline:v1.25", "privileged:latest", "restricted:latest"]);
    }

    #[test]
    fn labels_that_say_nothing_enforce_most_and_are_told() {
        let (read, errors) = policy(json!({"enforce": "strict", "warn": "strict", "warn-version": "v1.025"}));
        assert_eq!((read.enforce.level, read.warn.level), (Level::Restricted, Level::Privileged));
        let told: Vec<String> = errors.as_slice().iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                r#"metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted"#,
                r#"metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: "strict": must be one of privileged, baseline, restricted"#,
                r#"metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: "v1.025": must be "latest" or "v1.x""#,
            ]
        );
    }

    #[test]
    fn an_update_matters_where_it_may_bring_something_in() {
        let pod = |image: &str, label: &str| json!({"metadata": {"labels": {"a": label}}, "spec": {"containers": [{"image": image}]}});
        assert!(!matters(&pod("a", "x"), &pod("a", "y")));
        assert!(matters(&pod("a", "x"), &pod("b", "x")));
    }
}
