//! What flow control tells in Prometheus' text form, by the names that Kubernetes gives.
use super::{FlowControl, Priority};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Values of one level, each with the labels that it has beside the level's name.
type Rows<'a> = Vec<(&'a str, u64)>;

impl FlowControl {
    pub fn metrics(&self, out: &mut String) {
        let table = self.0.table.load();
        let mut family =
            |name: &str, kind: &str, help: &str, rows: &dyn Fn(&Arc<Priority>) -> Rows<'static>| {
                let name = format!("apiserver_flowcontrol_{name}");
                let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}"); // a String takes all
                for level in table.levels.values() {
                    for (more, value) in rows(level) {
                        let _ = writeln!(out, "{name}{{priority_level={:?}{more}}} {value}", level.name);
                    }
                }
            };
        let gauge = "gauge";
        family("nominal_limit_seats", gauge, "Nominal number of execution seats", &|level| {
            let nominal = level.limited.as_ref().map(|limit| limit.nominal.load(Ordering::Relaxed));
            vec![("", nominal.unwrap_or(0).into())]
        });
        family("current_limit_seats", gauge, "Current number of execution seats", &|level| {
            level.limited.iter().map(|limit| ("", limit.level.lock().seats().into())).collect()
        });
        family("current_executing_seats", gauge, "Seats that requests occupy", &|level| {
            level.limited.iter().map(|limit| ("", limit.level.lock().in_use().into())).collect()
        });
        family("current_executing_requests", gauge, "Requests that run", &|level| {
            vec![("", level.running.load(Ordering::Relaxed).into())]
        });
        family("current_inqueue_requests", gauge, "Requests that wait", &|level| {
            level.limited.iter().map(|limit| ("", limit.level.lock().waiting().into())).collect()
        });
        let counter = "counter";
        family("dispatched_requests_total", counter, "Requests that were let in", &|level| {
            vec![("", level.dispatched.load(Ordering::Relaxed))]
        });
        family("rejected_requests_total", counter, "Requests that were refused", &|level| {
            vec![
                (",reason=\"queue-full\"", level.refused.load(Ordering::Relaxed)),
                (",reason=\"time-out\"", level.timed_out.load(Ordering::Relaxed)),
            ]
        });
    }
}
