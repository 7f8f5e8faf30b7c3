//! What loads come to.
use super::*;

fn start() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

/// A pod that requests 100m, started an hour ago and ready since.
fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}}}]},
        "status": {
            "phase": "Running", "startTime": "2026-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"}],
        },
    })
}

fn autoscaler(behavior: Value) -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": 50});
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "minReplicas": 1, "maxReplicas": 20, "behavior": behavior,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    })
}

struct Scene {
    autoscaler: Value,
    replicas: i64,
    pods: Vec<Value>,
    /// Millicores by pod; None: the metric is missing.
    cpu: Vec<Option<i64>>,
    answers: Answers,
    memory: Memory,
    now: Timestamp,
}

impl Scene {
    fn new(cpu: &[Option<i64>]) -> Self {
        let pods: Vec<Value> = (0..cpu.len()).map(|i| pod(&format!("p{i}"))).collect();
        let (replicas, cpu) = (cpu.len() as i64, cpu.to_vec());
        Self {
            autoscaler: autoscaler(json!({})),
            replicas,
            pods,
            cpu,
            answers: Answers::new(),
            memory: Memory::default(),
            now: start(),
        }
    }

    fn decide(&mut self) -> Verdict {
        let sample = |milli: i64| Sample { milli, taken_at: self.now, window_seconds: 30 };
        let samples =
            self.cpu.iter().enumerate().filter_map(|(i, milli)| Some((format!("p{i}"), sample((*milli)?))));
        let metrics = [("cpu".to_owned(), samples.collect())].into();
        let pods: Vec<&Value> = self.pods.iter().collect();
        let verdict = decide(&Observed {
            autoscaler: &self.autoscaler,
            replicas: self.replicas,
            pods: &pods,
            metrics: &metrics,
            selector: "app=web",
            answers: &self.answers,
            memory: &self.memory,
            now: self.now,
        });
        self.memory = verdict.memory.clone();
        self.autoscaler["status"] = verdict.status.clone();
        verdict
    }

    /// All pods use so much from now on, and there are as many as were decided.
    fn becomes(&mut self, replicas: i64, milli: i64, seconds: i64) {
        self.replicas = replicas;
        self.pods = (0..replicas).map(|i| pod(&format!("p{i}"))).collect();
        self.cpu = vec![Some(milli); replicas as usize];
        self.now = later(self.now, seconds);
    }
}

fn reason(verdict: &Verdict, r#type: &str) -> String {
    let object = json!({"status": verdict.status});
    condition(&object, r#type).map(|c| text(c, "reason").to_owned()).unwrap_or_default()
}

#[test]
fn the_size_follows_the_load_and_small_differences_are_borne() {
    let rows: [(&[Option<i64>], i64); 9] = [
        (&[Some(50), Some(50)], 2),
        (&[Some(54), Some(54)], 2),
        (&[Some(57), Some(57)], 3),
        (&[Some(100), Some(100)], 4),
        // No faster than double, or four more.
        (&[Some(1000)], 5),
        // A pod without metric is idle for growing: (100 + 0) / 2 is what is wanted.
        (&[Some(100), None], 2),
        (&[Some(200), None], 4),
        // And busy for shrinking.
        (&[Some(10), Some(10), None], 3),
        (&[Some(10), Some(10), Some(10), Some(10), Some(10), None], 6),
    ];
    for (cpu, expected) in rows {
        let verdict = Scene::new(cpu).decide();
        assert_eq!(verdict.replicas, expected, "{cpu:?}: {}", verdict.status);
    }
}

#[test]
fn shrinking_is_slept_on() {
    let mut scene = Scene::new(&[Some(50); 8]);
    assert_eq!(scene.decide().replicas, 8);
    scene.becomes(8, 10, 15);
    let verdict = scene.decide();
    assert_eq!((verdict.replicas, reason(&verdict, "AbleToScale")), (8, "ScaleDownStabilized".into()));
    scene.becomes(8, 10, 284);
    assert_eq!(scene.decide().replicas, 8);
    scene.becomes(8, 10, 1);
    let verdict = scene.decide();
    assert_eq!((verdict.replicas, reason(&verdict, "AbleToScale")), (2, "SucceededRescale".into()));
    assert_eq!(verdict.reason.as_deref(), Some("All metrics below target"));
    assert_eq!(
        verdict.status["currentMetrics"][0]["resource"]["current"],
        json!({"averageValue": "10m", "averageUtilization": 10})
    );
}

#[test]
fn policies_bound_the_rate_over_their_period() {
    let up = json!({"scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]}});
    let mut scene = Scene::new(&[Some(500), Some(500)]);
    scene.autoscaler = autoscaler(up);
    let verdict = scene.decide();
    assert_eq!((verdict.replicas, reason(&verdict, "ScalingLimited")), (4, "ScaleUpLimit".into()));
    scene.becomes(4, 500, 30);
    assert_eq!(scene.decide().replicas, 4, "two were added in this minute");
    scene.becomes(4, 500, 30);
    assert_eq!(scene.decide().replicas, 6);

    let down = json!({"scaleDown": {
        "stabilizationWindowSeconds": 0, "selectPolicy": "Min",
        "policies": [{"type": "Pods", "value": 3, "periodSeconds": 60}, {"type": "Percent", "value": 10, "periodSeconds": 60}],
    }});
    let mut scene = Scene::new(&[Some(1); 20]);
    scene.autoscaler = autoscaler(down);
    let verdict = scene.decide();
    assert_eq!((verdict.replicas, reason(&verdict, "ScalingLimited")), (18, "ScaleDownLimit".into()));
    let mut scene = Scene::new(&[Some(1); 20]);
    scene.autoscaler =
        autoscaler(json!({"scaleDown": {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0}}));
    assert_eq!(scene.decide().replicas, 20);
}

#[test]
fn the_bounds_hold_and_zero_is_off() {
    let mut scene = Scene::new(&[Some(500); 15]);
    let verdict = scene.decide();
    assert_eq!((verdict.replicas, reason(&verdict, "ScalingLimited")), (20, "TooManyReplicas".into()));
    let mut scene = Scene::new(&[Some(0); 3]);
    scene.autoscaler = autoscaler(json!({"scaleDown": {"stabilizationWindowSeconds": 0}}));
    scene.autoscaler["spec"]["minReplicas"] = 2.into();
    let verdict = scene.decide();
    assert_eq!((verdict.replicas, reason(&verdict, "ScalingLimited")), (2, "TooFewReplicas".into()));
    for (replicas, expected) in [(25, 20), (1, 2), (0, 0)] {
        scene.replicas = replicas;
        assert_eq!(scene.decide().replicas, expected);
    }
    assert_eq!(reason(&scene.decide(), "ScalingActive"), "ScalingDisabled");
}

#[test]
fn pods_that_start_or_end_do_not_mislead() {
    // One that starts burns CPU: the load alone would ask for four.
    let mut scene = Scene::new(&[Some(60), Some(400)]);
    scene.pods[1]["status"]["startTime"] = "2026-01-01T00:59:00Z".into();
    scene.pods[1]["status"]["conditions"][0] =
        json!({"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:59:00Z"});
    assert_eq!(scene.decide().replicas, 2);
    let mut scene = Scene::new(&[Some(50), Some(50), Some(400)]);
    scene.pods[2]["metadata"]["deletionTimestamp"] = "2026-01-01T00:59:00Z".into();
    scene.replicas = 2;
    assert_eq!(scene.decide().replicas, 2);
    let mut scene = Scene::new(&[Some(50), None]);
    scene.pods[1]["status"]["phase"] = "Pending".into();
    assert_eq!(scene.decide().replicas, 2, "one that waits for a node is not missing");
}

#[test]
fn without_metrics_or_requests_nothing_changes_and_it_is_told() {
    let mut scene = Scene::new(&[None, None]);
    let verdict = scene.decide();
    assert_eq!((verdict.replicas, reason(&verdict, "ScalingActive")), (2, "FailedGetResourceMetric".into()));
    let mut scene = Scene::new(&[Some(500)]);
    scene.pods[0]["spec"]["containers"][0]["resources"] = json!({});
    let verdict = scene.decide();
    assert_eq!((verdict.replicas, reason(&verdict, "ScalingActive")), (1, "FailedGetResourceMetric".into()));
    // A second metric that cannot be had lets it grow, but not shrink.
    let other = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
    for (milli, expected) in [(100, 4), (1, 2)] {
        let mut scene = Scene::new(&[Some(milli); 2]);
        scene.autoscaler["spec"]["metrics"].as_array_mut().unwrap().push(other.clone());
        assert_eq!(scene.decide().replicas, expected);
    }
}

/// One metric of an autoscaler, and what was answered to its question.
fn asks(metric: Value, answer: Option<Vec<(&str, i64)>>) -> Scene {
    let mut scene = Scene::new(&[Some(50), Some(50)]);
    scene.autoscaler["spec"]["metrics"] = json!([metric]);
    scene.autoscaler["metadata"]["namespace"] = "shop".into();
    let reading = |(of, milli): (&str, i64)| Reading {
        of: of.to_owned(),
        sample: Sample { milli, taken_at: scene.now, window_seconds: 30 },
    };
    if let Some(answer) = answer {
        let readings = answer.into_iter().map(reading).collect();
        let question =
            questions::question("shop", &scene.autoscaler["spec"]["metrics"][0], "app=web").unwrap();
        scene.answers.insert(question, Ok(readings));
    }
    scene
}

#[test]
fn metrics_that_others_measure_are_asked_for_and_followed() {
    let named = |name: &str| json!({"name": name, "selector": {"matchLabels": {"verb": "GET"}}});
    let target = |field: &str, amount: &str| json!({"type": if field == "value" { "Value" } else { "AverageValue" }, field: amount});
    let pods = json!({"type": "Pods", "pods": {"metric": named("requests"), "target": target("averageValue", "10")}});
    let object = |target: Value| {
        let described = json!({"kind": "Ingress", "name": "front", "apiVersion": "networking.k8s.io/v1"});
        json!({"type": "Object", "object": {"metric": named("hits"), "describedObject": described, "target": target}})
    };
    let external =
        |target: Value| json!({"type": "External", "external": {"metric": named("queue"), "target": target}});

    let mut scene = asks(pods.clone(), Some(vec![("p0", 30_000), ("p1", 10_000)]));
    let asked = Question::Pods {
        namespace: "shop".into(),
        selector: "app=web".into(),
        metric: "requests".into(),
        metric_selector: "verb=GET".into(),
    };
    assert_eq!(scene.answers.keys().collect::<Vec<_>>(), [&asked]);
    let verdict = scene.decide();
    assert_eq!((verdict.replicas, verdict.reason.as_deref()), (4, Some("pods metric requests above target")));
    let told = &verdict.status["currentMetrics"][0];
    assert_eq!(
        (&told["pods"]["current"]["averageValue"], &told["pods"]["metric"]["name"]),
        (&json!("20"), &json!("requests"))
    );

    let rows = [
        // Three times the target, by two ready pods.
        (object(target("value", "10")), vec![("front", 30_000)], 6),
        (object(target("averageValue", "10")), vec![("front", 30_000)], 3),
        (external(target("value", "100")), vec![("", 100_000), ("", 105_000)], 5),
        (external(target("averageValue", "20")), vec![("", 41_000)], 2),
        (external(target("averageValue", "20")), vec![("", 81_000)], 5),
    ];
    for (metric, answer, expected) in rows {
        let verdict = asks(metric, Some(answer)).decide();
        assert_eq!(verdict.replicas, expected, "{}", verdict.status);
    }
    for (metric, expected) in [
        (pods, "FailedGetPodsMetric"),
        (object(target("value", "1")), "FailedGetObjectMetric"),
        (external(target("value", "1")), "FailedGetExternalMetric"),
    ] {
        let verdict = asks(metric, None).decide();
        assert_eq!((verdict.replicas, reason(&verdict, "ScalingActive").as_str()), (2, expected));
    }
}

mod acting {
    use super::super::HorizontalPodAutoscalers;
    use crate::Controller;
    use crate::object::condition;
    use crate::world::{World, deployment};
    use pilothouse_api::Key;
    use pilothouse_api::metrics::{ContainerUsage, Measured, NodeUsage, PodUsage, Usage};
    use serde_json::{Value, json};
    use std::sync::Arc;

    const KIND: &str = "horizontal-pod-autoscaler";

    fn autoscaler(name: &str, reference: Value) -> Value {
        let target = json!({"type": "Utilization", "averageUtilization": 50});
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name}, "spec": {
            "minReplicas": 1, "maxReplicas": 10, "scaleTargetRef": reference,
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]}})
    }

    /// Every pod runs and uses so much.
    fn load(world: &mut World, milli: u64) {
        world.run_pods();
        let pods = world.all("pods");
        for (pod, _) in &pods {
            world.edit_status(pod, |pod| pod["status"]["startTime"] = "2025-01-01T00:00:00Z".into());
        }
        let usage = Usage { cpu_nanoseconds: 0, cpu_nanocores: milli * 1_000_000, memory_bytes: 1 };
        let containers = vec![ContainerUsage { name: "main".into(), usage }];
        let pod = |(_, pod): &(Key, Value)| PodUsage {
            uid: pod["metadata"]["uid"].as_str().unwrap().into(),
            containers: containers.clone(),
        };
        let pods = pods.iter().map(pod).collect();
        let look = NodeUsage { taken_at: world.now, window_milliseconds: 10_000, node: usage, pods };
        let nodes: Vec<String> = world.all("nodes").iter().map(|(key, _)| key.name.to_string()).collect();
        let look = Arc::new(look.sorted());
        let measured: Measured = nodes.iter().map(|node| (node.as_str().into(), look.clone())).collect();
        world.cluster.measure(measured);
    }

    fn round(world: &mut World, milli: u64) -> i64 {
        load(world, milli);
        world.pass(400);
        load(world, milli);
        world.pass(15);
        world.settle();
        world.objects[&Key::new("deployments.apps", "default", "web")]["spec"]["replicas"].as_i64().unwrap()
    }

    fn web() -> Value {
        let mut web = deployment("web", 2, "web:1");
        let requests = json!({"requests": {"cpu": "100m"}});
        web["spec"]["template"]["spec"]["containers"][0]["resources"] = requests;
        web
    }

    #[test]
    fn a_deployment_grows_under_load_and_shrinks_after_it() {
        let mut world = World::new();
        world.alive.insert("n1".into());
        world.create(web());
        let reference = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
        let key = world.create(autoscaler("web", reference));
        world.settle();
        assert_eq!(condition(world.get(&key), "ScalingActive").unwrap()["reason"], "FailedGetResourceMetric");
        assert_eq!(round(&mut world, 50), 2);
        assert_eq!(condition(world.get(&key), "ScalingActive").unwrap()["reason"], "ValidMetricFound");
        assert_eq!(round(&mut world, 200), 6, "four more at a time");
        assert_eq!(round(&mut world, 1), 1);
        assert!(
            world.events.iter().any(|event| event.contains("New size: 6; reason: cpu resource utilization"))
        );
    }

    #[test]
    fn custom_kinds_are_scaled_where_their_definition_says() {
        let mut world = World::new();
        let scale = json!({"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size", "labelSelectorPath": ".status.selector"});
        let definition = json!({"spec": {"group": "example.com", "names": {"kind": "Shop", "plural": "shops"},
            "versions": [{"name": "v1", "subresources": {"scale": scale}}]}});
        let shop = json!({"apiVersion": "example.com/v1", "kind": "Shop", "metadata": {"name": "one", "namespace": "default", "uid": "s"},
            "spec": {"size": 20}, "status": {"size": 20, "selector": "app=shop"}});
        let definitions = Key::new("customresourcedefinitions.apiextensions.k8s.io", "", "shops.example.com");
        world.store(&definitions, Some(definition));
        let place = Key::new("shops.example.com", "default", "one");
        world.store(&place, Some(shop));
        let reference = json!({"apiVersion": "example.com/v1beta1", "kind": "Shop", "name": "one"});
        let key = world.create(autoscaler("shop", reference));
        let plan = world.plan(KIND, &key);
        let scaled = plan.actions.iter().find(|action| action.key() == Some(&place));
        let Some(crate::Action::Update { object, part: crate::Part::Scale, .. }) = scaled else {
            panic!("{plan:?}")
        };
        assert_eq!((&object["spec"]["size"], &object["status"]["size"]), (&json!(10), &json!(20)));
    }

    #[test]
    fn what_cannot_be_scaled_is_said() {
        let mut world = World::new();
        world.create(web());
        let rows = [
            (
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "no"}),
                "AbleToScale",
                "FailedGetScale",
            ),
            (json!({"apiVersion": "x.io/v1", "kind": "Odd", "name": "no"}), "AbleToScale", "FailedGetScale"),
            (
                json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "no"}),
                "AbleToScale",
                "FailedGetScale",
            ),
        ];
        for (at, (reference, r#type, reason)) in rows.into_iter().enumerate() {
            let key = world.create(autoscaler(&format!("a{at}"), reference));
            world.settle();
            assert_eq!(condition(world.get(&key), r#type).unwrap()["reason"], reason);
        }
        let reference = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
        let first = world.create(autoscaler("first", reference.clone()));
        world.create(autoscaler("second", reference));
        world.settle();
        world.visit_everything();
        world.settle();
        assert_eq!(condition(world.get(&first), "ScalingActive").unwrap()["reason"], "AmbiguousSelector");
    }

    #[test]
    fn its_own_status_does_not_wake_it() {
        let mut world = World::new();
        world.create(web());
        let key = world
            .create(autoscaler("web", json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"})));
        world.settle();
        let object = Arc::new(world.get(&key).clone());
        let change = pilothouse_api::Observed {
            key,
            revision: 9,
            previous: Some(object.clone()),
            object: Some(object),
            bytes: Default::default(),
        };
        assert!(HorizontalPodAutoscalers.keys(&change, &world.cluster).is_empty());
    }
}
