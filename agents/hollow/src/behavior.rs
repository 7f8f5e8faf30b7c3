//! How simulated runtimes behave: how long steps take and how containers live. The same pod behaves the same every time.
use pilothouse_node::pod_sync::Step;
use pilothouse_node::runtime::fake::Life;
use serde_json::Value;
use std::ops::RangeInclusive;

/// From the shortest to the longest, in the unit its name says.
pub type Span = RangeInclusive<i64>;

#[derive(Clone, Debug)]
pub struct Behavior {
    pub seed: u64,
    pub sandbox_millis: Span,
    pub start_millis: Span,
    pub stop_millis: Span,
    pub remove_millis: Span,
    /// Until a container that was started is ready.
    pub ready_seconds: Span,
    /// How long containers run that are not to run for ever (`restartPolicy` other than `Always`).
    pub run_seconds: Span,
    /// Of a thousand such runs so many fail.
    pub failures: u64,
    /// How long a container takes to end once it was asked to.
    pub stop_seconds: Span,
}

impl Default for Behavior {
    /// What Docker took on a machine with an image that is there.
    fn default() -> Self {
        Self {
            seed: 0,
            sandbox_millis: 80..=250,
            start_millis: 100..=400,
            stop_millis: 5..=20,
            remove_millis: 20..=80,
            ready_seconds: 0..=1,
            run_seconds: 5..=15,
            failures: 0,
            stop_seconds: 0..=1,
        }
    }
}

impl Behavior {
    /// How long a step of a pod takes.
    pub(crate) fn millis(&self, uid: &str, step: &Step) -> i64 {
        let (span, what) = match step {
            Step::CreateSandbox => (&self.sandbox_millis, "sandbox"),
            Step::Start(start) => (&self.start_millis, start.container.as_str()),
            Step::Stop { .. } | Step::Kill { .. } => (&self.stop_millis, "stop"),
            Step::Remove { .. } | Step::RemoveSandbox { .. } => (&self.remove_millis, "remove"),
            Step::Resize { .. } | Step::Finished => return 0,
        };
        drawn(span, hash(self.seed, &[uid, what]))
    }

    /// How the containers of a pod live, attempt by attempt.
    pub(crate) fn lives(&self, pod: &Value) -> impl Fn(&str, u32) -> Life + Send + use<> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let for_ever = text(&pod["spec"]["restartPolicy"]) != "Never"
            && text(&pod["spec"]["restartPolicy"]) != "OnFailure";
        let inits = pod["spec"]["initContainers"].as_array().into_iter().flatten();
        let inits: Box<[String]> =
            inits.filter(|c| c["restartPolicy"] != "Always").map(|c| text(&c["name"])).collect();
        let seed = hash(self.seed, &[&text(&pod["metadata"]["uid"])]);
        let (ready, run, stop) =
            (self.ready_seconds.clone(), self.run_seconds.clone(), self.stop_seconds.clone());
        let failures = self.failures;
        move |container, attempt| {
            let chance = |what: &str| hash(seed, &[container, what]).wrapping_add(u64::from(attempt) * 7919);
            let init = inits.iter().any(|name| name == container);
            let ends = init || !for_ever;
            Life {
                seconds: ends.then(|| if init { 1 } else { drawn(&run, chance("run")) }),
                exit_code: i64::from(ends && !init && chance("fails") % 1000 < failures),
                ready_in: drawn(&ready, chance("ready")),
                stops_in: Some(drawn(&stop, chance("stop"))),
            }
        }
    }
}

fn drawn(span: &Span, chance: u64) -> i64 {
    let width = u64::try_from(span.end() - span.start() + 1).unwrap_or(1).max(1);
    span.start() + i64::try_from(chance % width).unwrap_or(0)
}

/// FNV-1a, with its bits mixed at the end.
pub(crate) fn hash(seed: u64, parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    let start = 0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = bytes.fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 29)
}
