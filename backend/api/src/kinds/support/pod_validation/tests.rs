//! Rows of wrong pods and what each is told.
use super::super::pod_spec;
use super::*;
use serde_json::{Value, json};

/// The errors of a good pod with one thing changed.
fn errors_of(pointer: &str, value: Value) -> Vec<String> {
    let mut spec = json!({
        "containers": [
            {"name": "a", "image": "a:1", "ports": [{"containerPort": 80, "name": "web"}], "env": [{"name": "A"}],
             "volumeMounts": [{"name": "v", "mountPath": "/v"}], "resources": {"limits": {"cpu": "1"}},
             "livenessProbe": {"httpGet": {"port": "web"}}},
            {"name": "b", "image": "b:1"}],
        "volumes": [{"name": "v", "emptyDir": {}}],
    });
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = spec.pointer_mut(parent).unwrap();
    match (parent, value) {
        (Value::Object(fields), Value::Null) => drop(fields.remove(field)),
        (Value::Object(fields), value) => drop(fields.insert(field.into(), value)),
        (Value::Array(list), value) => list.push(value),
        _ => panic!("{pointer} leads nowhere"),
    }
    pod_spec::default(&mut spec);
    let mut errors = FieldErrors::default();
    validate(&serde_json::from_value(spec).unwrap(), &Path::new("spec"), &mut errors);
    errors.as_slice().iter().map(ToString::to_string).collect()
}

#[test]
fn a_good_pod_has_no_errors() {
    assert_eq!(errors_of("/hostname", "web".into()), Vec::<String>::new());
}

#[test]
fn every_wrong_field_is_named_with_what_is_wrong() {
    let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    let bad_name = format!("spec.containers[0].name: Invalid value: \"A_\": {label}");
    let rows: &[(&str, Value, &[&str])] = &[
        ("/containers", json!([]), &["spec.containers: Required value"]),
        ("/containers/0/image", Value::Null, &["spec.containers[0].image: Required value"]),
        ("/containers/0/name", "A_".into(), &[&bad_name]),
        ("/containers/0/name", "b".into(), &["spec.containers[1].name: Duplicate value: \"b\""]),
        (
            "/containers/0/ports/0/containerPort",
            70000.into(),
            &[
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            "/containers/0/ports/-",
            json!({"containerPort": 81, "name": "web"}),
            &["spec.containers[0].ports[1].name: Duplicate value: \"web\""],
        ),
        (
            "/containers/0/ports/0/protocol",
            "HTTP".into(),
            &[
                "spec.containers[0].ports[0].protocol: Unsupported value: \"HTTP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        ),
        (
            "/containers/0/imagePullPolicy",
            "Sometimes".into(),
            &[
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ],
        ),
        (
            "/containers/0/env/0/name",
            "A=B".into(),
            &[
                "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name must consist only of printable ASCII characters other than '='",
            ],
        ),
        (
            "/containers/0/envFrom",
            json!([{}]),
            &[
                "spec.containers[0].envFrom[0]: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
            ],
        ),
        (
            "/containers/0/volumeMounts/0/name",
            "w".into(),
            &["spec.containers[0].volumeMounts[0].name: Not found: \"w\""],
        ),
        (
            "/containers/0/volumeMounts/-",
            json!({"name": "v", "mountPath": "/v"}),
            &["spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/v\": must be unique"],
        ),
        (
            "/containers/0/resources/requests",
            json!({"cpu": "2"}),
            &[
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ],
        ),
        (
            "/containers/0/resources/limits/memory",
            "-1Gi".into(),
            &[
                "spec.containers[0].resources.limits[memory]: Invalid value: \"-1Gi\": must be greater than or equal to 0",
                "spec.containers[0].resources.requests[memory]: Invalid value: \"-1Gi\": must be greater than or equal to 0",
            ],
        ),
        (
            "/containers/0/livenessProbe/httpGet",
            Value::Null,
            &["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
        ),
        (
            "/containers/0/livenessProbe/tcpSocket",
            json!({"port": 1}),
            &[
                "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            ],
        ),
        (
            "/containers/0/livenessProbe/successThreshold",
            2.into(),
            &["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
        ),
        (
            "/volumes/-",
            json!({"name": "v", "emptyDir": {}}),
            &["spec.volumes[1].name: Duplicate value: \"v\""],
        ),
        (
            "/volumes/-",
            json!({"name": "w", "secret": {}}),
            &["spec.volumes[1].secret.secretName: Required value"],
        ),
        (
            "/volumes/0/hostPath",
            json!({"path": "/x"}),
            &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            "/restartPolicy",
            "Maybe".into(),
            &[
                "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ],
        ),
        (
            "/initContainers",
            json!([{"name": "i", "image": "i:1", "readinessProbe": {"exec": {"command": ["x"]}}}]),
            &[
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ],
        ),
        (
            "/tolerations",
            json!([{"key": "a", "operator": "Exists", "value": "b"}]),
            &[
                "spec.tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'",
            ],
        ),
        (
            "/topologySpreadConstraints",
            json!([{"maxSkew": 0, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]),
            &["spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero"],
        ),
        (
            "/dnsPolicy",
            "None".into(),
            &[
                "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
            ],
        ),
        ("/terminationGracePeriodSeconds", (-1).into(), &[]),
        ("/hostNetwork", true.into(), &[]),
        (
            "/securityContext",
            json!({"sysctls": [{"name": "kernel/shmmax", "value": "1"}, {"name": "foo-", "value": "1"}, {"name": "bar..", "value": "1"}]}),
            &[
                "spec.securityContext.sysctls[1].name: Invalid value: \"foo-\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
                "spec.securityContext.sysctls[2].name: Invalid value: \"bar..\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            ],
        ),
    ];
    for (pointer, value, expected) in rows {
        assert_eq!(errors_of(pointer, value.clone()), *expected, "{pointer}");
    }
}
