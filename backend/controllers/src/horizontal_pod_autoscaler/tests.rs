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
