//! Rules of a container's probes and lifecycle hooks (`validateProbe`, `validateLifecycle`).
use super::container_validation::{Role, port, port_number};
use super::{one_of, validate_count};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

/// The probes and hooks of one container.
pub fn validate(container: &Container, role: Role, path: &Path, errors: &mut FieldErrors) {
    let sidecar = container.restart_policy.as_deref() == Some("Always");
    let may_probe = role == Role::Main || sidecar;
    if role == Role::Init && !sidecar {
        let policies = ["Always", "Never", "OnFailure"];
        one_of(container.restart_policy.as_deref(), &policies, &path.child("restartPolicy"), errors);
    }
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (field, probe) in probes {
        let Some(probe) = probe else { continue };
        if may_probe {
            validate_probe(probe, field, &path.child(field), errors);
        } else {
            errors.forbidden(
                &path.child(field),
                "may not be set for init containers without restartPolicy=Always",
            );
        }
    }
    let Some(lifecycle) = &container.lifecycle else {
        return;
    };
    let path = path.child("lifecycle");
    if !may_probe {
        errors.forbidden(&path, "may not be set for init containers without restartPolicy=Always");
        return;
    }
    for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(hook) = hook {
            validate_hook(hook, &path.child(field), errors);
        }
    }
}

fn validate_probe(probe: &Probe, name: &str, path: &Path, errors: &mut FieldErrors) {
    validate_handler(
        probe.exec.as_ref().map(|e| e.command.as_deref().unwrap_or_default()),
        probe.http_get.as_ref(),
        probe.tcp_socket.as_ref().map(|t| &t.port),
        probe.grpc.as_ref().map(|g| g.port),
        path,
        errors,
    );
    let counts = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (field, value) in counts {
        validate_count(value, &path.child(field), errors);
    }
    if name != "readinessProbe" && probe.success_threshold.is_some_and(|t| t > 1) {
        errors.invalid(&path.child("successThreshold"), json!(probe.success_threshold), "must be 1");
    }
    if let Some(seconds) = probe.termination_grace_period_seconds {
        let path = path.child("terminationGracePeriodSeconds");
        if name == "readinessProbe" {
            errors.invalid(&path, seconds, "must not be set for readinessProbes");
        } else if seconds <= 0 {
            errors.invalid(&path, seconds, "must be greater than 0");
        }
    }
}

fn validate_hook(hook: &LifecycleHandler, path: &Path, errors: &mut FieldErrors) {
    if let Some(sleep) = &hook.sleep {
        if sleep.seconds < 0 {
            errors.invalid(&path.child("sleep"), sleep.seconds, "must be greater than or equal to 0");
        }
        return;
    }
    validate_handler(
        hook.exec.as_ref().map(|e| e.command.as_deref().unwrap_or_default()),
        hook.http_get.as_ref(),
        hook.tcp_socket.as_ref().map(|t| &t.port),
        None,
        path,
        errors,
    );
}

/// What a probe or a hook does: exactly one thing.
fn validate_handler(
    exec: Option<&[String]>,
    http: Option<&HTTPGetAction>,
    tcp: Option<&IntOrString>,
    grpc: Option<i32>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let set = [
        ("exec", exec.is_some()),
        ("httpGet", http.is_some()),
        ("tcpSocket", tcp.is_some()),
        ("grpc", grpc.is_some()),
    ];
    let mut set = set.iter().filter(|(_, set)| *set);
    if set.next().is_none() {
        errors.required(path, "must specify a handler type");
    }
    for (field, _) in set {
        errors.forbidden(&path.child(field), "may not specify more than 1 handler type");
    }
    if exec.is_some_and(<[String]>::is_empty) {
        errors.required(&path.child("exec").child("command"), "");
    }
    if let Some(http) = http {
        let path = path.child("httpGet");
        if http.path.as_deref().is_some_and(str::is_empty) {
            errors.required(&path.child("path"), "");
        }
        port(&http.port, &path.child("port"), errors);
        one_of(http.scheme.as_deref(), &["HTTP", "HTTPS"], &path.child("scheme"), errors);
    }
    if let Some(number) = tcp {
        port(number, &path.child("tcpSocket").child("port"), errors);
    }
    if let Some(number) = grpc {
        port_number(number, &path.child("grpc").child("port"), errors);
    }
}
